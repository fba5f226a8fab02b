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
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.compiler.image import Image
from tests.system.small import CONFIG, SHAPE, SmallDevice, small_image

if TYPE_CHECKING:
    from hwgen.sim.board.server import BoardServer

__all__ = ["BOARD", "CONFIG", "PROMPT", "image", "new_board", "require_pynq", "require_remote", "serve_board", "subprocess_board"]

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
