"""Reading data from any storage, in standardised batches."""
