"""A virtual board with the build and the model of the system tests, so that they share one simulator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import Board, load_board
from hwgen.registers import Status, register
from hwgen.sim.board.board import ACCELERATOR_BASE, VirtualBoard
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import Device
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from tests.system.small import CONFIG, SHAPE, SmallDevice, small_image

__all__ = [
    "BOARD", "CONFIG", "PROMPT", "image", "make_deaf", "new_board", "outstanding", "require_pynq", "start_pass", "status",
    "subprocess_board",
]

#: 3 tokens are two rounds of the build's two lanes.
PROMPT = [5, 40, 17]
BOARD: Board = replace(load_board("demo"), name="small", config=CONFIG)


def require_pynq() -> None:
    """Skip a module where PYNQ is not installed: it is an extra of its own."""
    pytest.importorskip("pynq", reason='needs PYNQ and the libraries of its remote protocol: pip install "hwgen[pynq]"')


def image() -> Image:
    return small_image(replace(SHAPE, layers=1))


def new_board(name: str = BOARD.name, **options: str) -> VirtualBoard:
    return VirtualBoard(SmallDevice().accelerator, CONFIG, board=name, **options)


def start_pass(device: Device) -> None:
    """A pass that nobody waits for."""
    Engine(device, image()).start(Session(), PROMPT, logits=True)


def status(board: VirtualBoard) -> Status:
    """Of the accelerator, without time passing as it does for a host."""
    return Status(board.accelerator.read_register(register(CONFIG, "STATUS").offset))


def outstanding(board: VirtualBoard) -> int:
    """Reads and writes that memory owes the accelerator."""
    return sum(port.reads_outstanding + port.writes_outstanding for port in board.accelerator.port_statistics())


def make_deaf(board: VirtualBoard, patch: pytest.MonkeyPatch) -> None:
    """The machine hears of no STOP, and no time passes."""
    write, control = board.write_word, ACCELERATOR_BASE + register(CONFIG, "CONTROL").offset
    patch.setattr("hwgen.sw.devices.pass_stop.STOP_SECONDS", 0.1)
    patch.setattr(board, "_advance", lambda: None)
    patch.setattr(board, "write_word", lambda at, value: None if at == control else write(at, value))


@contextmanager
def subprocess_board() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A served board in a process of its own, to be killed; its process and port."""
    code = "from tests.virtual_board import serve; serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def serve() -> None:
    from hwgen.sim.board.server import BoardServer

    with BoardServer(new_board(), port=0) as server:
        print(server.port, flush=True)
        parent = os.getppid()
        while os.getppid() == parent:  # never outlive the tests
            time.sleep(0.5)
