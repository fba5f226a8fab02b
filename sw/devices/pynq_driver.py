"""PYNQ driver of the accelerator: ``overlay.accelerator`` is one after this module was imported. Needs ``pynq``."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pynq import DefaultIP

from ...config import BuildConfig
from ...registers import Register, register_map
from ...vlnv import VLNV
from .pynq_library import WORD

__all__ = ["AcceleratorDriver"]

#: Seconds between looks while an interrupt is waited for: an interrupt that is lost costs this much, not the pass; and tokens of a
#: loop come this late at most.
INTERRUPT_SLICE = 0.03

#: Longest pause between polls in seconds, and the part of the time waited so far that a pause may last.
POLL_SECONDS, POLL_PART = 1e-3, 0.05


class AcceleratorDriver(DefaultIP):
    """Registers by name. The names and offsets are those of the contract; PYNQ's ``register_map`` shows them too."""

    bindto = [VLNV]

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self._rows: dict[str, Register] = {}
        self.configure(BuildConfig())

    def configure(self, config: BuildConfig) -> None:
        """Use the register map of a build. Up to the counters of ports it is the same for all of them."""
        self._rows = {row.name: row for row in register_map(config)}

    def read_register(self, name: str, index: int = 0) -> int:
        row = self._rows[name]
        return int(self.mmio.read(row.offset + index * row.step)) & WORD

    def write_register(self, name: str, value: int, index: int = 0) -> None:
        row = self._rows[name]
        self.mmio.write(row.offset + index * row.step, int(value))

    @property
    def interrupt(self) -> Any | None:
        """PYNQ's interrupt of the accelerator; None where the design or the connection has none."""
        interrupt = getattr(self, "irq", None)
        return None if self.device.has_capability("REMOTE") else interrupt

    def pause(self, elapsed: float) -> None:
        """Let time pass between polls: to the interrupt where there is one, else a small part of the time waited so far."""
        interrupt = self.interrupt
        if interrupt is None or not _wait_for(interrupt):
            time.sleep(min(POLL_SECONDS, POLL_PART * elapsed))


def _wait_for(interrupt: Any) -> bool:
    """Wait a moment for an interrupt; False where that is impossible because this thread runs an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return False
    try:
        loop = asyncio.get_event_loop_policy().get_event_loop()  # where PYNQ's UIO reader is registered
    except RuntimeError:
        return False

    async def wait() -> None:
        try:
            await asyncio.wait_for(interrupt.wait(), INTERRUPT_SLICE)
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            return

    loop.run_until_complete(wait())
    return True
