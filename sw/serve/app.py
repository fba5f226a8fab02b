"""The HTTP side: routes, limits, keys, streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from .completion import Completion
from .description import description, page
from .disconnect import cancelled_on_disconnect
from .door import LOGGED, PING, Door, Log, event, web_application
from .errors import ApiError
from .page.routes import page_routes
from .prefixes import prefix_routes
from .protocol import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest, parse
from .replies import Reply, likeliest, timings, usage
from .service import Service
from .services import Services

__all__ = ["create_app"]


class Api:
    """Handlers of one server."""

    def __init__(self, services: Services, door: Door) -> None:
        self._services, self._door = services, door
        self._started = int(time.time())
        self._description = description(services.names, door.needs_key)

    # ---- completions ---------------------------------------------------------------------------------------------
    async def chat(self, request: Request) -> Response:
        self._door.authorize(request)
        return await self._complete(request, parse(ChatRequest, await self._door.body(request)))

    async def completions(self, request: Request) -> Response:
        self._door.authorize(request)
        return await self._complete(request, parse(CompletionRequest, await self._door.body(request)))

    async def _complete(self, request: Request, wanted: ChatRequest | CompletionRequest) -> Response:
        service = self._services.of(wanted.model)
        completion = await service.submit(wanted)
        reply = Reply(service.name, isinstance(wanted, ChatRequest), service.spell, wanted.shown_logprobs is not None)
        if wanted.stream:
            return EventStream(completion, self._events(request, service, completion, reply, wanted))
        async with cancelled_on_disconnect(request, completion):
            pieces = [piece async for piece in completion.pieces() if piece is not None]
        if not all(choice.ended for choice in completion.choices):
            raise ClientDisconnect
        self._log(request, completion)
        chosen = likeliest(completion.choices, wanted.n, wanted.written)
        counts = usage(completion.choices, wanted.written)
        return JSONResponse(reply.whole(chosen, pieces, counts, self._timings(service, completion)))

    @staticmethod
    def _timings(service: Service, completion: Completion) -> dict[str, Any]:
        llm = service.llm
        return timings(completion, llm.image.config.clock_mhz, llm.device.simulated)

    @staticmethod
    def _log(request: Request, completion: Completion) -> None:
        counts = usage(completion.choices, len(completion.choices))
        reasons = ",".join(dict.fromkeys(c.generation.stop_reason for c in completion.choices))
        request.scope[LOGGED].update(prompt=counts["prompt_tokens"], answer=counts["completion_tokens"], end=reasons)

    async def _events(
        self, request: Request, service: Service, completion: Completion, reply: Reply, wanted: ChatRequest | CompletionRequest
    ) -> AsyncIterator[str]:
        """The events of a stream. One that ends early ends with an error event, whatever the reason."""
        async with cancelled_on_disconnect(request, completion):
            try:
                for choice in completion.choices:
                    yield event(reply.first(choice))
                pieces = completion.pieces(service.limits.ping_seconds)
                async with contextlib.aclosing(pieces):  # type: ignore[type-var]  # a generator
                    async for piece in pieces:
                        if piece is None:
                            yield PING
                            continue
                        for chunk in reply.chunks(piece):
                            yield event(chunk)
            except Exception as error:  # the head is sent: whatever it was, the stream ends with an event that says so
                failure = ApiError.of(error)
                request.scope[LOGGED].update(error=failure.code)
                yield event(failure.to_dict())
                return
            self._log(request, completion)
            if wanted.stream_options is not None and wanted.stream_options.include_usage:
                yield event(reply.last(usage(completion.choices, wanted.written), self._timings(service, completion)))
            yield event("[DONE]")

    # ---- tokens --------------------------------------------------------------------------------------------------
    async def tokenize(self, request: Request) -> Response:
        self._door.authorize(request)
        wanted = parse(TokenizeRequest, await self._door.body(request))
        service = self._services.of(wanted.model)
        tokenizer = service.llm.model.tokenizer

        def encode() -> list[int]:
            if wanted.messages is not None:
                return service.encode_messages(wanted.messages)
            text = wanted.content if wanted.content is not None else wanted.prompt or ""
            return tokenizer.encode(text) if wanted.add_special else tokenizer.encode_text(text)

        tokens = await in_thread(encode)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": service.llm.image.context})

    async def detokenize(self, request: Request) -> Response:
        self._door.authorize(request)
        wanted = parse(DetokenizeRequest, await self._door.body(request))
        service = self._services.of(wanted.model)
        service.check_tokens(wanted.tokens, "tokens")
        text = await in_thread(lambda: service.llm.model.tokenizer.decode(wanted.tokens))
        return JSONResponse({"content": text, "prompt": text})

    async def responses(self, request: Request) -> Response:
        """What some clients try first."""
        raise ApiError(404, "/v1/responses is not served here: use /v1/chat/completions", code="unsupported_path")

    # ---- the rest ------------------------------------------------------------------------------------------------
    def _card(self, service: Service) -> dict[str, Any]:
        return {
            "id": service.name,
            "object": "model",
            "created": self._started,
            "owned_by": "hwgen",
            "context_length": service.llm.image.context,
        }

    async def models(self, request: Request) -> Response:
        self._door.authorize(request)
        return JSONResponse({"object": "list", "data": [self._card(service) for service in self._services]})

    async def model(self, request: Request) -> Response:
        self._door.authorize(request)
        return JSONResponse(self._card(self._services.of(request.path_params["model"])))

    async def metrics(self, request: Request) -> Response:
        self._door.authorize(request)
        return Response(self._services.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(self, request: Request) -> Response:
        """For load balancers: no key needed, nothing told but whether the accelerator works."""
        failure = self._services.failure
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


def create_app(
    services: Services,
    *,
    api_key: str | None = None,
    hosts: Sequence[str] | None = None,
    origins: Sequence[str] = (),
    log: Log | None = None,
    prefixes: bool = False,
) -> Starlette:
    """The ASGI application. Its lifespan starts and ends the schedulers of ``services``.

    ``hosts``, ``origins``, ``log``: see :func:`web_application`. ``prefixes``: who may ask may also take and give the keys and
    values of prompts, as the front of several boards does; with that, one can change the answers of others.
    """
    door = Door(services.metrics, api_key, services.limits.body_bytes, services.limits.body_seconds)
    api = Api(services, door)
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
        Route("/v1/completions", api.completions, methods=["POST"]),
        Route("/v1/responses", api.responses, methods=["GET", "POST", "DELETE"]),
        Route("/v1/models", api.models),
        Route("/v1/models/{model:path}", api.model),
        Route("/tokenize", api.tokenize, methods=["POST"]),
        Route("/detokenize", api.detokenize, methods=["POST"]),
        Route("/metrics", api.metrics),
        Route("/health", api.health),
        Route("/openapi.json", api.openapi),
        Route("/docs", api.docs),
        *page_routes(services, door),
        *(prefix_routes(services, door) if prefixes else ()),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        services.start()
        try:
            yield
        finally:
            await asyncio.to_thread(services.end)

    return web_application(routes, lifespan, services.metrics, hosts=hosts, origins=origins, log=log)
