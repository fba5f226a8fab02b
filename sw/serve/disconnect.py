"""Clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from .completion import Completion

__all__ = ["cancelled_on_disconnect"]


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
