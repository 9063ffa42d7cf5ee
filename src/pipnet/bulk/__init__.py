"""Annotation of any number of pictures: by shards, resumable, with nothing lost and nothing twice."""
