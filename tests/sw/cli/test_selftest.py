"""``hwgen selftest`` on a virtual board in this process, whole and with something wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import load_board
from hwgen.sim.board.board import VirtualBoard
from hwgen.sw.cli.main import main
from hwgen.sw.cli.memory import read_preset
from tests.virtual_board import require_pynq

from .calls import call

require_pynq()

import pynq

from hwgen.sim.board.local import SimulatedDevice
from hwgen.sw.devices.pynq import PynqDevice
from hwgen.sw.devices.virtual_board import virtual_board
from hwgen.sw.verification.bare_program import BareProgram

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PYNQ's own code

BOARD = load_board("demo")
FAST = ["identity", "leftover pass", "registers", "clock", "memory patterns"]

#: Control register of fabric clock 0, and what it is before an overlay sets it: 1.5 GHz by 15.
CLOCK, DEFAULT = 0xFF5E_00C0, 1 << 24 | 1 << 16 | 15 << 8


@pytest.fixture(scope="module")
def board() -> VirtualBoard:
    return virtual_board(BOARD, 1 << 26)


@pytest.fixture(autouse=True)
def active(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimulatedDevice]:
    monkeypatch.setattr(pynq.Device, "_active_device", SimulatedDevice(board), raising=False)
    monkeypatch.chdir(tmp_path)
    yield pynq.Device._active_device


@pytest.fixture
def only_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes behind the patterns passes without a look; the test of a whole run has it."""
    from hwgen.sw.verification.selftest import Found, SelfTest

    for name in ("speed", "answers", "power"):
        monkeypatch.setattr(SelfTest, name, lambda self: Found("not looked at", skipped=True))


def failed(result: dict[str, Any], name: str) -> dict[str, Any]:
    """The step that failed: this one; those before it passed, those behind it were not run."""
    verdicts = {step["name"]: step["verdict"] for step in result["steps"]}
    names = list(verdicts)
    at = names.index(name)
    assert verdicts[name] == "failed", verdicts
    assert all(verdicts[n] in ("ok", "skipped") for n in names[:at]) and {verdicts[n] for n in names[at + 1 :]} <= {"not run"}
    assert not result["passed"]
    step: dict[str, Any] = result["steps"][at]
    assert step["fix"]
    return step


def test_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", "--report", "a.json"]) == 0
    text = capsys.readouterr().out
    assert "demo: all steps passed; report: a.json" in text and "simulated" in text
    report = json.loads(Path("a.json").read_text())
    steps = {step["name"]: step for step in report["steps"]}
    assert [*steps][:5] == FAST and {s["verdict"] for n, s in steps.items() if n != "power"} == {"ok"}
    assert steps["power"]["verdict"] == "skipped"  # a virtual board has no sensor
    assert steps["clock"]["data"]["register_mhz"] == pytest.approx(250, rel=1e-3)
    assert report["passed"] and report["simulated"] and report["format"] == "hwgen-selftest-1"
    memory = report["memory"]
    assert memory["latency_ns"] == pytest.approx(240, abs=10)  # that of the simulated memory
    assert [s["ports"] for s in memory["sets"]] == [[0], [1], [0, 1]]
    one, other, both = (s["beats_per_cycle"] for s in memory["sets"])
    assert 0.45 < one <= 0.5 and 0.45 < other <= 0.5 and 0.9 < both <= 1
    words = [s["port_words"] for s in memory["sets"]]
    assert words[0][1] == 0 and words[1][0] < words[1][1] / 100 and min(words[2]) > max(words[2]) / 2
    assert read_preset(Path("a.json"), "demo") == (memory["latency_ns"], both)


@pytest.mark.usefixtures("only_fast")
def test_wrong_clock(capsys: pytest.CaptureFixture[str], board: VirtualBoard) -> None:
    assert call(capsys, "selftest")[0] == 0
    board.write_word(CLOCK, DEFAULT)
    code, result = call(capsys, "selftest", "--attach")
    step = failed(result, "clock")
    assert code == 1 and "99.9" in step["found"] and "Kria" in step["found"] and "250 MHz" in step["found"]
    assert "pynq.Clocks.fclk0_mhz = 250" in step["fix"]


@pytest.mark.usefixtures("only_fast")
@pytest.mark.parametrize(("lane", "mask"), [(0, 0x80), (5, 0x10), (15, 0xFF)])
def test_one_byte_lane_of_a_port(capsys: pytest.CaptureFixture[str], board: VirtualBoard, lane: int, mask: int) -> None:
    board.accelerator.corrupt_lane(1, lane, mask)
    try:
        code, result = call(capsys, "selftest")
    finally:
        board.accelerator.corrupt_lane(1, lane, 0)
    step = failed(result, "memory patterns")
    assert code == 1 and step["found"].startswith("port 1: ") and "; port" not in step["found"]
    assert f"on byte lane {lane}, bits 0x{mask:02x};" in step["found"]


@pytest.mark.parametrize("options", [[], ["--attach"]])
def test_another_configuration(capsys: pytest.CaptureFixture[str], board: VirtualBoard, options: list[str]) -> None:
    PynqDevice(BOARD.config, target=pynq.Device.active_device).close()  # loaded
    code, result = call(capsys, "selftest", "--set", "ring_beats=8192", *options)
    step = failed(result, "identity")
    assert code == 1 and ("contract hash" in step["found"]) and step["fix"]


def test_too_little_contiguous_memory(capsys: pytest.CaptureFixture[str], board: VirtualBoard) -> None:
    held = board.contiguous.allocate(board.contiguous.free_bytes - (1 << 20))
    try:
        code, result = call(capsys, "selftest")
    finally:
        board.contiguous.free(held)
    step = failed(result, "identity")
    assert code == 1 and "of contiguous memory, 1 MiB are free" in step["found"] and "end other programs" in step["fix"]


@pytest.mark.usefixtures("only_fast")
def test_leftover_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from hwgen.descriptors import Descriptor, Fetch, Opcode
    from hwgen.sw.devices.device import DeviceTimeout

    monkeypatch.setattr("hwgen.sim.board.board.STEP_SECONDS", 1e-6)  # or it is over before anybody looks
    monkeypatch.setattr("hwgen.sim.board.board.STEP_CYCLES", 50)
    device = PynqDevice(BOARD.config, target=pynq.Device.active_device)
    program = BareProgram(device, 8, 1 << 16)
    read = Descriptor(
        opcode=Opcode.PARAM, fetch=Fetch.STREAM, stream_address=program.data, stream_beats=2048, vectors=1, token_count=1
    )
    program.load([read] * 8)
    monkeypatch.setattr(device, "stop", lambda: None)  # a host that goes away
    with pytest.raises(DeviceTimeout):
        program.run(3, timeout=1e-6)
    code, result = call(capsys, "selftest", "--attach")
    step = failed(result, "leftover pass")
    assert code == 1 and "earlier host" in step["found"] and "notebook or server" in step["fix"]
    monkeypatch.undo()


def test_a_report_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    code, result = call(capsys, "selftest", "--set", "ring_beats=8192", "--report", "a/b.json")
    assert code == 2 and "a/b.json cannot be written" in result["error"]["message"] and "--report" in result["error"]["fix"]
