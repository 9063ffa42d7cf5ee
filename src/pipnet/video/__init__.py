"""Moving pictures: files and cameras, frame by frame."""
