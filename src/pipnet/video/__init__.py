"""Moving pictures: reading, frame by frame."""
