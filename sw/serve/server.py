"""The server process: connections that cost others nothing, and an end that loses no answer."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import uvicorn
from starlette.types import ASGIApp

from ...errors import HwgenError
from .metrics import ServerMetrics

__all__ = ["Behind", "ConnectionLimits", "Server"]


class Behind(Protocol):
    """What a server stands before."""

    @property
    def metrics(self) -> ServerMetrics:
        """Where connections are counted."""

    def on_failure(self, told: Callable[[HwgenError], None]) -> None:
        """Tell when nothing can be answered any more."""

    def end(self) -> None:
        """End every answer; may block."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What one connection may take. Bodies have a limit of their own, in `hwgen.sw.serve.service.Limits`."""

    #: Seconds without a whole head of a request: since the connection was made, or since the last response.
    head_seconds: float = 10.0
    #: Seconds in which a client takes nothing of what was written to it.
    write_seconds: float = 60.0
    #: Connections; beyond that, those that have waited longest without a request are closed.
    connections: int = 512
    #: Seconds between two looks at all of them.
    look_seconds: float = 0.5


class Server(uvicorn.Server):
    """uvicorn without its limit of concurrency, which counts connections that send nothing and then refuses `/health` too.

    Serves until a signal, or until the device failed for good: `failure` is the error then. Running answers have
    ``drain_seconds`` at the end; what still runs then ends with an error.
    """

    def __init__(
        self, app: ASGIApp, behind: Behind, *, limits: ConnectionLimits = ConnectionLimits(), drain_seconds: float = 30.0
    ) -> None:
        super().__init__(uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="on", ws="none", timeout_keep_alive=int(limits.head_seconds) + 1,
            timeout_graceful_shutdown=int(drain_seconds) + 10,
        ))
        self._behind, self._limits, self._drain_seconds = behind, limits, drain_seconds
        #: What connections did when they were last looked at, and since when.
        self._doing: WeakKeyDictionary[Any, tuple[str, float]] = WeakKeyDictionary()
        self._looked = 0.0
        #: Why the server ended by itself.
        self.failure: HwgenError | None = None
        behind.on_failure(self._fail)

    def _fail(self, error: HwgenError) -> None:
        self.failure = error
        self.should_exit = True

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):  # as many connections as the system lets it
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        super().run(sockets)

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if now - self._looked >= self._limits.look_seconds:
            self._looked = now
            self._look(now)
        return await super().on_tick(counter)

    def _look(self, now: float) -> None:
        """Close connections that hold a place and do nothing with it."""
        waiting = []
        for connection in list(self.server_state.connections):
            doing = self._state(connection)
            before, since = self._doing.get(connection, ("", now))
            if doing != before:
                since = now
                self._doing[connection] = doing, now
            if doing.startswith("head"):
                waiting.append((since, connection))
                if now - since >= self._limits.head_seconds:
                    self._close(connection, "head")
            elif doing == "write" and now - since >= self._limits.write_seconds:
                self._close(connection, "write")
        open_ = len(self.server_state.connections)
        self._behind.metrics.connections.set(open_)
        for _, connection in sorted(waiting, key=lambda pair: pair[0])[: max(0, open_ - self._limits.connections)]:
            self._close(connection, "full")

    @staticmethod
    def _state(connection: Any) -> str:
        """What is waited for: the head of a request, a client that reads, or the answer."""
        cycle = connection.cycle
        if cycle is None or cycle.response_complete:
            return f"head {id(cycle)}"  # the next request of a connection has a time of its own
        return "write" if connection.flow.write_paused else "answer"

    def _close(self, connection: Any, reason: str) -> None:
        if not connection.transport.is_closing():
            self._behind.metrics.closed.labels(reason).inc()
            connection.transport.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        def end() -> None:  # waits for the present pass, so not in the event loop
            threading.Thread(target=self._behind.end, name="hwgen-drain", daemon=True).start()

        ending = asyncio.get_running_loop().call_later(self._drain_seconds, end)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
