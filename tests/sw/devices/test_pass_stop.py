"""A pass is stopped before its memory is given back."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwgen.registers import Status, register
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.devices.device import StopFailed
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.virtual_board import write_overlay
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session
from tests.golden_answers import generate
from tests.system.small import MEMORY_BYTES
from tests.virtual_board import (
    BOARD,
    CONFIG,
    PROMPT,
    image,
    make_deaf,
    new_board,
    outstanding,
    require_pynq,
    start_pass,
    status,
)

require_pynq()

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]

ROOT = Path(__file__).parents[3]
ENDED = Status.DONE | Status.STOPPED


# ---- memory is given back ----------------------------------------------------------------------------------------
def test_close_stops_the_pass(
    opened: Callable[..., PynqDevice], board: VirtualBoard, expected: tuple[list[int], list[int]]
) -> None:
    device = opened()
    start_pass(device)
    board.accelerator.tick(1500)
    assert status(board) == Status.BUSY
    device.close()
    assert status(board) == ENDED and not outstanding(board)
    assert board.contiguous.free_bytes == board.contiguous.size
    device.close()
    assert generate(opened()) == expected


def test_a_device_that_nobody_holds_any_more(board: VirtualBoard) -> None:
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    start_pass(device)
    board.accelerator.tick(500)
    del device
    gc.collect()
    assert status(board) == ENDED and board.contiguous.free_bytes == board.contiguous.size


def test_the_pass_of_another_device_goes_on(board: VirtualBoard, tmp_path: Path) -> None:
    """A notebook that opens the board anew drops the device of before at any time."""
    old = PynqDevice(CONFIG, target=SimulatedDevice(board))
    old.allocate(1)
    new = PynqDevice(CONFIG, target=SimulatedDevice(board), overlay=write_overlay(BOARD, tmp_path), download=False)
    start_pass(new)
    old.close()
    assert status(board) == Status.BUSY
    new.stop()
    assert status(board) == ENDED
    new.close()


def test_memory_of_a_machine_that_does_not_stop_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr("hwgen.sw.devices.pass_stop._KEPT", kept)
    monkeypatch.setattr("hwgen.sw.devices.pass_stop.STOP_SECONDS", 0.1)
    board = new_board()
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    start_pass(device)
    free, held = board.contiguous.free_bytes, len(device._holdings.buffers)
    make_deaf(board, monkeypatch)
    with pytest.raises(StopFailed, match=r"does not stop: .*within 0\.1 s; its memory is not given back") as caught:
        device.close()
    assert "load the bitstream again" in caught.value.fix
    gc.collect()
    assert 0 < len(kept) == held and board.contiguous.free_bytes == free < board.contiguous.size


CLIENT = """
import os, signal, sys
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session
from tests.virtual_board import CONFIG, PROMPT, image
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
device = PynqDevice(CONFIG, address=sys.argv[1])
Engine(device, image()).start([Run(Session(), PROMPT, 1)])
if sys.argv[2] == "ctrl-c":
    os.kill(os.getpid(), signal.SIGINT)
if sys.argv[2] == "error":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("way", "code"), [("end", 0), ("error", 3), ("ctrl-c", -signal.SIGINT)])
def test_the_interpreter_ends_in_a_pass(
    server: BoardServer, board: VirtualBoard, expected: tuple[list[int], list[int]], way: str, code: int
) -> None:
    address = f"127.0.0.1:{server.port}"
    result = subprocess.run([sys.executable, "-c", CLIENT, address, way], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == code, result.stderr
    assert way == "ctrl-c" or not result.stderr
    assert status(board) == ENDED and not outstanding(board)
    assert board.contiguous.free_bytes == board.contiguous.size


def test_golden_stops_between_operators() -> None:
    pytest.importorskip("torch", reason="the golden model needs torch")
    device = GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES)
    engine = Engine(device, image())
    device.stop()
    assert device.read_register(register(CONFIG, "STATUS").offset) == 0
    steps = device.hold_next_pass()
    engine.start([Run(Session(), PROMPT, 1)])
    done = 0
    for done, _ in enumerate(steps(), 1):
        if done == 5:
            device.stop()
    assert done == 5 and device.read_register(register(CONFIG, "STATUS").offset) == ENDED
    assert device.read_register(register(CONFIG, "COUNT_OPERATORS").offset) == 5
