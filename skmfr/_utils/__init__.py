"""What all rooms may use, and that knows none of them."""
