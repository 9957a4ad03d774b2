"""Reading data: anywhere they are kept, in batches, standardised."""
