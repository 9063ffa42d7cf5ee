"""Annotated faces, and the file formats that hold them."""
