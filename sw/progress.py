"""Progress of long loops: a line now and then, none for what is over in a moment."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Ticker"]


class Ticker:
    """Passes on a message when the last one, or the beginning, is ``seconds`` ago."""

    def __init__(self, report: Callable[[str], None], seconds: float = 1.0) -> None:
        self._report = report
        self._seconds = seconds
        self._last = time.monotonic()

    def tick(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._report(text)
