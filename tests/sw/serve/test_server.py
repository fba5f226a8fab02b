"""Which connections are closed, and when, by a clock that is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="serving needs uvicorn")

from hwgen.sw.serve.metrics import ServerMetrics
from hwgen.sw.serve.server import ConnectionLimits, Server


class Connection:
    """What is looked at of a connection of uvicorn."""

    def __init__(self, server: Server) -> None:
        self.cycle: Any = None
        self.flow = SimpleNamespace(write_paused=False)
        self.transport = SimpleNamespace(is_closing=lambda: self.closed, abort=self.abort)
        self.closed, self._server = False, server
        server.server_state.connections.add(self)  # type: ignore[arg-type]

    def abort(self) -> None:
        self.closed = True
        self._server.server_state.connections.discard(self)  # type: ignore[arg-type]

    def begin(self) -> None:
        self.cycle = SimpleNamespace(response_complete=False)


@pytest.fixture
def server() -> Server:
    behind: Any = SimpleNamespace(metrics=ServerMetrics(), on_failure=lambda told: None)
    limits = ConnectionLimits(head_seconds=10, write_seconds=20, connections=3)
    return Server(lambda: None, behind, limits=limits)  # type: ignore[arg-type]  # never called


def closed(server: Server, reason: str) -> float:
    return server._behind.metrics.registry.get_sample_value("hwgen_connections_closed_total", {"reason": reason}) or 0


def test_no_head_in_time(server: Server) -> None:
    idle, busy, kept = (Connection(server) for _ in range(3))
    busy.begin()
    kept.begin()
    server._look(0)
    kept.cycle.response_complete = True  # from now on it waits for the next request
    server._look(5)
    server._look(10)
    assert idle.closed and not busy.closed and not kept.closed
    kept.begin()
    server._look(12)
    kept.cycle.response_complete = True
    server._look(14)
    server._look(23)
    assert not kept.closed  # each request has a time of its own
    server._look(24)
    assert kept.closed and not busy.closed and closed(server, "head") == 2


def test_nothing_is_read_for_too_long(server: Server) -> None:
    connection = Connection(server)
    connection.begin()
    connection.flow.write_paused = True
    server._look(0)
    server._look(15)
    connection.flow.write_paused = False  # it has read a little
    server._look(16)
    connection.flow.write_paused = True
    server._look(17)
    server._look(36)
    assert not connection.closed
    server._look(37)
    assert connection.closed and closed(server, "write") == 1


def test_more_than_there_is_room_for(server: Server) -> None:
    """Those that have waited longest make way; those that are being answered never do."""
    connections = []
    for second in range(6):
        connections.append(Connection(server))
        if second in (0, 3):
            connections[-1].begin()
        server._look(second / 10)
    assert [c.closed for c in connections] == [False, True, True, False, True, False]
    assert closed(server, "full") == 3
