"""A virtual board with the build and the model of the system tests, so that they share one simulator."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwgen.boards import Board, load_board
from hwgen.registers import Status, register
from hwgen.sim.board.board import ACCELERATOR_BASE, VirtualBoard
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import Device
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session
from tests.system.small import CONFIG, SHAPE, SmallDevice, small_image

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer

__all__ = [
    "BOARD", "CONFIG", "PROMPT", "image", "make_deaf", "new_board", "outstanding", "require_pynq", "require_remote",
    "serve_board", "start_pass", "status", "subprocess_board",
]

#: 3 tokens are two rounds of the build's two lanes.
PROMPT = [5, 40, 17]
BOARD: Board = replace(load_board("demo"), name="small", config=CONFIG)


def require_pynq() -> None:
    """Skip a module where PYNQ is not installed: it is an extra of its own."""
    pynq = pytest.importorskip("pynq", reason='needs PYNQ: pip install "hwgen[pynq]"')
    if not hasattr(pynq.Clocks, "set_device"):  # PYNQ 3.0 asks the computer of the tests what clocks the board has
        pynq.ps.CPU_ARCH = pynq.ps.ZU_ARCH


def require_remote() -> None:
    """Skip a test, or a module that begins with this, where PYNQ drives no boards across the network."""
    require_pynq()
    if importlib.util.find_spec("pynq.remote") is None:
        pytest.skip("PYNQ 3.0 has no remote protocol", allow_module_level=True)


def serve_board(board: VirtualBoard, **options: Any) -> BoardServer:
    """The board behind PYNQ's remote protocol; ``options`` are those of the server."""
    require_remote()
    from hwgen.sim.board.server import BoardServer

    return BoardServer(board, **options)


def image() -> Image:
    return small_image(replace(SHAPE, layers=1))


def new_board(name: str = BOARD.name, **options: str) -> VirtualBoard:
    return VirtualBoard(SmallDevice().accelerator, CONFIG, board=name, **options)


def start_pass(device: Device) -> None:
    """A pass that nobody waits for."""
    Engine(device, image()).start([Run(Session(), PROMPT, 1)])


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
    require_remote()
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
    with serve_board(new_board(), port=0) as server:
        print(server.port, flush=True)
        parent = os.getppid()
        while os.getppid() == parent:  # never outlive the tests
            time.sleep(0.5)
