from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import load_board
from hwgen.contract import contract_hash
from hwgen.errors import HwgenError
from hwgen.sw.cli.build import describe_results
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
    build.build_board(load_board("pynq-z2"), out)
    (out / "notes.txt").write_text("mine")
    (out / "xgui" / "notes.txt").write_text("mine too")
    build.build_board(load_board("pynq-z2"), out, last="registers")
    assert not (out / "component.xml").exists() and not (out / "xgui" / "accelerator_v1_0.tcl").exists()
    assert (out / "notes.txt").read_text() == "mine" and (out / "xgui" / "notes.txt").read_text() == "mine too"
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

    monkeypatch.setattr(build, "place_build", fail)
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
    assert build.build_board(board, parts, first="check")["steps"] == ["verilog", "registers", "core", "design", "handoff", "app"]


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


def make_results(out: Path, text: str) -> None:
    """As Vivado would."""
    for name in ("work", "overlay"):
        (out / name).mkdir()
        (out / name / "hwgen.bit").write_text(text)


def test_results_of_vivado_are_never_lost(tmp_path: Path) -> None:
    """They stay with an equal build, are set aside for another one, and come back with theirs."""
    board, out = load_board("pynq-z2"), tmp_path / "out"
    other = replace(board, config=replace(board.config, topk=4))
    build.build_board(board, out)
    make_results(out, "an hour of work")
    assert build.build_board(board, out)["results"] == {
        "set_aside": {}, "restored": {}, "removed": [], "before": f"{contract_hash(board.config):016x}"
    }
    assert (out / "overlay" / "hwgen.bit").read_text() == "an hour of work"
    results = build.build_board(other, out)["results"]
    assert not (out / "overlay").exists() and not (out / "work").exists()
    assert set(results["set_aside"]) == {"work", "overlay"} and results["restored"] == {}
    aside = out / results["set_aside"]["overlay"]
    assert aside.name.startswith(f"overlay-{contract_hash(board.config):016x}-")
    assert (aside / "hwgen.bit").read_text() == "an hour of work"
    make_results(out, "another hour")
    # A part of a build is another build too.
    part = build.build_board(board, out, last="design")["results"]
    assert set(part["set_aside"]) == {"work", "overlay"} and part["restored"] == {}
    back = build.build_board(board, out)["results"]
    assert back["restored"] == {aside.name: "overlay", aside.name.replace("overlay", "work"): "work"}
    assert (out / "overlay" / "hwgen.bit").read_text() == (out / "work" / "hwgen.bit").read_text() == "an hour of work"
    assert [(out / name / "hwgen.bit").read_text() for name in part["set_aside"].values()] == ["another hour"] * 2


def test_clean_says_what_goes_and_removes_no_more(tmp_path: Path) -> None:
    board, out = load_board("pynq-z2"), tmp_path / "out"
    build.build_board(board, out)
    make_results(out, "old")
    aside = build.build_board(replace(board, config=replace(board.config, topk=4)), out)["results"]["set_aside"]
    make_results(out, "new")
    (out / "notes.txt").write_text("mine")
    said: list[str] = []
    results = build.build_board(board, out, said.append, clean=True)["results"]
    gone = sorted(["work", "overlay", *aside.values()])
    assert sorted(results["removed"]) == gone and results["set_aside"] == results["restored"] == {}
    removing = [line for line in said if line.startswith("removing")]
    assert removing == [f"removing {out / name}, 0.0 MB" for name in gone]
    assert not any((out / name).exists() for name in gone) and (out / "notes.txt").exists()


def test_an_interrupted_build_is_ended_by_the_next(tmp_path: Path) -> None:
    board, out, old = load_board("pynq-z2"), tmp_path / "out", tmp_path / ".out.old"
    build.build_board(board, out)
    make_results(out, "an hour of work")
    # Between the two moves of the directories, and between the second one and the move of the results.
    out.rename(old)
    build.build_board(board, out)
    assert (out / "overlay" / "hwgen.bit").read_text() == "an hour of work" and not old.exists()
    out.rename(old)
    shutil.copytree(old, out, ignore=shutil.ignore_patterns("work", "overlay"))
    build.build_board(board, out)
    assert (out / "overlay" / "hwgen.bit").read_text() == "an hour of work" and not old.exists()


def test_the_outcome_is_said() -> None:
    moved = {"work": "work-1", "overlay": "overlay-1"}
    results = {"set_aside": moved, "restored": {"work-2": "work"}, "removed": [], "before": "a"}
    lines = describe_results(results, "b")
    assert lines == [
        "work, overlay there are of another build (contract a): set aside as work-1, overlay-1; `make` makes those of this one",
        "work of this build had been set aside and are back in place",
    ]
    assert "(other generated files)" in describe_results(results, "a")[0]


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
