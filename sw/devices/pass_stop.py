"""Ends a pass that runs, so that nothing of it reads or writes memory any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ...config import BuildConfig
from ...registers import Control, Status, register
from .device import StopFailed

__all__ = ["STOP_SECONDS", "Holdings", "PassStop"]

#: Seconds that a machine may take to stop: the longest operator, a head of a gigabyte, ends in a tenth of one.
STOP_SECONDS = 10.0

#: Seconds between looks at a machine that stops.
POLL_SECONDS = 1e-3

#: Buffers of machines that did not stop. Nobody else may get their memory while this process lives.
_KEPT: list[Any] = []


class PassStop:
    """Stops the pass of one accelerator through its registers, a `pynq.MMIO`; those that this uses are the same in every build."""

    def __init__(self, mmio: Any) -> None:
        self._mmio, self._seconds = mmio, STOP_SECONDS
        config = BuildConfig()
        self._status, self._control, self._low, self._high = (
            register(config, name).offset for name in ("STATUS", "CONTROL", "PROGRAM_LOW", "PROGRAM_HIGH")
        )

    def _read(self, offset: int) -> int:
        return int(self._mmio.read(offset))

    @property
    def is_busy(self) -> bool:
        """Whether a pass is running."""
        return Status.BUSY in Status(self._read(self._status))

    @property
    def program(self) -> int:
        """Address of the program that runs, or ran last."""
        return self._read(self._high) << 32 | self._read(self._low)

    def __call__(self) -> None:
        """Stop the pass that runs, if one does, and return when it has ended, with nothing in flight.
        :class:`StopFailed` when the machine does not stop.
        """
        self._mmio.write(self._control, int(Control.STOP))
        end = time.monotonic() + self._seconds
        while self.is_busy:
            if time.monotonic() > end:
                raise StopFailed(f"the operator that runs has not ended within {self._seconds:g} s")
            time.sleep(POLL_SECONDS)


class Holdings:
    """The buffers of a device by address, and what must happen before they are given back. It does not know the device, which may
    so be collected while this waits for that.

    ``is_lost`` says of an exception that the board is gone, with everything on it.
    """

    def __init__(self, stop: PassStop, is_lost: Callable[[Exception], bool]) -> None:
        self.buffers: dict[int, Any] = {}
        self._stop, self._is_lost = stop, is_lost

    def release(self) -> None:
        """Stop the pass that runs on them, then give every buffer back. Where it does not stop it may write to them for good: they
        are kept. A pass on other buffers is of another device, opened after this one.
        """
        if not self.buffers:
            return
        places = [range(base, base + buffer.nbytes) for base, buffer in self.buffers.items()]
        buffers = list(self.buffers.values())
        self.buffers.clear()
        try:
            program = self._stop.program
            if any(program in place for place in places):
                self._stop()
        except BaseException as error:  # Ctrl-C too: nobody knows then whether the machine has stopped
            if not (isinstance(error, Exception) and self._is_lost(error)):
                _KEPT.extend(buffers)
                raise
        for buffer in buffers:
            try:
                buffer.freebuffer()
            except Exception as error:  # what a lost board raises only `is_lost` knows: grpc may be missing here
                if not self._is_lost(error):
                    raise
