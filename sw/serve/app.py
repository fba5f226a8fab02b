"""The HTTP side: routes, limits, keys, streams."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .page.routes import page_routes
from .protocol import ApiError, ChatRequest, CompletionRequest, Reply, parse, usage
from .service import Completion, Service

__all__ = ["create_app"]


def event(value: dict[str, Any] | str) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}\n\n"


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.to_dict(), error.status, headers=error.headers)


class CountRequests:
    """Counts responses by route and status."""

    def __init__(self, app: ASGIApp, service: Service, paths: Sequence[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._service.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counting)


class Api:
    """Handlers of one service."""

    def __init__(self, service: Service, api_key: str | None) -> None:
        self.service = service
        self._key = api_key
        self._started = int(time.time())

    def _authorize(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._key.encode()):
            raise ApiError(401, "a valid API key is needed", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, request: Request) -> bytes:
        """The body, which must be JSON and not too long. (A page of another site cannot send this type without being asked.)"""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the content type must be application/json", code="invalid_content_type")
        limit = self.service.limits.body_bytes
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise ApiError(
                    413, f"the request is longer than {limit} bytes", code="request_too_large", headers={"Connection": "close"}
                )
        return bytes(body)

    # ---- completions ---------------------------------------------------------------------------------------------
    async def chat(self, request: Request) -> Response:
        self._authorize(request)
        return await self._complete(request, parse(ChatRequest, await self._body(request)))

    async def completions(self, request: Request) -> Response:
        self._authorize(request)
        return await self._complete(request, parse(CompletionRequest, await self._body(request)))

    async def _complete(self, request: Request, wanted: ChatRequest | CompletionRequest) -> Response:
        completion = self.service.submit(wanted)
        reply = Reply(self.service.name, isinstance(wanted, ChatRequest))
        if not wanted.stream:
            async with cancelled_on_disconnect(request, completion):
                text = "".join([piece async for piece in completion.pieces()])
            return JSONResponse(reply.whole(text, completion.finish_reason, self._usage(completion)))
        with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        return EventStream(completion, self._events(request, completion, reply, with_usage))

    def _usage(self, completion: Completion) -> dict[str, Any]:
        generation = completion.generation
        return usage(len(generation.prompt), completion.tokens, generation.reused)

    async def _events(self, request: Request, completion: Completion, reply: Reply, with_usage: bool) -> AsyncIterator[str]:
        async with cancelled_on_disconnect(request, completion):
            try:
                yield event(reply.chunk("", first=True))
                async with contextlib.aclosing(completion.pieces()) as pieces:  # type: ignore[type-var]  # a generator
                    async for piece in pieces:
                        yield event(reply.chunk(piece))
            except ApiError as error:
                yield event(error.to_dict())
                return
            yield event(reply.chunk("", finish_reason=completion.finish_reason))
            if with_usage:
                yield event(reply.usage_chunk(self._usage(completion)))
            yield event("[DONE]")

    # ---- the rest ------------------------------------------------------------------------------------------------
    def _card(self) -> dict[str, Any]:
        return {
            "id": self.service.name,
            "object": "model",
            "created": self._started,
            "owned_by": "hwgen",
            "context_length": self.service.llm.image.context,
        }

    async def models(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        self._authorize(request)
        self.service.check_model(request.path_params["model"])
        return JSONResponse(self._card())

    async def metrics(self, request: Request) -> Response:
        self._authorize(request)
        return Response(self.service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(self, request: Request) -> Response:
        """For load balancers: no key needed, nothing told but whether the accelerator works."""
        failure = self.service.scheduler.failure
        return JSONResponse({"status": "ok" if failure is None else "failed"}, 200 if failure is None else 503)


class EventStream(StreamingResponse):
    """Server-sent events of one answer, which ends with the response however that ends."""

    def __init__(self, completion: Completion, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._completion = completion

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._completion.cancel()


@contextlib.asynccontextmanager
async def cancelled_on_disconnect(request: Request, completion: Completion) -> AsyncIterator[None]:
    """Inside, a client that goes away ends its answer at once, even while it waits for the first token."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        completion.abandon()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        completion.cancel()


async def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(ApiError(error.status_code, error.detail, headers=dict(error.headers or {})))


async def on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the number is in the metrics


def create_app(service: Service, *, api_key: str | None = None, hosts: Sequence[str] | None = None) -> Starlette:
    """The ASGI application. Its lifespan starts and ends the scheduler of ``service``.

    ``hosts``: names under which the server may be asked (a page of another site cannot pose as one of them); None is any.
    """
    api = Api(service, api_key)
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
        Route("/metrics", api.metrics),
        Route("/health", api.health),
        *page_routes(service, api._authorize, api._body),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.scheduler.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.scheduler.close)

    middleware = [Middleware(CountRequests, service=service, paths=[r.path for r in routes if isinstance(r, Route)])]
    if hosts is not None:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False))
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=middleware,
        exception_handlers={ApiError: on_api_error, HTTPException: on_http_error, ClientDisconnect: on_disconnect},
    )
