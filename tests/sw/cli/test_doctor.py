"""``hwgen doctor``."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.published import PUBLISHED
from hwgen.sw.cli import doctor
from hwgen.sw.cli.main import main
from hwgen.sw.devices import loading
from hwgen.sw.devices.board_checks import BoardSystem

from .calls import call


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    _, result = call(capsys, "doctor")
    assert all(set(c) >= {"name", "ok", "found", "fix"} for c in result["checks"])
    assert {c["name"]: c["ok"] for c in result["checks"]}["numpy"]
    assert not doctor.check_package("no-such-distribution", "sim", False).ok


def test_answers_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only on a board, and only where an accelerator of ours is known to be loaded."""
    counts: list[int | None] = [7, None]
    monkeypatch.setattr(loading, "unasked_answers", lambda pynq: counts.pop(0))
    monkeypatch.setattr(loading, "FPGA_MANAGER", tmp_path / "fpga0")
    assert doctor.check_leftovers() == [] and len(counts) == 2
    pytest.importorskip("pynq", reason="needs PYNQ")
    monkeypatch.setattr(loading, "FPGA_MANAGER", tmp_path)
    (check,) = doctor.check_leftovers()
    assert check.ok and check.found == "7 since the bitstream was loaded"
    assert doctor.check_leftovers() == []


def test_of_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a board that has nothing; what is found in which case is tested with the checks themselves."""
    system = BoardSystem(root=tmp_path, environment={"BOARD": "Pynq-Z2"}, user=0)
    monkeypatch.setattr(doctor, "BoardSystem", lambda: system)
    code, result = call(capsys, "doctor", "--board", "--model", "stories")
    checks = {check["name"]: check for check in result["checks"]}
    assert code == 1 and checks["board"]["ok"] and checks["board"]["found"] == "Pynq-Z2"
    assert not checks["permissions"]["ok"] and checks["permissions"]["fix"]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("CmaTotal: 131072 kB\nCmaFree: 1024 kB\n")
    assert main(["doctor", "--board", "pynq-z2", "--model", "stories"]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if " memory " in line)
    assert line.startswith("not ok  memory") and "the model needs" in line and "fix: shut notebooks" in line
    code, result = call(capsys, "doctor", "--model", "stories")
    assert code == 2 and "are for a board" in result["error"]["message"]
    monkeypatch.setattr(doctor, "BoardSystem", lambda: BoardSystem(root=tmp_path, environment={}))
    code, result = call(capsys, "doctor", "--board")
    assert code == 2 and "does not say what it is" in result["error"]["message"] and "kv260" in result["error"]["fix"]


def test_what_models_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "BoardSystem", lambda: BoardSystem(root=tmp_path, environment={}, user=0))
    monkeypatch.setattr(doctor, "PUBLISHED", {name: PUBLISHED[name] for name in ("smollm2-135m", "bitnet-0.73b")})
    _, result = call(capsys, "doctor", "--board", "kv260")
    assert sorted(result["contiguous_bytes"]) == ["bitnet-0.73b", "smollm2-135m"]
    assert 80e6 < result["contiguous_bytes"]["smollm2-135m"] < 200e6
    _, result = call(capsys, "doctor", "--board", "demo")  # too small for the other
    assert list(result["contiguous_bytes"]) == ["smollm2-135m"]
