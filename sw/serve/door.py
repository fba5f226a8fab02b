"""What every request passes: key, limits of its body, count and log; and what a request that fails is told."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .metrics import ServerMetrics

__all__ = ["LOGGED", "PING", "Door", "Log", "event", "web_application"]

#: Takes a line of the log.
Log = Callable[[str], None]

#: Key of a request's scope with what the log says of its answers.
LOGGED = "hwgen.logged"

#: A comment between events, which clients skip.
PING = ": waiting\n\n"


def event(value: dict[str, Any] | str) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}\n\n"


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.to_dict(), error.status, headers=error.headers)


class ObserveRequests:
    """Counts responses by route and status, and writes a line of each to ``log``."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Sequence[str], log: Log | None) -> None:
        self._app, self._metrics, self._paths, self._log = app, metrics, paths, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, status, begin = scope["path"] if scope["path"] in self._paths else "other", 0, time.monotonic()
        scope[LOGGED] = {}

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.requests.labels(path, status).inc()
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            if self._log is not None:
                client = (scope.get("client") or ("-",))[0]
                words = [f"{name}={value}" for name, value in scope[LOGGED].items()]
                line = [time.strftime("%Y-%m-%dT%H:%M:%S"), client, scope["method"], quote(scope["path"]), str(status)]
                self._log(" ".join([*line, f"{time.monotonic() - begin:.3f}s", *words]))


class Door:
    """Lets requests in: those with the key, whose body is JSON, not too long, and comes in time."""

    def __init__(self, metrics: ServerMetrics, api_key: str | None, body_bytes: int, body_seconds: float) -> None:
        self._metrics, self._key, self._bytes, self._seconds = metrics, api_key, body_bytes, body_seconds

    @property
    def needs_key(self) -> bool:
        return self._key is not None

    def authorize(self, request: Request) -> None:
        """Refuse a request without the key."""
        if self._key is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._key.encode()):
            raise ApiError(401, "a valid API key is needed", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def body(self, request: Request) -> bytes:
        """The body. (A page of another site cannot send this type without being asked.)"""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the content type must be application/json", code="invalid_content_type")
        return await self.content(request, self._bytes)

    async def content(self, request: Request, most: int) -> bytes:
        """A body of any type, of ``most`` bytes at most."""
        try:
            return await asyncio.wait_for(self._read(request, most), self._seconds)
        except asyncio.TimeoutError as error:
            self._metrics.closed.labels("body").inc()
            raise ApiError(
                408, f"the request did not come within {self._seconds:g} seconds", headers={"Connection": "close"}
            ) from error

    @staticmethod
    async def _read(request: Request, limit: int) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise ApiError(
                    413, f"the request is longer than {limit} bytes", code="request_too_large", headers={"Connection": "close"}
                )
        return bytes(body)


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(ApiError(error.status_code, error.detail, headers=dict(error.headers or {})))


async def on_defect(request: Request, error: Exception) -> Response:
    return error_response(ApiError.of(error))


async def on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the number is in the metrics


def web_application(
    routes: Sequence[BaseRoute],
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
    metrics: ServerMetrics,
    *,
    hosts: Sequence[str] | None = None,
    origins: Sequence[str] = (),
    log: Log | None = None,
) -> Starlette:
    """The ASGI application of ``routes``.

    ``hosts``: names under which the server may be asked (a page of another site cannot pose as one of them); None is any.
    ``origins``: sites whose pages may use it ("*" is any). ``log`` is given a line a request.
    """
    paths = [r.path for r in routes if isinstance(r, Route)]
    middleware = [Middleware(ObserveRequests, metrics=metrics, paths=paths, log=log)]
    if hosts is not None:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False))
    if origins:
        middleware.append(Middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        ))
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=middleware,
        exception_handlers={
            ApiError: on_api_error, HTTPException: on_http_error, ClientDisconnect: on_disconnect, Exception: on_defect,
        },
    )
