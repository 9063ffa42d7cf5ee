"""Bulk annotation of any number of images: sharded, resumable, each image exactly once."""
