"""Contact sheets of labeled faces as a page."""
