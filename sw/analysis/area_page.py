"""The page on resources, rendered from accepted data: ``python -m hwgen.sw.analysis.area_page > docs/resources.md``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...boards import RESOURCES, Board, board_names, load_board
from .area_accepted import TOLERANCE, accepted_path, load_accepted
from .area_model import CEILINGS, estimate_resources
from .main_units import MAIN_UNITS
from .outside_cores import describe_outside, outside_resources

__all__ = ["resource_page", "with_outside"]

BOARD = "kv260"

_HEADINGS = {"lut": "LUT", "lutram": "of them memory", "ff": "FF", "bram36": "BRAM36", "uram": "URAM", "dsp": "DSP"}


def _table(first: str, *rest: str) -> list[str]:
    return [f"| {' | '.join((first, *rest))} |", "|---|" + "---:|" * len(rest)]


def _row(name: str, values: dict[str, Any]) -> str:
    cells = [f"{values[kind]:,}" if values[kind] != "" else "" for kind in (*RESOURCES, "depth_luts")]
    return f"| {' | '.join((name, *cells))} |"


def _ceilings() -> str:
    return f"| planning ceiling | {' | '.join(f'{CEILINGS[k]:.0%}' if k in CEILINGS else '' for k in RESOURCES)} | |"


def with_outside(board: Board, total: dict[str, Any]) -> dict[str, Any]:
    """What the accelerator takes, and AMD's cores around it."""
    outside = outside_resources(board)
    return {kind: total[kind] + outside[kind] for kind in RESOURCES}


def unit_table(board: Board, accepted: dict[str, Any]) -> list[str]:
    """Units, the parts of the linear engine, and the sum against device and ceilings."""
    units: dict[str, dict[str, Any]] = accepted["units"]
    total = units["total"]
    lines = _table("unit", *_HEADINGS.values(), "depth")
    for name, row in units.items():
        if "/" not in name and name != "total":
            lines.append(_row(name, row))
        elif name.startswith("linear/"):
            lines.append(_row(f"– {name.partition('/')[2]}", row))
    lines.append(_row("**total**", total))
    lines.append(_row("outside the core", {**outside_resources(board), "depth_luts": ""}))
    whole = with_outside(board, total)
    lines.append(_row("**with it**", {**whole, "depth_luts": ""}))
    shares = [f"{whole[kind] / board.available[kind]:.1%}" for kind in RESOURCES]
    lines.append(f"| of {board.part} | {' | '.join(shares)} | |")
    return [*lines, _ceilings()]


def board_table() -> list[str]:
    """Totals of every board with a device, AMD's cores around the accelerator included, with their shares of it."""
    lines = _table("board", *_HEADINGS.values(), "depth")
    for name in board_names():
        board = load_board(name)
        path = accepted_path(board, name)
        if not board.available or not path.exists():
            continue
        accepted = load_accepted(path, board)["total"]
        total = with_outside(board, accepted)
        cells = [
            f"{total[kind]:,} ({total[kind] / board.available[kind]:.1%})" if board.available[kind] else "–" for kind in RESOURCES
        ]
        lines.append(f"| {name} | {' | '.join([*cells, str(accepted['depth_luts'])])} |")
    return [*lines, _ceilings()]


def verdict(board: Board, accepted: dict[str, Any]) -> str:
    """What is above its ceiling."""
    total = with_outside(board, accepted["units"]["total"])
    above = [
        f"{_HEADINGS[kind]} {total[kind]:,}, ceiling {share * board.available[kind]:,.0f}"
        for kind, share in CEILINGS.items() if total[kind] > share * board.available[kind]
    ]
    return f"Above the planning ceilings: {'; '.join(above)}." if above else "Every kind is below its planning ceiling."


#: Fields of the configuration that a table of other builds changes: budgets of cached blocks, and lanes with tokens of a chunk.
_BUDGETS: tuple[dict[str, Any], ...] = ({"kv_budget": 16}, {"kv_budget": 32})
_LANES: tuple[dict[str, Any], ...] = (
    {"lanes": 8, "chunk": 32, "scratch_vectors": 40960}, {"lanes": 12},
    {"lanes": 12, "chunk": 48, "kv_block": 64, "scratch_vectors": 57344},
)


def build_table(board: Board, accepted: dict[str, Any], builds: Sequence[dict[str, Any]]) -> list[str]:
    """Totals of other builds: the accepted ones of the default, and what the closed form adds."""
    total, plain = with_outside(board, accepted["units"]["total"]), estimate_resources(board.config).total
    lines = _table("build", *(_HEADINGS[kind] for kind in CEILINGS))
    for build in ({}, *builds):
        more = estimate_resources(replace(board.config, **build)).total
        options = " ".join(f"--set {name}={value}" for name, value in build.items())
        cells = []
        for kind in CEILINGS:
            used = total[kind] + more[kind] - plain[kind]
            text = f"{used:,.{int(kind == 'bram36')}f}".removesuffix(".0")
            cells.append(f"{text} ({used / board.available[kind]:.1%})" if board.available[kind] else "–")
        lines.append(f"| {f'`{options}`' if options else 'default'} | {' | '.join(cells)} |")
    return lines


def main_table(accepted: dict[str, Any]) -> list[str]:
    """Every main unit by itself."""
    described = {unit.name: unit.description for unit in MAIN_UNITS}
    mains = {n.partition("/")[2]: row for n, row in accepted["units"].items() if n.startswith("main/")}
    rows = [_row(f"{name}: {described[name]}", row) for name, row in mains.items()]
    return _table("unit", *_HEADINGS.values(), "depth") + rows


def clock_table(routed: dict[str, Any] | None) -> list[str]:
    """Routed clock and size of every main unit."""
    if not routed or not routed["units"]:
        return ["Not committed for the present build; the command prints them."]
    return _table("unit", "MHz", "LUT4", "FF", "block RAM", "multiplier") + [
        f"| {row['name']} | {row['fmax_mhz']:.1f} | {row['lut']:,} | {row['ff']:,} | {row['bram']:,} | {row['multiplier']:,} |"
        for row in routed["units"]
    ]


def other_builds(board: Board, accepted: dict[str, Any]) -> str:
    """Sections on builds of which no report is accepted."""
    by_budget, by_lanes = ("\n".join(build_table(board, accepted, builds)) for builds in (_BUDGETS, _LANES))
    return f"""\
## With a budget of cached blocks

A build with `kv_budget` has a sorted list of that many blocks in registers, with a comparator an entry, and in block RAM the blocks
that every run of a pass chose for every key/value head. What it adds is in closed form (`sw/analysis/area_model.py`): no report of
such a build is accepted.

{by_budget}

## With more token lanes

A lane has its tables, its adders and its accumulators; a token of a chunk its part of the scratch memory. In closed form as well,
so with adders of look-up tables in every lane:

{by_lanes}

What a prompt would gain is in [results.md](results.md#kv260-whole-models-at-the-memory-of-the-board)."""


def resource_page(board: Board, accepted: dict[str, Any], routed: dict[str, Any] | None) -> str:
    """Markdown. Without ``routed`` the page says how to route the units."""
    by_board, by_unit = "\n".join(board_table()), "\n".join(unit_table(board, accepted))
    by_main, clocks = "\n".join(main_table(accepted)), "\n".join(clock_table(routed))
    outside = "\n".join(f"* {text}" for text in describe_outside(board))
    tools = f"{routed['device']}, {routed['tools']}, seed {routed['seed']}" if routed else "a Lattice ECP5, open flow"
    return f"""\
# Resources

Rendered by `python -m hwgen.sw.analysis.area_page > docs/resources.md` from `resources.json` and `fmax.json` in
`boards/`; do not edit. All figures are estimates of open tools. No vendor tool was run, so nothing here claims
that the build fits or closes timing.

## By board

The default configuration of every board ([boards.md](boards.md)) whose figures are accepted: `hwgen report --board B --accept`;
with AMD's cores around the accelerator, as told below.

{by_board}

The rest of this page is about {board.name}.

## By unit

`hwgen report --board {board.name}` ({accepted["tool"]}, `synth_xilinx -family xcup`). Counts are upper estimates: no two
look-up tables share a site. A RAM32M16 or RAM64M8 counts as 8 look-up tables. *depth* is look-up tables on the deepest path
between registers, memories and carry chains inside one module; what runs on through a module's ports counts in each module by
itself. Of `linear`, the parts are shown, copies together.

{by_unit}

{verdict(board, accepted)}

*Outside the core* are AMD's cores of the block design, which no synthesis of ours sees. Figures of others, or assumed:

{outside}

**{accepted["lut_per_mac"]:.2f} LUT** for each ternary multiply-accumulate a cycle: everything in `linear` (decoders,
builders, tables, lanes, accumulators) over tokens x 5 x bytes of a beat.

{other_builds(board, accepted)}

## Main units

Each by itself and flattened, so that *depth* sees paths through all of it; measured by `hwgen report --board {board.name}
--check`.

{by_main}

## Routed clock, a stand-in

`hwgen fmax --board {board.name} --json > boards/{board.name}/fmax.json`: {tools}.
The units of the {board.name} build, each between registers, which are counted.

The open flow routes no UltraScale+: these clocks rank units and show a change for the worse, and **say nothing of the clock
on a board**. An ECP5 is built in 40 nm (16 nm there) and has look-up tables of four inputs (six), distributed memory of 16 x
4 bits (32 x 16), block RAM of 18 Kbit (36), 18 x 18 multipliers (27 x 18), and no UltraRAM.

{clocks}

## Growth fails a test

`hwgen report --board {board.name} --check` compares every unit, part and main unit with `resources.json`: where one is more
than {TOLERANCE:.0%} larger or deeper, it names the unit and ends with code 1. `pytest tests/sw/analysis/test_area_accepted.py`
does so for the main units alone. A change that is meant is accepted with `{accepted["command"]}`; the difference of the file
shows what it costs.
"""


def load_routed(accepted: Path) -> dict[str, Any] | None:
    """The routed clocks beside the accepted resources, if they are committed."""
    path = accepted.with_name("fmax.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> None:
    board = load_board(BOARD)
    path = accepted_path(board, BOARD)
    accepted = json.loads(path.read_text(encoding="utf-8"))
    print(resource_page(board, accepted, load_routed(path)), end="")


if __name__ == "__main__":
    main()
