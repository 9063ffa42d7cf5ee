"""Readers of the official collections, one module each, in the layout they are handed out in.

A reader takes the collection's folder and the name of a part, and returns its faces. It never guesses: what
is missing is an error that names it. Collections whose pictures are inside an archive or a video have an
``unpack`` besides, which writes the pictures out; see `pipnet.data.prepare`.
"""
