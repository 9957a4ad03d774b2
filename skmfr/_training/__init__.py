"""From checked data to fitted arrays."""
