"""What callers of devices may leave out, and what they get then."""

from __future__ import annotations

from hwgen.sw.devices.board_checks import Check, check_board
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.devices.pynq_memory import contiguous_advice
from hwgen.sw.devices.watch import WatchLimits
from tests.test_defaults import Default, check_defaults

DEFAULTS: list[Default] = [
    (Check, {"optional": False}), (check_board, {"needed": 0}), (GoldenDevice, {"memory_bytes": 2**30}),
    (PynqDevice, {"download": True, "memory_bytes": 0, "call_seconds": 60.0}),
    (contiguous_advice, {"seven": False}), (WatchLimits, {"idle_cycles": 4_000_000, "silence": 10.0}),
]


def test_defaults() -> None:
    check_defaults(DEFAULTS)
