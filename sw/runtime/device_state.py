"""What the host knows of a device between passes."""

from __future__ import annotations

from typing import Protocol

from ...config import BuildConfig
from .page_table import PageTable

__all__ = ["DeviceState"]


class Closing(Protocol):
    """Something that runs on a device."""

    def close(self) -> object:
        """End it."""


class DeviceState:
    """What the registers and the page table of a device hold, as those know it who write them: engines of several images on one
    device share it."""

    def __init__(self, config: BuildConfig) -> None:
        #: Values of registers by their offsets: written again where one changes.
        self.held: dict[int, int] = {}
        #: The values of WANT, and those that every doorbell needs, as they were held last.
        self.wants: list[int] = []
        self.rung: tuple[int, ...] = ()
        #: Where the page tables of sessions lie.
        self.table = PageTable(config.page_entries)
        #: Tokens of a pass that TOKEN has by their ids, as a loop left them.
        self.by_id = 0
        #: A pass was begun whose end nobody waited for yet.
        self.busy = False
        #: A loop that runs, or has ended and nobody has seen it.
        self.loop: Closing | None = None

    def forget(self) -> None:
        """Nobody knows what the registers hold."""
        self.held.clear()
        self.wants, self.rung = [], ()
