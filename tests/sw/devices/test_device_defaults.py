"""What callers of devices may leave out, and what they get then."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hwgen.sw.devices.board_checks import Check, check_board
from hwgen.sw.devices.device import DeviceTimeout, windows
from hwgen.sw.devices.find_board import find_board
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.devices.pynq_memory import contiguous_advice
from hwgen.sw.devices.virtual_board import hwh_text
from hwgen.sw.devices.watch import PassWatch, WatchLimits
from tests.test_defaults import Default, check_defaults

DEFAULTS: list[Default] = [
    (Check, {"optional": False}), (check_board, {"needed": 0}), (GoldenDevice, {"memory_bytes": 2**30}),
    (PynqDevice, {"download": True, "memory_bytes": 0, "call_seconds": 60.0}),
    (DeviceTimeout, {"state": ""}), (PassWatch.read, {"index": 0}),
    (contiguous_advice, {"seven": False}), (WatchLimits, {"idle_cycles": 4_000_000, "silence": 10.0}),
]


def test_defaults() -> None:
    check_defaults(DEFAULTS)


def test_windows_of_sixteen_mebibytes() -> None:
    """One behind the other, the last as long as what is left."""
    memory = np.zeros((1 << 25) + 3, np.uint8)
    pieces = list(windows(memory))
    assert [piece.size for piece in pieces] == [1 << 24, 1 << 24, 3] and all(piece.base is memory for piece in pieces)
    pieces[1][0] = 7
    assert memory[1 << 24] == 7 and not list(windows(memory[:0]))


@pytest.mark.parametrize(("of", "count", "named"), [
    (find_board, 1, {"board", "simulate", "progress"}), (hwh_text, 1, {"base_address", "leds_address"}),
    (PassWatch, 4, {"simulated", "limits"}), (check_board, 2, {"needed"}), (GoldenDevice, 1, {"memory_bytes"}),
    (WatchLimits, 0, {"idle_cycles", "silence"}),
], ids=lambda value: getattr(value, "__qualname__", None))
def test_options_have_names_in_every_call(of: Callable[..., Any], count: int, named: set[str]) -> None:
    """So that they may get others before them; what stands before them may have its name, too."""
    parameters = inspect.signature(of).parameters.values()
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == named
    assert sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) == count == len(parameters) - len(named)
