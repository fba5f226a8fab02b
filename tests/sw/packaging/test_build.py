from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.contract import contract_hash
from hwgen.errors import HwgenError
from hwgen.sw.packaging import build

BOARD = load_board("demo")


@pytest.fixture(autouse=True)
def verilog(monkeypatch: pytest.MonkeyPatch) -> str:
    text = "module hwgen_accelerator; endmodule\n"
    monkeypatch.setattr(build, "cached_verilog", lambda config, progress: text)
    monkeypatch.setattr(build, "check_directory", lambda directory: {})
    return text


def names(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_files_and_manifest(tmp_path: Path, verilog: str) -> None:
    out = tmp_path / "deep" / "out"
    result = build.build_board(BOARD, out)
    assert names(out) == result["files"]
    assert (out / "hwgen_accelerator.v").read_text() == verilog
    manifest = json.loads((out / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert manifest["contract_hash"] == result["contract_hash"] == f"{contract_hash(BOARD.config):016x}"
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
    with pytest.raises(HwgenError, match="not an earlier build"):
        build.build_board(BOARD, mine)
    assert (mine / "thesis.txt").read_text() == "precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(HwgenError, match="not an earlier build"):
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


def test_steps_and_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = load_board("pynq-z2")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    build.build_board(board, whole)
    first = build.build_board(board, parts, last="registers")
    assert first["steps"] == ["verilog", "registers"] and not (parts / "component.xml").exists()
    assert names(parts) == first["files"]

    def no_verilog(*arguments: object) -> str:
        raise AssertionError("resuming generates nothing again")

    monkeypatch.setattr(build, "cached_verilog", no_verilog)
    build.build_board(board, parts, first="core", last="design")
    build.build_board(board, parts, first="handoff")
    assert names(parts) == names(whole)
    for name in names(whole):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    # The checks alone.
    assert build.build_board(board, parts, first="check")["steps"] == ["verilog", "registers", "core", "design", "handoff"]


def test_resuming_needs_the_same_undamaged_build(tmp_path: Path) -> None:
    board, out = load_board("pynq-z2"), tmp_path / "out"
    with pytest.raises(HwgenError, match="no earlier build"):
        build.build_board(board, out, first="core")
    build.build_board(board, out, last="verilog")
    with pytest.raises(HwgenError, match="has not done step registers"):
        build.build_board(board, out, first="core")
    other = replace(board, config=replace(board.config, topk=4))
    with pytest.raises(HwgenError, match="has another configuration or generator"):
        build.build_board(other, out, first="registers")
    with pytest.raises(HwgenError, match="has another configuration or generator"):
        build.build_board(replace(board, part="xc7z010clg400-1"), out, first="registers")
    (out / "hwgen_accelerator.v").write_text("module other; endmodule\n")
    with pytest.raises(HwgenError, match="hwgen_accelerator.v in .* was changed"):
        build.build_board(board, out, first="registers")
    (out / "manifest.json").write_text("{}")
    with pytest.raises(HwgenError, match="damaged"):
        build.build_board(board, out, first="registers")
    for first, last, message in (("core", "verilog", "comes after"), ("route", "check", "'route' is not a step")):
        with pytest.raises(HwgenError, match=message):
            build.build_board(board, out, first=first, last=last)


def test_results_of_vivado_survive_an_equal_build_only(tmp_path: Path) -> None:
    board, out = load_board("pynq-z2"), tmp_path / "out"
    build.build_board(board, out)
    (out / "overlay").mkdir()
    (out / "overlay" / "hwgen.bit").write_text("an hour of work")
    build.build_board(board, out)
    assert (out / "overlay" / "hwgen.bit").read_text() == "an hour of work"
    build.build_board(replace(board, config=replace(board.config, topk=4)), out)
    assert not (out / "overlay").exists()


def test_nothing_of_place_or_time(tmp_path: Path) -> None:
    """Equal inputs give equal bytes wherever and whenever they are built."""
    for name in ("kv260", "pynq-z2"):
        one, two = tmp_path / name / "one", tmp_path / name / "a deeper" / "two"
        build.build_board(load_board(name), one)
        build.build_board(load_board(name), two)
        assert names(one) == names(two)
        for file in names(one):
            data = (one / file).read_bytes()
            assert data == (two / file).read_bytes(), file
            assert str(tmp_path).encode() not in data and str(Path.home()).encode() not in data, file


def test_failed_checks_leave_the_earlier_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    build.build_board(BOARD, out)
    before = names(out)

    def fail(directory: Path) -> dict[str, str]:
        raise HwgenError("tool", "the Verilog is not clean")

    monkeypatch.setattr(build, "check_directory", fail)
    with pytest.raises(HwgenError, match="not clean"):
        build.build_board(BOARD, out)
    assert names(out) == before and [p.name for p in tmp_path.iterdir()] == ["out"]
