"""Published datasets, and what is read from them."""
