"""Answers in the making, as a scheduler takes them, and why it may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...errors import HwgenError
from .engine import Engine
from .generation import GeneratedToken, Generation, PassRequest

__all__ = ["DeviceFailed", "Job", "NoRoom", "Part", "QueueFull", "Turn"]


class QueueFull(HwgenError):
    """More answers are asked for than may wait."""

    def __init__(self, waiting: int) -> None:
        super().__init__("busy", f"{waiting} requests are waiting already", "try again later")


class DeviceFailed(HwgenError):
    """The device, and not one answer, is at fault."""

    def __init__(self, reason: str) -> None:
        super().__init__("device", f"the device failed: {reason}", "try again in a while")


class NoRoom(HwgenError):
    """What an answer computes next has no pages, whatever the other answers give back."""

    def __init__(self, engine: Engine, job: Job) -> None:
        need = engine.pages.blocks(job.generation.session.position + job.generation.remaining) + job.generation.summary_pages
        super().__init__(
            "context", f"the answer needs {need} KV pages, and too many are held by sessions outside the scheduler",
            "close these sessions, or give the cache more tokens",
        )


class Turn(Protocol):
    """Of a device that others use too."""

    def begin(self, running: int) -> bool:
        """Whether an answer may get a session beside ``running`` others. May block a while where there are none."""

    def rest(self, waiting: int) -> None:
        """No answer has a session; ``waiting`` wait for one."""


@dataclass(eq=False)
class Job:
    """One answer in the making. The callbacks are called by the thread that runs the scheduler."""

    generation: Generation
    on_token: Callable[[GeneratedToken], None]
    #: Called once, with the error if the answer could not be completed.
    on_end: Callable[[HwgenError | None], None]


#: A job of a pass, and what it computes for it.
Part = tuple[Job, PassRequest]
