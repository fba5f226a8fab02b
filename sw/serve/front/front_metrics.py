"""What ``/metrics`` of the front of several boards shows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from prometheus_client import Counter, Gauge

from ..metrics import ServerMetrics
from .board_link import BoardLink

__all__ = ["FrontMetrics"]


def _is_up(board: BoardLink) -> int:
    return int(board.up)


class FrontMetrics(ServerMetrics):
    """Counters of the front itself."""

    def __init__(self, boards: Iterable[BoardLink]) -> None:
        super().__init__()
        r = self.registry
        self.asked = Counter("hwgen_board_requests", "Requests that a board was asked.", ["board", "status"], registry=r)
        self.retried = Counter("hwgen_board_retries", "Requests that were asked elsewhere after this board.", ["board"], registry=r)
        self.broken = Counter("hwgen_board_broken_answers", "Streams that broke with this board.", ["board"], registry=r)
        self.moved = Counter("hwgen_prefixes_moved", "Prompts read by one board for another.", ["result"], registry=r)
        self.moved_bytes = Counter("hwgen_prefix_bytes", "Bytes of keys and values between boards.", registry=r)
        up = Gauge("hwgen_board_up", "1 while the board answers and its accelerator works.", ["board"], registry=r)
        busy = Gauge("hwgen_board_busy", "Requests that the board is asked now.", ["board"], registry=r)
        for board in boards:
            up.labels(board.address).set_function(partial(_is_up, board))
            busy.labels(board.address).set_function(partial(getattr, board, "busy"))
