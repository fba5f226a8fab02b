from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.sw import build

BOARD = load_board("demo")


@pytest.fixture(autouse=True)
def verilog(monkeypatch: pytest.MonkeyPatch) -> str:
    text = "module hwgen_accelerator; endmodule\n"
    monkeypatch.setattr(build, "cached_verilog", lambda config, progress: text)
    return text


def test_files_and_manifest(tmp_path: Path, verilog: str) -> None:
    out = tmp_path / "deep" / "out"
    result = build.build_board(BOARD, out)
    assert sorted(p.name for p in out.iterdir()) == result["files"]
    assert (out / "hwgen_accelerator.v").read_text() == verilog
    manifest = json.loads((out / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert manifest["contract_hash"] == result["contract_hash"] == f"{BOARD.config.contract_hash:016x}"
    assert json.loads((out / "config.json").read_text()) == BOARD.config.to_dict() == result["config"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_an_earlier_build_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    build.build_board(BOARD, out)
    (out / "stale").write_text("")
    build.build_board(BOARD, out)
    assert not (out / "stale").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(HwgenError, match="no earlier build"):
        build.build_board(BOARD, mine)
    assert (mine / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(HwgenError, match="no earlier build"):
        build.build_board(BOARD, tmp_path / "file")
    with pytest.raises(HwgenError, match="cannot be written"):
        build.build_board(BOARD, tmp_path / "file" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine", "out"]


def test_a_failure_leaves_the_earlier_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    build.build_board(BOARD, out)
    before = (out / "manifest.json").read_text()

    def fail(*arguments: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(build, "_place", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        build.build_board(BOARD, out)
    assert (out / "manifest.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_probes_are_never_built(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="probe outputs are for simulation"):
        build.build_board(replace(BOARD, config=replace(BOARD.config, probe=True)), tmp_path / "out")
