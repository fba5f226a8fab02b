"""A pass is stopped before its memory is given back, and before a bitstream is loaded over it."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwgen.registers import Control, Status, register
from hwgen.sim.board.board import ACCELERATOR_BASE, VirtualBoard
from hwgen.sw.devices import loading
from hwgen.sw.devices.device import StopFailed
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.virtual_board import write_overlay
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from tests.system.small import MEMORY_BYTES
from tests.virtual_board import BOARD, CONFIG, PROMPT, image, new_board, require_pynq

require_pynq()

import pynq  # noqa: E402
from pynq.pl_server import global_state  # noqa: E402

from hwgen.sim.board.local import SimulatedDevice  # noqa: E402
from hwgen.sim.board.server import BoardServer  # noqa: E402
from hwgen.sw.devices.pynq import PynqDevice  # noqa: E402

from .conftest import generate  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20"),  # of PYNQ's own code
    pytest.mark.usefixtures("active_device"),
]

ROOT = Path(__file__).parents[3]
ENDED = Status.DONE | Status.STOPPED


def start(device: PynqDevice) -> None:
    """A pass that has come some way."""
    Engine(device, image()).start(Session(), PROMPT, logits=True)


def status(board: VirtualBoard) -> Status:
    return Status(board.accelerator.read_register(register(CONFIG, "STATUS").offset))


def outstanding(board: VirtualBoard) -> int:
    return sum(port.reads_outstanding + port.writes_outstanding for port in board.accelerator.port_statistics())


def make_deaf(board: VirtualBoard, patch: pytest.MonkeyPatch) -> None:
    """The machine hears of no STOP, and no time passes."""
    write, control = board.write_word, ACCELERATOR_BASE + register(CONFIG, "CONTROL").offset
    patch.setattr("hwgen.sw.devices.pass_stop.STOP_SECONDS", 0.1)
    patch.setattr(board, "_advance", lambda: None)
    patch.setattr(board, "write_word", lambda at, value: None if at == control else write(at, value))


# ---- memory is given back ----------------------------------------------------------------------------------------
def test_close_stops_the_pass(
    opened: Callable[..., PynqDevice], board: VirtualBoard, expected: tuple[list[int], list[int]]
) -> None:
    device = opened()
    start(device)
    board.accelerator.tick(1500)
    assert status(board) == Status.BUSY
    device.close()
    assert status(board) == ENDED and not outstanding(board)
    assert board.contiguous.free_bytes == board.contiguous.size
    device.close()
    assert generate(opened()) == expected


def test_a_device_that_nobody_holds_any_more(board: VirtualBoard) -> None:
    device = PynqDevice(CONFIG, target=SimulatedDevice(board))
    start(device)
    board.accelerator.tick(500)
    del device
    gc.collect()
    assert status(board) == ENDED and board.contiguous.free_bytes == board.contiguous.size


def test_the_pass_of_another_device_goes_on(board: VirtualBoard, tmp_path: Path) -> None:
    """A notebook that opens the board anew drops the device of before at any time."""
    old = PynqDevice(CONFIG, target=SimulatedDevice(board))
    old.allocate(1)
    new = PynqDevice(CONFIG, target=SimulatedDevice(board), overlay=write_overlay(BOARD, tmp_path), download=False)
    start(new)
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
    start(device)
    free = board.contiguous.free_bytes
    make_deaf(board, monkeypatch)
    with pytest.raises(StopFailed, match=r"does not stop: .*within 0\.1 s; its memory is not given back") as caught:
        device.close()
    assert "load the bitstream again" in caught.value.fix
    gc.collect()
    assert len(kept) == 1 and board.contiguous.free_bytes == free < board.contiguous.size


CLIENT = """
import os, signal, sys
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.runtime.engine import Engine
from hwgen.sw.runtime.pages import Session
from tests.virtual_board import CONFIG, PROMPT, image
device = PynqDevice(CONFIG, address=sys.argv[1])
Engine(device, image()).start(Session(), PROMPT, logits=True)
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
    device = GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES)
    engine = Engine(device, image())
    device.stop()
    assert device.read_register(register(CONFIG, "STATUS").offset) == 0
    steps = device.hold_next_pass()
    engine.start(Session(), PROMPT, logits=True)
    done = 0
    for done, _ in enumerate(steps(), 1):
        if done == 5:
            device.stop()
    assert done == 5 and device.read_register(register(CONFIG, "STATUS").offset) == ENDED
    assert device.read_register(register(CONFIG, "COUNT_OPERATORS").offset) == 5


# ---- a bitstream is loaded ---------------------------------------------------------------------------------------
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
    bit = write_overlay(BOARD, tmp_path)
    first = PynqDevice(CONFIG, target=SimulatedDevice(board), overlay=bit)
    start(first)
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
    start(first)
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
    start(device)
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
    start(device)
    while board.accelerator.port_statistics()[0].reads_outstanding < 3:
        board.accelerator.tick()
    again = PynqDevice(CONFIG, target=SimulatedDevice(board))
    assert outstanding(board)
    assert generate(again) == expected
    assert again.read_register(register(CONFIG, "UNASKED").offset) >= 3
    assert " answers that nobody had asked for" in again.describe_state()
    again.write_register(register(CONFIG, "CONTROL").offset, Control.ACKNOWLEDGE)
    again.close()
