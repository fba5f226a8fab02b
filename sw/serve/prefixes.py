"""Keys and values of prompts, given and taken: for the front of several boards, where one reads prompts and another answers.

A prompt that is taken comes as a saved session; one that is given is kept as if a prompt that begins like it had been answered
here. So what is lost on the way, or forgotten before it is used, costs time and changes no answer.
"""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...errors import HwgenError
from ..runtime.pages import Session
from ..runtime.prefix_cache import PrefixCache
from ..runtime.session_file import pack_session, unpack_session
from .completion import Completion
from .disconnect import cancelled_on_disconnect
from .door import Door
from .errors import ApiError
from .protocol import ChatRequest, CompletionRequest, parse
from .service import Service, T
from .services import Services

__all__ = ["prefix_routes"]

#: Bytes of a saved session beside its pages: header and token ids.
SPARE_BYTES = 1 << 20


def kept_by(service: Service) -> PrefixCache:
    """What a model keeps of prompts."""
    if service.llm.prefixes is None:
        raise ApiError(400, "this server keeps nothing of prompts (--no-reuse)", code="unsupported")
    return service.llm.prefixes


async def answered(request: Request, completion: Completion) -> None:
    """Until it has ended."""
    async with cancelled_on_disconnect(request, completion):
        async for _ in completion.pieces():
            pass
    if not all(choice.ended for choice in completion.choices):
        raise ClientDisconnect


async def told(call: Awaitable[T]) -> T:
    """What ``call`` gives; an error of the runtime is the client's."""
    try:
        return await call
    except HwgenError as error:
        raise ApiError.of(error) from error


class Prefixes:
    """Handlers of one server."""

    def __init__(self, services: Services, door: Door) -> None:
        self._services, self._door = services, door

    async def of_chat(self, request: Request) -> Response:
        """The prompt of a request to ``/v1/chat/completions``."""
        self._door.authorize(request)
        return await self._take(request, parse(ChatRequest, await self._door.body(request)))

    async def of_text(self, request: Request) -> Response:
        """The prompt of a request to ``/v1/completions``."""
        self._door.authorize(request)
        return await self._take(request, parse(CompletionRequest, await self._door.body(request)))

    async def _take(self, request: Request, wanted: ChatRequest | CompletionRequest) -> Response:
        """Compute a prompt, and answer with the keys and values of all but its last token."""
        service = self._services.of(wanted.model)
        kept_by(service)
        completion = await service.submit_reading(wanted)
        await answered(request, completion)

        def pack() -> bytes:
            session, engine = Session(), service.llm.engine
            kept_by(service).start(session, completion.choices[0].generation.prompt)
            try:
                return pack_session(engine, session)
            finally:
                engine.pages.close(session)

        return Response(await told(service.on_device(pack)), media_type="application/octet-stream")

    async def give(self, request: Request) -> Response:
        """Keep the keys and values of a prompt that another board computed."""
        self._door.authorize(request)
        service = self._services.of(request.query_params.get("model"))
        image = service.llm.image
        content = await self._door.content(request, image.pages * image.page_bytes + SPARE_BYTES)

        def keep() -> int:
            engine = service.llm.engine
            session = unpack_session(engine, content, "what was given")
            try:
                kept_by(service).add(session)
                return session.position
            finally:
                engine.pages.close(session)

        return JSONResponse({"tokens": await told(service.on_device(keep))})


def prefix_routes(services: Services, door: Door) -> list[BaseRoute]:
    """``/prefixes``: prompts are taken by what asks for their answer, and given as what was taken."""
    prefixes = Prefixes(services, door)
    return [
        Route("/prefixes/chat", prefixes.of_chat, methods=["POST"]),
        Route("/prefixes/text", prefixes.of_text, methods=["POST"]),
        Route("/prefixes", prefixes.give, methods=["PUT"]),
    ]
