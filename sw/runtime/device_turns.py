"""One device for several models: whose turn it is. Changing takes filling its memory, and nothing of the fabric."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...errors import HwgenError
from .llm import LLM

__all__ = ["DeviceTurns"]

#: A turn lasts at least so many times as long as changing took, while there is something to do in it.
TURN_SHARE = 4

#: Seconds that :meth:`DeviceTurns.begin` waits at a time.
WAIT_SECONDS = 0.1


class DeviceTurns:
    """Turns of models on the device of the last of ``models``, which has it now. Every model has a thread of its own.

    A turn ends when its answers have ended and another model is wanted; while others wait, no answer begins in a turn that has
    lasted long enough. Who wants it first gets it next.
    """

    def __init__(self, models: Sequence[LLM], clock: Callable[[], float] = time.monotonic) -> None:
        self._changed, self._clock = threading.Condition(), clock
        self.holder = models[-1]
        #: An answer of the holder has begun, and perhaps not ended.
        self._busy = False
        self._wanted: list[LLM] = []
        self._since, self._took = clock(), 0.0
        #: Times that the device changed hands.
        self.changes = 0

    def begin(self, model: LLM, running: int) -> bool:
        """Whether an answer of ``model``, which has ``running`` others, may begin. Where it has none it is given the device if that
        is free, or becomes so within `WAIT_SECONDS`.
        """
        with self._changed:
            others = any(wanted is not model for wanted in self._wanted)
            over = others and self._clock() - self._since >= TURN_SHARE * self._took
            if self.holder is model and not over:
                self._busy = True
                return True
            if running:
                return False
            if self.holder is model:
                self._busy = False
            if model not in self._wanted:
                self._wanted.append(model)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._busy and self._wanted[0] is model, WAIT_SECONDS):
                return False
            self._wanted.remove(model)
            self._busy = True
            self._give(model)
            return True

    def _give(self, model: LLM) -> None:
        begin, device = self._clock(), self.holder.device
        if self.holder is not model:
            self.holder = model  # whatever happens: it is its scheduler that opens a device that fails now anew
            model.take(device)
            self.changes += 1
        self._since = self._clock()
        self._took = self._since - begin

    def rest(self, model: LLM, waiting: int) -> None:
        """No answer of ``model`` has a session, and ``waiting`` wait for one."""
        with self._changed:
            if self.holder is model:
                self._busy = False
            if not waiting and model in self._wanted:
                self._wanted.remove(model)
            self._changed.notify_all()

    @contextmanager
    def held(self, model: LLM) -> Iterator[None]:
        """In the block ``model`` has the device, or it is refused."""
        with self._changed:
            if self.holder is not model:
                raise HwgenError("busy", f"another model than {model.model.name!r} has the accelerator", "try again later")
            yield
