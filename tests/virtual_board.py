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
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.compiler.image import Image
from tests.system.small import CONFIG, SHAPE, SmallDevice, small_image

__all__ = ["BOARD", "CONFIG", "PROMPT", "image", "new_board", "require_pynq", "subprocess_board"]

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
