"""How a pass that was interrupted says it ended; `tests/system/test_random.py` interrupts passes."""

from __future__ import annotations

from functools import cache

import pytest

from hwgen.descriptors import DESCRIPTOR_BYTES
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.verification.interrupted import Fault, Interruption, _told
from tests.system.small import CONFIG, MEMORY_BYTES, small_image

FAULT = Interruption(fault=Fault(0, True, 5, 3))
DAMAGED = Interruption(damaged=8 * DESCRIPTOR_BYTES * 4)


@cache
def engine() -> Engine:
    return Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), small_image())


@pytest.mark.parametrize(("what", "message", "how", "right"), [
    (Interruption(stop=3), "the pass was stopped at operator 4", "stopped", True),
    (FAULT, "the pass was stopped at operator 4", "stopped", False),
    (FAULT, "memory port 0 answered a write with response 3 at operator 4", "failed", True),
    (FAULT, "memory port 1 answered a write with response 3 at operator 4", "failed", False),
    (FAULT, "memory port 0 answered a read with response 3 at operator 4", "failed", False),
    (FAULT, "memory port 0 answered a write with response 2 at operator 4", "failed", False),
    (FAULT, "memory port 0 answered a write with response 3 at operator 65000", "failed", False),
    (Interruption(stop=3), "memory port 0 answered a write with response 3 at operator 4", "failed", False),
    (DAMAGED, "the descriptor behind operator 3 is damaged: its check word is wrong", "failed", True),
    (DAMAGED, "the first descriptor is damaged: its check word is wrong", "failed", True),
    (DAMAGED, "the descriptor behind operator 4 is damaged: its check word is wrong", "failed", False),
    (FAULT, "the first descriptor is damaged: its check word is wrong", "failed", False),
])
def test_what_is_told_is_what_happened(what: Interruption, message: str, how: str, right: bool) -> None:
    ended, wrong = _told(engine(), what, message)
    assert (ended, not wrong) == (how, right), wrong
