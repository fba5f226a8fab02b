"""``hwgen doctor``."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.sw.cli import doctor
from hwgen.sw.devices import loading

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
