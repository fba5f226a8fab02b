"""The front: requests go to boards, answers come back.

Boards are servers of their own (`hwgen serve`), and the bits of an answer are equal on all of them. So what a board has not begun
to send may be asked of another; a stream that breaks ends with an error event. With boards for prompts, the keys and values of a
prompt are computed there and kept where it is answered, before that board is asked as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

import httpx
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ....errors import HwgenError
from ..door import Door, Log, event, web_application
from ..errors import ApiError
from ..metrics import labelled
from .board_link import BoardLink, Watch
from .exchange import Asked, BoardLost, NotBegun, T, answer_events, is_refusal, unless_lost
from .front_metrics import FrontMetrics
from .routing import Routes

__all__ = ["Front", "create_front"]

#: Boards that a request is asked of at most: one that ends servers must not end all of them.
MOST_TRIES = 3

#: Characters of a prompt that its board does not know yet, from which on another board reads it.
WORTH = 256

#: How boards are looked after where nothing else is said.
WATCH = Watch()

#: Headers of a board's response that a client gets.
PASSED_ON = ("content-type", "retry-after", "cache-control", "x-accel-buffering")

#: Paths that are asked of a board.
ASKED_PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize")


class RefusedStream(Exception):
    """A board refused a request for a stream before anything was sent."""

    def __init__(self, response: Response) -> None:
        self.response = response


async def unless_gone(request: Request, call: Awaitable[T]) -> T:
    """What ``call`` gives; it is cancelled when the client goes away."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(call), asyncio.ensure_future(watch())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class Front:
    """Handlers, and what is known of the boards. ``key`` is that of the clients and of the boards."""

    def __init__(
        self, routes: Routes, *, key: str | None = None, body_bytes: int = 1 << 20, watch: Watch = WATCH, worth: int = WORTH
    ) -> None:
        self.routes, self.metrics = routes, FrontMetrics(routes)
        self.door = Door(self.metrics, key, body_bytes, 30.0)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._watch, self._worth = watch, worth
        # answers take as long as they take: a board that is lost is found by asking for its health
        timeout = httpx.Timeout(None, connect=watch.patience)
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False, limits=httpx.Limits(max_keepalive_connections=64))
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- life ----------------------------------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def running(self, app: Starlette) -> AsyncIterator[None]:
        """Boards are looked after in the block."""
        self._loop = asyncio.get_running_loop()
        watches = [asyncio.create_task(board.watch(self._client, self._watch, self._headers)) for board in self.routes]
        try:
            yield
        finally:
            for watch in watches:
                watch.cancel()
            await self._client.aclose()

    def on_failure(self, told: Callable[[HwgenError], None]) -> None:
        """Nothing is told: boards that are lost may come back."""

    def end(self) -> None:
        """Break what is still being answered; for any thread."""

        def lose() -> None:
            for board in self.routes:
                board.lose("the server is shutting down")

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                self._loop.call_soon_threadsafe(lose)

    # ---- asking a board ------------------------------------------------------------------------------------------
    def _nobody(self, asked: Asked) -> ApiError:
        known = self.routes.models()
        if known and asked.model and asked.model not in known:
            names = ", ".join(map(repr, known))
            return ApiError(
                404, f"the model {asked.model!r} does not exist; boards have {names}", code="model_not_found", param="model"
            )
        states = "; ".join(f"{board.address}: {board.reason or 'tried'}" for board in self.routes)
        return ApiError(503, f"no board can answer ({states})", code="no_board", headers={"Retry-After": "1"})

    @contextlib.asynccontextmanager
    async def _asking(self, asked: Asked, tried: list[BoardLink]) -> AsyncIterator[tuple[BoardLink, httpx.Response]]:
        """One more board, and the head of its response; :class:`BoardLost` where that does not come."""
        board = self.routes.answering(asked.model, asked.prompt, tried) if len(tried) < MOST_TRIES else None
        if board is None:
            raise self._nobody(asked)
        if tried:
            self.metrics.retried.labels(tried[-1].address).inc()
        tried.append(board)
        board.busy += 1
        response = None
        try:
            if asked.path.startswith("/v1/"):
                await self._bring_prompt(asked, board)
                board.sent.add(asked.prompt)
            request = self._client.build_request("POST", board.url + asked.path, content=asked.content, headers=asked.headers)
            response = await unless_lost(board, self._client.send(request, stream=True))
            self.metrics.asked.labels(board.address, response.status_code).inc()
            yield board, response
        finally:
            board.busy -= 1
            if response is not None:
                await response.aclose()

    def _is_last(self, asked: Asked, tried: Sequence[BoardLink]) -> bool:
        """Whether no other board is left to ask."""
        return len(tried) >= MOST_TRIES or self.routes.answering(asked.model, asked.prompt, tried) is None

    @staticmethod
    def _response(board: BoardLink, response: httpx.Response, content: bytes) -> Response:
        headers = {name: response.headers[name] for name in PASSED_ON if name in response.headers}
        return Response(content, response.status_code, {**headers, "X-Hwgen-Board": board.address})

    # ---- prompts of other boards ---------------------------------------------------------------------------------
    async def _bring_prompt(self, asked: Asked, board: BoardLink) -> None:
        """Have a prompt read by a board for prompts, and kept by ``board``; where that fails, ``board`` reads it itself."""
        if board in self.routes.prompt_boards or len(asked.prompt) - board.sent.longest(asked.prompt) < self._worth:
            return
        reader = self.routes.reading(asked.model, asked.prompt)
        if reader is None:
            return
        reader.busy += 1
        try:
            reader.sent.add(asked.prompt)
            result = await unless_lost(board, unless_lost(reader, self._move_prompt(asked, reader, board)))
        except BoardLost as lost:
            if lost.board is board:
                raise
            result = "lost"
        finally:
            reader.busy -= 1
        self.metrics.moved.labels(result).inc()

    async def _move_prompt(self, asked: Asked, reader: BoardLink, board: BoardLink) -> str:
        """``ok``, or who refused."""
        kind = "chat" if asked.path == "/v1/chat/completions" else "text"
        url = f"{reader.url}/prefixes/{kind}"
        async with self._client.stream("POST", url, content=asked.content, headers=asked.headers) as taken:
            if taken.status_code != 200:  # several prompts, say
                return "not read"

            async def counted() -> AsyncIterator[bytes]:
                async for part in taken.aiter_raw():
                    self.metrics.moved_bytes.inc(len(part))
                    yield part

            given = await self._client.put(
                f"{board.url}/prefixes", params={"model": asked.model}, content=counted(), headers=self._headers
            )
        return "ok" if given.status_code == 200 else "not kept"

    # ---- answers -------------------------------------------------------------------------------------------------
    async def answer(self, request: Request) -> Response:
        """A request that a board answers."""
        self.door.authorize(request)
        content = await self.door.body(request)
        asked = Asked.of(request.url.path, content, request.headers.get("authorization"))
        if not asked.stream:
            return await unless_gone(request, self._whole(asked))
        tried: list[BoardLink] = []
        events = self._events(asked, tried)
        try:
            first = await unless_gone(request, anext(events))
        except RefusedStream as refused:
            return refused.response

        async def all_of() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(events):
                yield first
                async for item in events:
                    yield item

        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Hwgen-Board": tried[-1].address}
        return StreamingResponse(all_of(), media_type="text/event-stream", headers=headers)

    async def _whole(self, asked: Asked) -> Response:
        """An answer at once. Nothing of it was sent before it is whole, so another board may be asked at any time."""
        tried: list[BoardLink] = []
        while True:
            try:
                async with self._asking(asked, tried) as (board, response):
                    content = await unless_lost(board, response.aread())
            except BoardLost:
                continue
            if not is_refusal(response.status_code, content) or self._is_last(asked, tried):
                return self._response(board, response, content)

    async def _events(self, asked: Asked, tried: list[BoardLink]) -> AsyncGenerator[bytes, None]:
        """The events of a stream: those of one board, from its first to its last. It is the last of ``tried``."""
        sent = False
        while True:
            try:
                async with self._asking(asked, tried) as (board, response):
                    last = self._is_last(asked, tried)
                    if response.status_code != 200:
                        await self._refuse(board, response, last)
                    async for item in answer_events(board, response, last):
                        sent = True
                        yield item
                return
            except BoardLost as lost:
                if lost.begun:
                    self.metrics.broken.labels(lost.board.address).inc()
                    text = f"the board {lost.board.address} was lost while it answered ({lost})"
                    yield event(ApiError(502, text, code="board_lost").to_dict()).encode()
                    return
            except NotBegun:
                pass
            except RefusedStream as refused:
                if not sent:
                    raise
                yield b"data: " + bytes(refused.response.body) + b"\n\n"
                return
            except ApiError as error:  # no board is left
                if not sent:
                    raise
                yield event(error.to_dict()).encode()
                return

    async def _refuse(self, board: BoardLink, response: httpx.Response, last: bool) -> None:
        """Pass a refusal on, or ask another board."""
        content = await unless_lost(board, response.aread())
        if is_refusal(response.status_code, content) and not last:
            raise NotBegun
        raise RefusedStream(self._response(board, response, content))

    # ---- the rest ------------------------------------------------------------------------------------------------
    async def models(self, request: Request) -> Response:
        self.door.authorize(request)
        return JSONResponse({"object": "list", "data": list(self.routes.models().values())})

    async def model(self, request: Request) -> Response:
        self.door.authorize(request)
        name = request.path_params["model"]
        if name not in self.routes.models():
            raise ApiError(404, f"no board has the model {name!r}", code="model_not_found", param="model")
        return JSONResponse(self.routes.models()[name])

    async def boards(self, request: Request) -> Response:
        """The boards as they are now."""
        self.door.authorize(request)
        rows = [
            {
                "board": board.address, "url": board.url, "for": "prompts" if board in self.routes.prompt_boards else "answers",
                "up": board.up, "reason": board.reason, "models": list(board.models), "busy": board.busy,
            }
            for board in self.routes
        ]
        return JSONResponse({"boards": rows})

    async def metrics_text(self, request: Request) -> Response:
        """Those of the front, and those of every board that is up, told apart by the label ``board``."""
        self.door.authorize(request)

        async def ask(board: BoardLink) -> str:
            try:
                response = await self._client.get(f"{board.url}/metrics", headers=self._headers, timeout=self._watch.patience)
            except httpx.HTTPError:
                return ""
            return response.text if response.status_code == 200 else ""

        up = [board for board in self.routes if board.up]
        texts = await asyncio.gather(*map(ask, up))
        merged = {"front": self.metrics.text().decode(), **{b.address: text for b, text in zip(up, texts, strict=True)}}
        return Response(labelled(merged, "board"), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(self, request: Request) -> Response:
        """200 while a board is up; needs no key."""
        up = any(board.up for board in self.routes)
        return JSONResponse({"status": "ok" if up else "failed"}, 200 if up else 503)


def create_front(
    front: Front, *, hosts: Sequence[str] | None = None, origins: Sequence[str] = (), log: Log | None = None
) -> Starlette:
    """The ASGI application; see :func:`hwgen.sw.serve.door.web_application`."""
    routes = [
        *(Route(path, front.answer, methods=["POST"]) for path in ASKED_PATHS),
        Route("/v1/models", front.models),
        Route("/v1/models/{model:path}", front.model),
        Route("/boards", front.boards),
        Route("/metrics", front.metrics_text),
        Route("/health", front.health),
    ]
    return web_application(routes, front.running, front.metrics, hosts=hosts, origins=origins, log=log)
