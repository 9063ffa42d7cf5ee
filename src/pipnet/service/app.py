"""The web application: routes, answers and their description."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

import pipnet
from pipnet.errors import one_line
from pipnet.inference.landmarker import FaceLandmarker
from pipnet.service import descriptions
from pipnet.service.config import ServiceConfig
from pipnet.service.engine import Answer, Engine
from pipnet.service.metrics import Metrics
from pipnet.service.middleware import CountRequests, DrainBodies
from pipnet.service.request_error import RequestError
from pipnet.service.uploads import Upload, read_uploads

_PATHS = ("/detect", "/detect/batch", "/health", "/ready", "/metrics", "/openapi.json")
_bearer = HTTPBearer(auto_error=False, description="The token of the service, if it has one.")
_credentials = Depends(_bearer)


class Service:
    """The state of a running service."""

    def __init__(
        self, landmarker: FaceLandmarker, config: ServiceConfig, token: str | None, threads: int
    ) -> None:
        self.config, self.metrics = config, Metrics()
        self.engine = Engine(landmarker, config, self.metrics, threads)
        self.is_stopping = False
        self._token = None if token is None else token.encode()
        self._free = config.max_requests
        metadata = landmarker.metadata
        self.facts = {"model": metadata.name, "scheme": metadata.scheme.name, "version": pipnet.__version__}

    def check_token(self, given: str | None) -> None:
        """Refuse a request without the token, in a time that does not depend on how much of it is right.

        Raises:
            RequestError: another token, or none.
        """
        if self._token is not None and not hmac.compare_digest((given or "").encode(), self._token):
            message = "wrong or missing token: send the header Authorization: Bearer TOKEN"
            raise RequestError(401, message, {"WWW-Authenticate": "Bearer", "Connection": "close"})

    async def answers(self, request: Request, *, is_batch: bool) -> list[Answer]:
        """Return the answers for the images of a request.

        Raises:
            RequestError: too many requests at a time, too slow, or see `read_uploads`.
        """
        if not self._free:
            message = f"busy with {self.config.max_requests} requests: try again later"
            raise RequestError(503, message, {"Retry-After": "1", "Connection": "close"})
        self._free -= 1
        try:
            with self.metrics.in_progress():
                return await self._in_time(await read_uploads(request, self.config, is_batch=is_batch))
        finally:
            self._free += 1

    async def _in_time(self, uploads: list[Upload]) -> list[Answer]:
        try:
            async with asyncio.timeout(self.config.timeout):
                return await asyncio.gather(*(self.engine.answer(upload) for upload in uploads))
        except TimeoutError:
            raise RequestError(504, f"no answer within {self.config.timeout:g} s") from None


def create_app(
    landmarker: FaceLandmarker,
    config: ServiceConfig | None = None,
    token: str | None = None,
    threads: int = 1,
) -> FastAPI:
    """Return the application, for uvicorn or any other ASGI server; ``app.state.service`` is its state.

    Args:
        landmarker: finds the faces, with its options.
        config: the limits; where to listen is the server's affair.
        token: the token that requests must have; None for none.
        threads: how many images are decoded and searched for faces at a time.

    Raises:
        PipnetError: the detector cannot be loaded.
    """
    service = Service(landmarker, config or ServiceConfig(), token, threads)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.engine.close()

    app = FastAPI(
        title="pipnet",
        version=pipnet.__version__,
        description=descriptions.SERVICE,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(DrainBodies, max_bytes=service.config.max_bytes)
    app.add_middleware(CountRequests, metrics=service.metrics, paths=_PATHS)
    _add_error_handlers(app)
    _add_probes(app, service)
    _add_detection(app, service)
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    def check_token(credentials: HTTPAuthorizationCredentials | None = _credentials) -> None:
        service.check_token(None if credentials is None else credentials.credentials)

    secured = [Depends(check_token)]

    @app.post("/detect", dependencies=secured, **descriptions.DETECT)
    async def detect(request: Request) -> Response:
        """Find the faces of one image and their landmarks."""
        (answer,) = await service.answers(request, is_batch=False)
        return _json(answer.row, answer.status)

    @app.post("/detect/batch", dependencies=secured, **descriptions.BATCH)
    async def detect_batch(request: Request) -> Response:
        """Find the faces of several images; an image that cannot be read is reported in its place."""
        answers = await service.answers(request, is_batch=True)
        return _json({"results": [answer.row for answer in answers]})

    @app.get("/metrics", dependencies=secured, response_class=Response, tags=["operation"])
    async def metrics() -> Response:
        """Return counters in the format of Prometheus, of all processes together."""
        content = await asyncio.to_thread(service.metrics.render)
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Return that the process runs."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"], responses=descriptions.NOT_READY)
    async def ready() -> Response:
        """Return whether the service takes requests, and its model."""
        is_ready = service.engine.is_ready and not service.is_stopping
        status = "ready" if is_ready else "stopping" if service.is_stopping else "failed"
        return _json({"status": status, **service.facts}, 200 if is_ready else 503)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return _json({"error": str(error)}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def not_found(_: Request, error: HTTPException) -> Response:
        message = f"{error.detail}: the service has {', '.join(_PATHS)}"
        return _json({"error": message}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _json({"error": f"internal error: {one_line(Exception(type(error).__name__))}"}, 500)


def _json(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, "application/json")
