"""Routes of the page. The files need no key, and tell nothing; what they ask for does."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ...models.tokenizer import TextStream, Tokenizer
from ..door import Door
from ..errors import ApiError
from ..protocol import ChatRequest, parse
from ..services import Services

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
    """Handlers of one server."""

    def __init__(self, services: Services, door: Door) -> None:
        self._services, self._door = services, door

    async def index(self, request: Request) -> Response:
        return FileResponse(FILES / "index.html", headers=HEADERS)

    async def machine(self, request: Request) -> Response:
        """The live state; with ``since=N`` only passes behind N."""
        self._door.authorize(request)
        since = request.query_params.get("since", "0")
        if not since.isdecimal():
            raise ApiError(400, "since must be the number of a pass", code="invalid_value", param="since")
        service = self._services.current
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
        self._door.authorize(request)
        return JSONResponse(self._services.current.machine.trace(), headers={"Cache-Control": "no-store"})

    async def prompt(self, request: Request) -> Response:
        """What the model would read for a chat request: its tokens, after the chat template."""
        self._door.authorize(request)
        wanted = parse(ChatRequest, await self._door.body(request))
        service = self._services.of(wanted.model)
        tokens = service.encode_messages(wanted.messages, wanted.given_tools)
        return JSONResponse({"tokens": token_texts(service.llm.model.tokenizer, tokens)})


def page_routes(services: Services, door: Door) -> list[BaseRoute]:
    """``/`` with its files, and ``/machine``: of the model that has the device."""
    page = Page(services, door)
    return [
        Route("/", page.index),
        Route("/machine", page.machine),
        Route("/machine/trace", page.trace),
        Route("/machine/prompt", page.prompt, methods=["POST"]),
        Mount("/page", StaticFiles(directory=FILES)),
    ]
