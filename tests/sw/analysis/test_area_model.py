from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwgen.boards import board_names, load_board
from hwgen.config import BuildConfig
from hwgen.hw.choice import choice_entries
from hwgen.hw.interfaces import index_bits
from hwgen.hw.linear.lane import SHARED_ROWS
from hwgen.hw.linear.tables import ENTRY_BITS
from hwgen.sw.analysis import area_model
from hwgen.sw.analysis.area_accepted import accepted_path
from hwgen.sw.analysis.area_model import KINDS, block_rams, estimate_resources, mux_luts, predicted_uram, tree_bits, ultra_rams
from hwgen.sw.analysis.yosys import family_of

#: What Yosys made of a configuration: the accepted figures of every board, and more points that the model was fitted to.
ACCEPTED = [path for name in board_names() if (path := accepted_path(load_board(name), name)).exists()]
REPORTS = [*ACCEPTED, *sorted((Path(__file__).parent / "data").glob("report_*.json"))]


def test_constants_are_those_of_the_lanes() -> None:
    """The model is for a board too, which has no generators."""
    assert (area_model._ENTRY_BITS, area_model._SHARED_ROWS) == (ENTRY_BITS, SHARED_ROWS)


def name_of(path: Path) -> str:
    return path.parent.name if path.name == "resources.json" else path.stem


@pytest.mark.parametrize("path", REPORTS, ids=name_of)
def test_model_is_near_to_yosys(path: Path) -> None:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows = {name: row for name, row in report["units"].items() if "/" not in name}
    found = rows.pop("total")
    estimate = estimate_resources(BuildConfig.from_dict(report["config"]))
    # Fitted to UltraScale+; of the seven series Yosys puts adders and their registers into the DSP slices too.
    seven_series = path in ACCEPTED and family_of(load_board(path.parent.name).part) == "xc7"
    share, unit_share = (0.1, 0.25) if seven_series else (0.05, 0.15)
    for kind in KINDS:
        assert estimate.total[kind] == pytest.approx(found[kind], rel=share, abs=4), kind
    assert set(estimate.units) == set(rows)
    for name, row in rows.items():
        for kind in KINDS:
            # A few look-up tables of a small unit are no matter.
            allowed = max(unit_share * row[kind], 600 if kind in ("lut", "ff") else 2)
            assert abs(getattr(estimate.units[name], kind) - row[kind]) <= allowed, (name, kind)


def test_there_are_reports_of_small_and_large_configurations() -> None:
    sizes = [json.loads(path.read_text(encoding="utf-8"))["units"]["total"]["lut"] for path in REPORTS]
    assert len(sizes) >= 2 and max(sizes) > 1.5 * min(sizes)


@pytest.mark.parametrize(
    ("depth", "bits", "count"),
    [(512, 72, 1), (512, 36, 0.5), (513, 36, 1), (512, 168, 2.5), (2048, 256, 14.5), (4096, 64, 7.5), (1024, 32, 1), (32768, 1, 1)],
)
def test_block_rams(depth: int, bits: int, count: float) -> None:
    assert block_rams(depth, bits) == count


def test_multiplexer() -> None:
    assert [mux_luts(n) for n in (1, 2, 4, 5, 8, 16)] == [0, 1, 1, 3, 3, 5]


def test_adder_tree() -> None:
    # 3 entries of 10 bits: one sum of 11 bits and one entry that waits; their sum is in the slice.
    assert tree_bits(3) == (11, 11 + 10)
    # 5 entries: two sums of 11 bits and one entry, then one of 12 bits and the entry.
    assert tree_bits(5) == (2 * 11 + 12, 2 * 11 + 10 + 12 + 10)
    assert tree_bits(1) == tree_bits(2) == (0, 0)


BASE = BuildConfig(scratch_memory="ultra", activation_memory="ultra")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("lut", {"lanes": 3}),
        ("lut", {"groups": 4}),
        ("lut", {"query_lanes": 4}),
        ("dsp", {"query_lanes": 4}),
        ("ff", {"builders": 14, "rows": 8, "lanes": 3}),
        ("bram36", {"chunk": 16}),
        ("uram", {"ring_beats": 16384}),
        ("uram", {"scratch_vectors": 8192}),
        ("bram36", {"panel_rows": 4096}),
        ("bram36", {"ring_memory": "block"}),
        ("bram36", {"scratch_memory": "block"}),
        ("bram36", {"activation_memory": "block"}),
    ],
)
def test_more_hardware_costs_more(kind: str, changes: dict[str, Any]) -> None:
    if changes.get("rows") == 8:
        changes = {**changes, "builders": 7}
    assert estimate_resources(replace(BASE, **changes)).total[kind] > estimate_resources(BASE).total[kind]


def test_without_ultra_memories_there_is_no_ultraram() -> None:
    config = BuildConfig(ring_memory="block", scratch_memory="block", activation_memory="block")
    assert estimate_resources(config).total["uram"] == 0


@pytest.mark.parametrize(
    ("depth", "bits", "count"),
    [
        (4096, 72, 1), (4097, 72, 2), (1, 1, 1), (4096, 73, 2), (8192, 512, 16), (8192, 36, 2), (8192, 37, 2), (16384, 128, 8),
        (28672, 256, 28), (24576, 256, 24), (20736, 64, 6), (4096, 256, 4),
    ],
)
def test_ultra_rams(depth: int, bits: int, count: int) -> None:
    """As Vivado lays them out, in whole blocks of 4096 x 72; Yosys 0.70 makes 25 of 28672 x 256."""
    assert ultra_rams(depth, bits) == count


def test_every_ultra_memory_is_predicted() -> None:
    """Ring 14, scratch 28, running sums of attention 2, activations 6: what `hwgen report --board kv260` counts."""
    assert predicted_uram(load_board("kv260").config) == 14 + 28 + 2 + 6


def test_a_budget_of_blocks_adds_its_lists() -> None:
    """On the kv260 384 lists of 32 blocks of 9 bits in three block RAMs; one of them in registers, with scores of 24 bits."""
    config = load_board("kv260").config
    plain, half, budget = (estimate_resources(replace(config, kv_budget=n)) for n in (0, 16, 32))
    assert plain == estimate_resources(config)
    assert budget.total["bram36"] - plain.total["bram36"] == block_rams(384 * 32, 9) == 3
    assert half.total["bram36"] - plain.total["bram36"] == 1.5
    assert budget.total["lut"] - plain.total["lut"] == 250 + 32 * 55 + 64
    assert budget.total["ff"] - half.total["ff"] == 16 * (24 + 9 + 1)
    assert (budget.total["uram"], budget.total["dsp"]) == (plain.total["uram"], plain.total["dsp"])
    assert set(budget.units) == set(plain.units), "the attention unit has it"


@pytest.mark.parametrize(("budget", "lut", "ff", "bram36"), [(4, 358, 406, 0.5), (16, 1017, 820, 1.5), (32, 1898, 1366, 3)])
def test_lists_take_what_yosys_made_of_them(budget: int, lut: int, ff: int, bram36: float) -> None:
    """`BlockChoice` of the kv260 alone, flattened; a build has about 112 look-up tables and 63 flip-flops more around it."""
    found = area_model.choice(replace(load_board("kv260").config, kv_budget=budget))
    assert (found.lut, found.ff) == (pytest.approx(lut + 112, rel=0.01), pytest.approx(ff + 63, rel=0.01))
    assert (found.bram36, found.uram, found.dsp) == (bram36, 0, 0)


@pytest.mark.parametrize("changes", [{}, {"chunk": 6, "max_kv_heads": 5}, {"kv_budget": 7}], ids=str)
def test_lists_are_those_of_the_unit(changes: dict[str, Any]) -> None:
    config = replace(load_board("kv260").config, **{"kv_budget": 32, **changes})
    assert area_model.choice_memory(config) == (choice_entries(config), index_bits(config.max_pages))
