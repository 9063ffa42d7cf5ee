"""Contact sheets of labelled faces, as a page that a browser opens from disk: ``pipnet data view``."""
