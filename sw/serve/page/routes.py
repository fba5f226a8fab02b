"""Routes of the page. The files need no key, and tell nothing; what they ask for does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ...models.tokenizer import TextStream, Tokenizer
from ..errors import ApiError
from ..protocol import ChatRequest, parse
from ..service import Service

__all__ = ["page_routes"]

FILES = Path(__file__).parent / "static"

#: Of the page: nothing from elsewhere, no script in the page itself, in no frame of another page.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def token_texts(tokenizer: Tokenizer, tokens: list[int]) -> list[tuple[int, str, bool]]:
    """Of every token its number, its text, and whether it is a control token, whose name stands for a text."""
    stream, texts = TextStream(tokenizer), []
    for number in tokens:
        name = tokenizer.token(number) or ""
        if not tokenizer.decode([number]) and name:
            texts.append((number, name, True))
            stream = TextStream(tokenizer)
        else:
            texts.append((number, stream.add(number), False))
    return texts


class Page:
    """Handlers of one service. ``authorize`` raises for a request without the key."""

    def __init__(
        self, service: Service, authorize: Callable[[Request], None], body: Callable[[Request], Awaitable[bytes]]
    ) -> None:
        self._service, self._authorize, self._body = service, authorize, body

    async def index(self, request: Request) -> Response:
        return FileResponse(FILES / "index.html", headers=HEADERS)

    async def machine(self, request: Request) -> Response:
        """The live state; with ``since=N`` only passes behind N."""
        self._authorize(request)
        since = request.query_params.get("since", "0")
        if not since.isdecimal():
            raise ApiError(400, "since must be the number of a pass", code="invalid_value", param="since")
        service = self._service
        failure, limits = service.scheduler.failure, service.limits
        return JSONResponse({
            "machine": service.machine.machine(),
            "failure": None if failure is None else str(failure),
            "limits": {"running": limits.sessions, "waiting": limits.waiting, "new_tokens": limits.new_tokens},
            "temperature": service.temperature,
            **service.machine.passes(int(since)),
            **service.machine.sessions(service.scheduler),
        }, headers={"Cache-Control": "no-store"})

    async def trace(self, request: Request) -> Response:
        """The operators of the pass that was traced last."""
        self._authorize(request)
        return JSONResponse(self._service.machine.trace(), headers={"Cache-Control": "no-store"})

    async def prompt(self, request: Request) -> Response:
        """What the model would read for a chat request: its tokens, after the chat template."""
        self._authorize(request)
        wanted = parse(ChatRequest, await self._body(request))
        tokens = self._service.encode_messages(wanted.messages, wanted.given_tools)
        return JSONResponse({"tokens": token_texts(self._service.llm.model.tokenizer, tokens)})


def page_routes(
    service: Service, authorize: Callable[[Request], None], body: Callable[[Request], Awaitable[bytes]]
) -> list[BaseRoute]:
    """``/`` with its files, and ``/machine``. ``body`` reads a request within the limits of the server."""
    page = Page(service, authorize, body)
    return [
        Route("/", page.index),
        Route("/machine", page.machine),
        Route("/machine/trace", page.trace),
        Route("/machine/prompt", page.prompt, methods=["POST"]),
        Mount("/page", StaticFiles(directory=FILES)),
    ]
