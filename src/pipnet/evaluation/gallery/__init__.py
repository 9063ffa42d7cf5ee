"""The gallery: labeled faces as a page to open in a browser."""
