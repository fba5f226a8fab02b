"""A request at the front, and what a board says to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from ..errors import ApiError
from .board_link import BoardLink
from .routing import prompt_text

__all__ = ["Asked", "BoardLost", "NotBegun", "answer_events", "is_refusal", "unless_lost"]

T = TypeVar("T")

#: Statuses with which a board says that it has not begun: too many wait there, or its accelerator failed.
NOT_BEGUN = (429, 503)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as the client sent it."""

    path: str
    content: bytes
    #: Key and type of the content.
    headers: dict[str, str]
    #: Empty where it names none.
    model: str
    #: What it is routed by.
    prompt: str
    stream: bool

    @classmethod
    def of(cls, path: str, content: bytes, authorization: str | None) -> Asked:
        """What is needed to route a request; whether it is right is for the board to say."""
        try:
            body = json.loads(content)
        except ValueError as error:
            raise ApiError(400, "the request is not JSON", code="invalid_json") from error
        if not isinstance(body, dict):
            raise ApiError(400, "the request is not a JSON object", code="invalid_json")
        headers = {"Content-Type": "application/json"}
        if authorization is not None:
            headers["Authorization"] = authorization
        model = body.get("model")
        return cls(
            path=path, content=content, headers=headers, model=model if isinstance(model, str) else "", prompt=prompt_text(body),
            stream=body.get("stream") is True,
        )


class BoardLost(Exception):
    """A board went away before its answer was whole."""

    def __init__(self, board: BoardLink, reason: str) -> None:
        super().__init__(reason)
        self.board = board
        #: Part of the answer was sent already.
        self.begun = False


class NotBegun(Exception):
    """A board says in its stream that it could not answer; another one might."""


async def unless_lost(board: BoardLink, call: Awaitable[T]) -> T:
    """What ``call`` to a board gives; :class:`BoardLost` where the board is lost before, or the connection breaks."""
    task, lost = asyncio.ensure_future(call), asyncio.ensure_future(board.lost.wait())
    try:
        await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise BoardLost(board, board.reason)
        return task.result()
    except httpx.HTTPError as error:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)) and board.up:
            board.lose(f"it does not answer: {type(error).__name__}")  # what it was asked before is lost too
        raise BoardLost(board, f"{type(error).__name__}") from error
    finally:
        task.cancel()
        lost.cancel()
        await asyncio.gather(task, lost, return_exceptions=True)  # the connection may be closed when nobody reads it


async def events_of(board: BoardLink, response: httpx.Response) -> AsyncIterator[bytes]:
    """The events and comments of a stream, each with its end; the last may be cut short."""

    async def following(parts: AsyncIterator[bytes]) -> bytes | None:
        return await anext(parts, None)

    rest, parts = b"", response.aiter_raw()
    while (part := await unless_lost(board, following(parts))) is not None:
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            yield event + b"\n\n"
    if rest:
        yield rest


def _data(event: bytes) -> dict[str, Any]:
    """The object of an event; empty where it has none."""
    try:
        value = json.loads(event.removeprefix(b"data:"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def begins(event: bytes) -> bool:
    """Whether an event is more than the opening that every stream has: part of an answer, its end, or an error."""
    value = _data(event)
    if "choices" not in value:
        return True
    return any(
        choice.get("text") or choice.get("finish_reason") or choice.get("logprobs")
        or any(part for name, part in (choice.get("delta") or {}).items() if name != "role")
        for choice in value["choices"]
    )


def is_refusal(status: int, content: bytes) -> bool:
    """Whether a board says with a response, or with an event of a stream, that it could not answer, and another one might."""
    error = _data(content).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return status in NOT_BEGUN or code in ("device", "queue_full", "shutting_down")


async def answer_events(board: BoardLink, response: httpx.Response, last: bool) -> AsyncIterator[bytes]:
    """A stream whose opening is held back until an answer begins, so that another board may be asked until then: where this one is
    lost, or (unless it is the ``last``) says that it could not answer.
    """
    opening: list[bytes] = []
    begun = False
    try:
        async for item in events_of(board, response):
            if begun or item.startswith(b":"):
                yield item
                continue
            if not last and is_refusal(200, item):
                raise NotBegun
            opening.append(item)
            begun = begins(item)
            if begun:
                yield b"".join(opening)
    except BoardLost as lost:
        lost.begun = begun
        raise
