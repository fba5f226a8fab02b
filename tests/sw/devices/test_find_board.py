"""Which board a notebook gets: a virtual one where PYNQ finds none, the one that PYNQ finds otherwise."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.devices import find_board as board_finder
from hwgen.sw.devices.find_board import find_board
from hwgen.sw.devices.virtual_board import write_overlay
from tests.virtual_board import BOARD, CONFIG, new_board, require_pynq, serve_board

require_pynq()  # before what imports pynq, so that its absence skips this file

import pynq

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice

#: Of PYNQ's own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def board() -> VirtualBoard:
    return new_board()


@pytest.fixture
def board_file(tmp_path: Path) -> Path:
    path = tmp_path / "board.json"
    path.write_text(json.dumps({
        "name": "small", "description": "", "part": "", "available": {}, "memory_bandwidth": 0, "config": CONFIG.to_dict(),
    }))
    return path


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PYNQ device, and none left behind, nor the clocks of one, which PYNQ keeps although its board may be gone."""
    monkeypatch.setattr(pynq.Device, "_active_device", None, raising=False)
    monkeypatch.delattr(pynq.Device, "_active_device", raising=False)
    monkeypatch.setattr(pynq.Device, "_devices", [], raising=False)
    monkeypatch.delattr(pynq.Clocks, "_real_instance", raising=False)


def test_a_virtual_board_where_there_is_none(board: VirtualBoard, board_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain PYNQ and our device both work on it, and asking again gives it again."""
    monkeypatch.setattr(board_finder, "_virtual_device", lambda described, progress: SimulatedDevice(board))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_board(board=board_file)
    assert found.simulated and found.config == CONFIG
    assert str(found) == "virtual board small-simulated: the generated Verilog, simulated cycle by cycle"
    overlay = pynq.Overlay(str(found.bitstream))
    assert overlay.device is found.device
    device = PynqDevice(found.config, overlay=overlay)
    assert device.simulated and device.driver is overlay.accelerator
    assert find_board(board=board_file).device is found.device


def test_the_simulator_of_a_shipped_board(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(board_finder, "_virtual_device", lambda described, progress: asked.append(described.name) or 1 / 0)
    for options, name in (({}, "demo"), ({"simulate": "kv260"}, "kv260"), ({"board": "zcu104", "simulate": "demo"}, "zcu104")):
        with pytest.raises(ZeroDivisionError):
            find_board(**options)
        assert asked.pop() == name


def real(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, name: str) -> SimulatedDevice:
    """The virtual board without the name of one, as PYNQ's active device."""
    device = SimulatedDevice(board)
    device.name = "edge"
    pynq.Device.active_device = device
    monkeypatch.setenv("BOARD", name)
    return device


@pytest.mark.parametrize(("name", "shipped"), [("KV260", "kv260"), ("Pynq-Z2", "pynq-z2"), ("Ultra96", "ultra96v2")])
def test_a_board_that_pynq_finds(
    board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, shipped: str
) -> None:
    device = real(board, monkeypatch, name)
    bit = write_overlay(BOARD, tmp_path)
    found = find_board(bit)
    assert (found.board.name, found.simulated, found.bitstream) == (shipped, False, bit)
    assert found.device is device and str(found) == f"board {shipped}, bitstream small.bit"
    with pytest.raises(HwgenError, match=r"nowhere\.bit does not exist"):
        find_board(tmp_path / "nowhere.bit")
    bit.with_suffix(".hwh").unlink()
    with pytest.raises(HwgenError, match=r"small\.hwh does not exist"):
        find_board(bit)


@pytest.mark.parametrize(("name", "message"), [("ZCU111", "PYNQ calls this board 'ZCU111'"), ("", "does not say what it is")])
def test_a_board_without_a_build(
    board: VirtualBoard, board_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, message: str
) -> None:
    real(board, monkeypatch, name)
    bit = write_overlay(BOARD, tmp_path)
    with pytest.raises(HwgenError, match=message) as caught:
        find_board(bit)
    assert "kv260" in caught.value.fix
    assert find_board(bit, board=board_file).config == CONFIG


def test_a_board_across_the_network(board: VirtualBoard, board_file: Path) -> None:
    """An old firmware file of the same name is replaced, which PYNQ alone does not do."""
    with serve_board(board, port=0) as server:
        board.write_file("/lib/firmware/small.bin", b"what was there before")
        from hwgen.sw.devices.pynq_remote import connect

        pynq.Device.active_device = connect(f"127.0.0.1:{server.port}")
        found = find_board(board=board_file)
        assert found.simulated and str(found).startswith("virtual board small-simulated at 127.0.0.1")
        overlay = pynq.Overlay(str(found.bitstream))
        assert overlay.accelerator.read_register("MAGIC") == 0x6E677768
