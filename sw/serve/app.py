"""The HTTP side: routes, limits, keys, streams."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import quote

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .completion import Completion
from .description import description, page
from .errors import ApiError
from .page.routes import page_routes
from .protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, parse
from .replies import Reply, likeliest, timings, usage
from .service import Service

__all__ = ["create_app"]

#: Key of a request's scope with what the log says of its answers.
_LOGGED = "hwgen.logged"


def event(value: dict[str, Any] | str) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}\n\n"


#: A comment between events, which clients skip.
PING = ": waiting\n\n"


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.to_dict(), error.status, headers=error.headers)


class ObserveRequests:
    """Counts responses by route and status, and writes a line of each to ``log``."""

    def __init__(self, app: ASGIApp, service: Service, paths: Sequence[str], log: Callable[[str], None] | None) -> None:
        self._app, self._service, self._paths, self._log = app, service, paths, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, status, begin = scope["path"] if scope["path"] in self._paths else "other", 0, time.monotonic()
        scope[_LOGGED] = {}

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._service.metrics.requests.labels(path, status).inc()
            await send(message)

        try:
            await self._app(scope, receive, counting)
        finally:
            if self._log is not None:
                client = (scope.get("client") or ("-",))[0]
                words = [f"{name}={value}" for name, value in scope[_LOGGED].items()]
                line = [time.strftime("%Y-%m-%dT%H:%M:%S"), client, scope["method"], quote(scope["path"]), str(status)]
                self._log(" ".join([*line, f"{time.monotonic() - begin:.3f}s", *words]))


class Api:
    """Handlers of one service."""

    def __init__(self, service: Service, api_key: str | None) -> None:
        self.service = service
        self._key = api_key
        self._started = int(time.time())
        self._description = description(service.name, api_key is not None)

    def _authorize(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._key.encode()):
            raise ApiError(401, "a valid API key is needed", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, request: Request) -> bytes:
        """The body, which must be JSON, not too long, and come in time. (A page of another site cannot send this type without
        being asked.)
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "the content type must be application/json", code="invalid_content_type")
        limits = self.service.limits
        try:
            return await asyncio.wait_for(self._read(request, limits.body_bytes), limits.body_seconds)
        except asyncio.TimeoutError as error:
            self.service.metrics.closed.labels("body").inc()
            raise ApiError(
                408, f"the request did not come within {limits.body_seconds:g} seconds", headers={"Connection": "close"}
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

    # ---- completions ---------------------------------------------------------------------------------------------
    async def chat(self, request: Request) -> Response:
        self._authorize(request)
        return await self._complete(request, parse(ChatRequest, await self._body(request)))

    async def completions(self, request: Request) -> Response:
        self._authorize(request)
        return await self._complete(request, parse(CompletionRequest, await self._body(request)))

    async def _complete(self, request: Request, wanted: ChatRequest | CompletionRequest) -> Response:
        completion = await self.service.submit(wanted)
        reply = Reply(self.service.name, isinstance(wanted, ChatRequest), self._spell, wanted.shown_logprobs is not None)
        if wanted.stream:
            return EventStream(completion, self._events(request, completion, reply, wanted))
        async with cancelled_on_disconnect(request, completion):
            pieces = [piece async for piece in completion.pieces() if piece is not None]
        if not all(choice.ended for choice in completion.choices):
            raise ClientDisconnect
        self._log(request, completion)
        chosen = likeliest(completion.choices, wanted.n, wanted.written)
        return JSONResponse(reply.whole(chosen, pieces, usage(completion.choices, wanted.written), self._timings(completion)))

    def _spell(self, token: int) -> str:
        """A token as text; by its number where it is no whole characters."""
        text = self.service.llm.model.tokenizer.decode([token])
        return f"token_id:{token}" if "\N{REPLACEMENT CHARACTER}" in text else text

    def _timings(self, completion: Completion) -> dict[str, Any]:
        llm = self.service.llm
        return timings(completion, llm.image.config.clock_mhz, llm.device.simulated)

    @staticmethod
    def _log(request: Request, completion: Completion) -> None:
        counts = usage(completion.choices, len(completion.choices))
        reasons = ",".join(dict.fromkeys(c.generation.stop_reason for c in completion.choices))
        request.scope[_LOGGED].update(prompt=counts["prompt_tokens"], answer=counts["completion_tokens"], end=reasons)

    async def _events(
        self, request: Request, completion: Completion, reply: Reply, wanted: ChatRequest | CompletionRequest
    ) -> AsyncIterator[str]:
        """The events of a stream. One that ends early ends with an error event, whatever the reason."""
        async with cancelled_on_disconnect(request, completion):
            try:
                for choice in completion.choices:
                    yield event(reply.first(choice))
                pieces = completion.pieces(self.service.limits.ping_seconds)
                async with contextlib.aclosing(pieces):  # type: ignore[type-var]  # a generator
                    async for piece in pieces:
                        if piece is None:
                            yield PING
                            continue
                        for chunk in reply.chunks(piece):
                            yield event(chunk)
            except Exception as error:  # the head is sent: whatever it was, the stream ends with an event that says so
                failure = ApiError.of(error)
                request.scope[_LOGGED].update(error=failure.code)
                yield event(failure.to_dict())
                return
            self._log(request, completion)
            if wanted.stream_options is not None and wanted.stream_options.include_usage:
                yield event(reply.last(usage(completion.choices, wanted.written), self._timings(completion)))
            yield event("[DONE]")

    # ---- tokens --------------------------------------------------------------------------------------------------
    async def tokenize(self, request: Request) -> Response:
        self._authorize(request)
        wanted = parse(TokenizeRequest, await self._body(request))
        self.service.check_model(wanted.model or self.service.name)
        tokenizer = self.service.llm.model.tokenizer

        def encode() -> list[int]:
            if wanted.messages is not None:
                return self.service.encode_messages(wanted.messages)
            text = wanted.content if wanted.content is not None else wanted.prompt or ""
            return tokenizer.encode(text) if wanted.add_special else tokenizer.encode_text(text)

        tokens = await in_thread(encode)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": self.service.llm.image.context})

    async def detokenize(self, request: Request) -> Response:
        self._authorize(request)
        wanted = parse(DetokenizeRequest, await self._body(request))
        self.service.check_model(wanted.model or self.service.name)
        self.service.check_tokens(wanted.tokens, "tokens")
        text = await in_thread(lambda: self.service.llm.model.tokenizer.decode(wanted.tokens))
        return JSONResponse({"content": text, "prompt": text})

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

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self._description)

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(page(self._description))


async def in_thread(compute: Callable[[], Any]) -> Any:
    """Beside the event loop; an error of the runtime is the client's."""
    try:
        return await asyncio.to_thread(compute)
    except Exception as error:  # of tokenizers and templates, which raise anything
        raise ApiError.of(error) from error


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


async def on_defect(request: Request, error: Exception) -> Response:
    return error_response(ApiError.of(error))


async def on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the number is in the metrics


def create_app(
    service: Service,
    *,
    api_key: str | None = None,
    hosts: Sequence[str] | None = None,
    origins: Sequence[str] = (),
    log: Callable[[str], None] | None = None,
) -> Starlette:
    """The ASGI application. Its lifespan starts and ends the scheduler of ``service``.

    ``hosts``: names under which the server may be asked (a page of another site cannot pose as one of them); None is any.
    ``origins``: sites whose pages may use it ("*" is any). ``log`` is given a line a request.
    """
    api = Api(service, api_key)
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
        Route("/tokenize", api.tokenize, methods=["POST"]),
        Route("/detokenize", api.detokenize, methods=["POST"]),
        Route("/metrics", api.metrics),
        Route("/health", api.health),
        Route("/openapi.json", api.openapi),
        Route("/docs", api.docs),
        *page_routes(service, api._authorize, api._body),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.scheduler.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.scheduler.close)

    paths = [r.path for r in routes if isinstance(r, Route)]
    middleware = [Middleware(ObserveRequests, service=service, paths=paths, log=log)]
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
