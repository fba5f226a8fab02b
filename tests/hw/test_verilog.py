from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hwgen.hw import verilog

from ..sw.conftest import CONFIG


def test_the_generator_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    def generate(config: object) -> str:
        runs.append("run")
        return f"module m{len(runs)}; endmodule"

    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verilog, "generate_verilog", generate)
    first = verilog.cached_verilog(CONFIG)
    assert verilog.cached_verilog(CONFIG) == first and len(runs) == 1
    # name and clock are not in the hardware, everything else is
    assert verilog.cached_verilog(replace(CONFIG, name="other", clock_mhz=100.0)) == first and len(runs) == 1
    assert verilog.cached_verilog(replace(CONFIG, topk=3)) != first and len(runs) == 2
    assert verilog.cached_verilog(replace(CONFIG, probe=True)) != first and len(runs) == 3
    monkeypatch.setattr(verilog, "generator_identity", lambda: "changed")
    assert verilog.cached_verilog(CONFIG) != first and len(runs) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_identity_covers_the_generators(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hwgen.hw

    before = verilog.generator_identity()
    assert before == verilog.generator_identity()
    (tmp_path / "new.py").write_text("x = 1\n")
    monkeypatch.setattr(hwgen.hw, "__path__", [*hwgen.hw.__path__, str(tmp_path)])
    assert verilog.generator_identity() != before


def test_identity_covers_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python may give signals other names, so it must not find this one's text."""
    before = verilog.generator_identity()
    monkeypatch.setattr(verilog, "sys", SimpleNamespace(version_info=SimpleNamespace(major=3, minor=99)))
    assert verilog.generator_identity() != before
