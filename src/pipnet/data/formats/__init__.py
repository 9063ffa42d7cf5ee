"""Labelled faces as files: one module a format, each with a reader and a writer."""
