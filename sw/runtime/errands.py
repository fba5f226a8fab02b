"""What others want done where nothing else touches the engine: between two passes, in the thread that runs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ...errors import HwgenError

__all__ = ["Errands"]

T = TypeVar("T")


class Errands:
    """Calls that wait for their thread; one at a time is added, run or refused."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, call: Callable[[], T]) -> Future[T]:
        """The result that ``call`` will have, or its error."""
        future: Future[T] = Future()
        self._waiting.append((future, call))
        return future

    def run(self) -> None:
        """Run all that wait. An error is of its caller alone."""
        while self._waiting:
            future, call = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:  # of who asked: it is raised where the answer is taken
                future.set_exception(error)

    def refuse(self, error: HwgenError) -> None:
        """End all that wait with an error."""
        while self._waiting:
            future, _ = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
