"""Around the load of a bitstream: what runs is stopped, and the ports forget it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwgen.registers import Control, Status, register
from hwgen.sim.board.board import ACCELERATOR_BASE, VirtualBoard
from hwgen.sw.devices import loading
from hwgen.sw.devices.virtual_board import write_overlay
from tests.golden_answers import generate
from tests.virtual_board import BOARD, CONFIG, make_deaf, new_board, outstanding, require_pynq, start_pass, status

require_pynq()

import pynq
from pynq.pl_server import global_state

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]

ENDED = Status.DONE | Status.STOPPED


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Makes PYNQ's record say that a bitstream is loaded; the record. Files of FPGA manager and device tree are beside it."""
    manager, overlays = tmp_path / "fpga0", tmp_path / "overlays"
    manager.mkdir()
    overlays.mkdir()
    (manager / "state").write_text("operating\n")
    (manager / "flags").write_text("0\n")
    monkeypatch.setattr(loading, "FPGA_MANAGER", manager)
    monkeypatch.setattr(loading, "TREE_OVERLAYS", overlays)
    monkeypatch.setattr(global_state, "STATE_DIR", str(tmp_path))

    def write(bit: Path) -> Path:
        path = tmp_path / "global_pl_state_.json"
        path.write_text(json.dumps({"bitfile_name": str(bit), "active_name": "edge", "timestamp": ""}))
        return path

    return write


def test_a_pass_is_stopped_before_a_load(
    board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: Callable[[Path], Path]
) -> None:
    """As if the board were real: PYNQ knows what it loaded."""
    # A look at STATUS takes 50 cycles, on whatever computer: else it may see the pass to its end, and nothing is stopped.
    monkeypatch.setattr("hwgen.sim.board.board.STEP_SECONDS", 1e-6)
    monkeypatch.setattr("hwgen.sim.board.board.STEP_CYCLES", 50)
    bit = write_overlay(BOARD, tmp_path)
    first = PynqDevice(CONFIG, target=SimulatedDevice(board), overlay=bit)
    start_pass(first)
    board.accelerator.tick(1500)
    record(bit)
    target = SimulatedDevice(board)
    target.name = "edge"
    monkeypatch.setenv("BOARD", "small")
    found: list[tuple[Status, int]] = []
    load = board.load_bitstream

    def look_and_load(firmware: bytes) -> None:
        found.append((status(board), outstanding(board)))
        load(firmware)

    monkeypatch.setattr(board, "load_bitstream", look_and_load)
    said: list[str] = []
    PynqDevice(CONFIG, target=target, overlay=bit, progress=said.append).close()
    assert found == [(ENDED, 0)] and said == ["loading small.bit", "stopped the pass of an earlier host"]
    assert loading.unasked_answers(pynq) == 0
    # One that does not stop is loaded over.
    start_pass(first)
    with pytest.MonkeyPatch.context() as patch:
        make_deaf(board, patch)
        PynqDevice(CONFIG, target=target, overlay=bit, progress=said.append).close()
    assert "goes on until the bitstream is loaded" in said[-1] and status(board) == 0
    first.close()


def test_nothing_is_read_where_nothing_is_known_to_be_loaded(tmp_path: Path, record: Callable[[Path], Path]) -> None:
    """A read of an address without a slave stops a Zynq for good."""
    assert loading.loaded_accelerator() is None, "no record"
    bit = write_overlay(BOARD, tmp_path)
    path = record(bit)
    assert loading.loaded_accelerator() == ACCELERATOR_BASE
    manager, handoff, written = tmp_path / "fpga0", bit.with_suffix(".hwh"), path.stat().st_mtime

    for name, text in (("state", "unknown"), ("flags", "100")):
        before = (manager / name).read_text()
        (manager / name).write_text(text)
        assert loading.loaded_accelerator() is None, name
        (manager / name).write_text(before)
    os.utime(handoff, (written + 5, written + 5))
    assert loading.loaded_accelerator() is None, "built anew since"
    os.utime(handoff, (written - 5, written - 5))
    assert loading.loaded_accelerator() == ACCELERATOR_BASE
    other = tmp_path / "overlays" / "k26-starter-kits"
    other.mkdir()
    os.utime(other, (written + 5, written + 5))
    assert loading.loaded_accelerator() is None, "another loader came after"
    os.utime(other, (written - 5, written - 5))
    assert loading.loaded_accelerator() == ACCELERATOR_BASE
    text = handoff.read_text()
    for changed in (text.replace("hwgen:hwgen:accelerator", "acme:ip:toaster"), "no XML"):
        handoff.write_text(changed)
        os.utime(handoff, (written - 5, written - 5))
        assert loading.loaded_accelerator() is None
    handoff.unlink()
    assert loading.loaded_accelerator() is None


def test_ports_forget_the_fabric_of_before(board: VirtualBoard, expected: tuple[list[int], list[int]]) -> None:
    """A load in the middle of writes: without a reset of the ports, the next write's data would end the old one."""
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    start_pass(device)
    for _ in range(20_000):
        if board.accelerator.port_statistics()[0].writes_outstanding:
            break
        board.accelerator.tick()
    assert outstanding(board)
    again = PynqDevice(CONFIG, target=SimulatedDevice(board))
    assert not outstanding(board) and generate(again) == expected
    again.close()


def test_a_reset_of_the_ports_leaves_its_neighbours_alone(board: VirtualBoard) -> None:
    written: list[tuple[int, int]] = []
    target = SimulatedDevice(board)
    board.write_word(loading.RST_FPD_TOP, 1 << 16 | 1 << 8 | 1)
    write = board.write_word
    widths: list[str] = []
    target.set_axi_port_width = lambda parser: widths.append(parser)

    def spy(address: int, value: int) -> None:
        written.append((address, value))
        write(address, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "write_word", spy)
        loading.reset_ports(pynq, target, "parser")
    assert written == [(loading.RST_FPD_TOP, 1 << 16 | 0x1F80 | 1), (loading.RST_FPD_TOP, 1 << 16 | 1)]
    assert widths == ["parser"], "a port's reset takes its width back"
    board.write_word(loading.RST_FPD_TOP, 0)


def test_a_zynq_7000_has_no_such_reset(expected: tuple[list[int], list[int]]) -> None:
    """What its ports owe is answered to the new fabric, which discards it."""
    board = new_board("Pynq-Z2", arch="armv7l")
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    start_pass(device)
    while board.accelerator.port_statistics()[0].reads_outstanding < 3:
        board.accelerator.tick()
    again = PynqDevice(CONFIG, target=SimulatedDevice(board))
    assert outstanding(board)
    assert generate(again) == expected
    assert again.read_register(register(CONFIG, "UNASKED").offset) >= 3
    assert " answers that nobody had asked for" in again.describe_state()
    again.write_register(register(CONFIG, "CONTROL").offset, Control.ACKNOWLEDGE)
    again.close()


# ---- settings of the memory ports --------------------------------------------------------------------------------
def test_ports_are_set_whoever_loaded_the_design(opened: Callable[..., PynqDevice], board: VirtualBoard, tmp_path: Path) -> None:
    """The build has one port, which is HPC0, module AFIFM0; another program has left narrow ports, few commands, priorities."""
    bit = write_overlay(BOARD, tmp_path)
    opened(overlay=bit).close()
    spoiled = {0x00: 0xFFFF_FFFE, 0x04: 0x31, 0x08: 0x3, 0x14: 0xFFFF_FFFE, 0x18: 0x0, 0x1C: 0x7}
    for offset, value in spoiled.items():
        board.write_word(0xFD36_0000 + offset, value)
        board.write_word(0xFD38_0000 + offset, value)
    opened(overlay=bit, download=False)
    wanted = {0x00: 0xFFFF_FFF0, 0x04: 0x37, 0x08: 0, 0x14: 0xFFFF_EFF0, 0x18: 0x7, 0x1C: 0}
    assert {offset: board.read_word(0xFD36_0000 + offset) for offset in spoiled} == wanted
    assert {offset: board.read_word(0xFD38_0000 + offset) for offset in spoiled} == spoiled, "a port of others"


def test_ports_of_a_zynq_7000() -> None:
    """Two of its four ports; a register that is right already is not written."""
    board = new_board("Pynq-Z2", arch="armv7l")
    parameters = {
        "PCW_USE_S_AXI_HP0": "1", "PCW_S_AXI_HP0_DATA_WIDTH": "64", "PCW_USE_S_AXI_HP1": "0", "PCW_S_AXI_HP1_DATA_WIDTH": "64",
        "PCW_USE_S_AXI_HP2": "1", "PCW_S_AXI_HP2_DATA_WIDTH": "32",
    }
    parser = SimpleNamespace(family_ps="processing_system7", ps_name="ps", ip_dict={"ps": {"parameters": parameters}})
    board.write_word(0xF800_8000, 0x6)
    board.write_word(0xF800_A01C, 0xF)
    written: list[tuple[int, int]] = []
    write = board.write_word
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "write_word", lambda at, value: (written.append((at, value)), write(at, value)))
        for _ in range(2):
            loading.set_ports(pynq, SimulatedDevice(board), parser)
    assert written == [
        (0xF800_8000, 0x4), (0xF800_8004, 7), (0xF800_8018, 7),
        (0xF800_A000, 1), (0xF800_A004, 7), (0xF800_A014, 1), (0xF800_A018, 7), (0xF800_A01C, 0),
    ]
