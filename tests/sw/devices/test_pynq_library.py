"""Libraries of a board that are missing below PYNQ: never a traceback, always what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.devices.pynq_library import active_device, missing_library
from tests.virtual_board import CONFIG, require_pynq

require_pynq()  # before what imports pynq, so that its absence skips this file

import pynq
from pynq.pl_server.embedded_device import EmbeddedDevice

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]


def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_active_device", "_devices"):
        monkeypatch.setattr(pynq.Device, name, None, raising=False)
        monkeypatch.delattr(pynq.Device, name)


def test_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYNQ_REMOTE_DEVICES", raising=False)
    nothing_found(monkeypatch)
    assert active_device(pynq) is None
    with pytest.raises(HwgenError, match="PYNQ finds no board") as caught:
        PynqDevice(CONFIG)
    assert "/etc/profile.d/pynq_venv.sh" in caught.value.fix and "--address" in caught.value.fix


def test_a_board_without_xrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYNQ itself, unmodified, where the FPGA manager is that of a board and XRT is not there."""
    monkeypatch.delenv("PYNQ_REMOTE_DEVICES", raising=False)
    manager = tmp_path / "firmware"
    manager.write_text("")
    monkeypatch.setattr(EmbeddedDevice, "BS_FPGA_MAN", str(manager))
    nothing_found(monkeypatch)
    missing = "(this Python has no pyxrt|XILINX_XRT is not set)"
    with pytest.raises(HwgenError, match=f"PYNQ cannot reach the board: {missing}") as caught:
        active_device(pynq)
    assert caught.value.kind == "device" and "pynq_venv.sh" in caught.value.fix


#: What PYNQ does as it is imported, and what is said about it.
IMPORTS = {
    "import pyxrt": "this Python has no pyxrt",
    "import ctypes; ctypes.CDLL('/usr/lib/libxrt_core.so.none')": "a library of the board is missing: /usr/lib/libxrt_core",
    "import subprocess; subprocess.run(['xbutil', '--version'])": "a library of the board is missing: .*xbutil",
    "import grpc_of_another_version": "needs a Python package that is missing: grpc_of_another_version",
    "raise KeyError('toaster')": "PYNQ cannot reach the board: KeyError: 'toaster'",
}


@pytest.mark.parametrize("statement", IMPORTS)
def test_pynq_cannot_be_imported(statement: str, tmp_path: Path) -> None:
    (tmp_path / "pynq.py").write_text(statement + "\n")
    code = f"""
import re, sys
sys.path.insert(0, {str(tmp_path)!r})
from hwgen.errors import HwgenError
from hwgen.sw.devices.pynq_library import import_pynq
try:
    import_pynq()
except HwgenError as error:
    assert re.search({IMPORTS[statement]!r}, error.message), error.message
    assert error.fix and chr(10) not in str(error)
    print("one line")
"""
    environment = {**os.environ, "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "one line\n", result.stderr


def raising(error: Exception) -> Any:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "/dev/mem"), "this kernel shows no registers: .*/dev/mem"),
        (PermissionError(13, "Permission denied", "/dev/mem"), "PYNQ needs root: .*/dev/mem"),
        (OSError("Root permissions required."), "PYNQ needs root: Root permissions required"),
    ],
)
def test_registers_that_cannot_be_reached(
    board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    monkeypatch.setattr(board, "read_word", raising(error))
    with pytest.raises(HwgenError, match=message):
        device.read_register(0)


def test_memory_that_nobody_can_give(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is missing is not told as memory that is missing."""
    target = SimulatedDevice(board)
    device = PynqDevice(CONFIG, target=target)
    monkeypatch.setattr(target, "allocate", raising(NameError("name 'pyxrt' is not defined")))
    with pytest.raises(HwgenError, match="this Python has no pyxrt"):
        device.allocate(4096)
    assert missing_library(ValueError("something else")) is None


def test_an_overlay_without_xclbinutil(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    target = SimulatedDevice(board)
    monkeypatch.setattr(target, "get_bitfile_metadata", raising(FileNotFoundError(2, "No such file or directory", "xclbinutil")))
    with pytest.raises(HwgenError, match="a library of the board is missing: .*xclbinutil"):
        PynqDevice(CONFIG, target=target)
