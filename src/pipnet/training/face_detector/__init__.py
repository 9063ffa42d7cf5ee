"""Training of the face detector ``pipnet-face``: label photos, compose scenes, train."""
