"""Detection over HTTP: ``pipnet serve``. FastAPI and uvicorn are imported only here (extra ``serve``)."""
