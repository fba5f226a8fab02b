"""Accepted area, depth and paths of a board (``boards/<name>/resources.json``), and what has grown since."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...boards import RESOURCES, Board
from ...config import BuildConfig
from ...errors import HwgenError
from ...files import write_whole
from .delays import TARGET

__all__ = ["Growth", "accept", "accepted_path", "compare", "compare_board", "load_accepted"]

#: Growth that is accepted: this share, and for what is counted by the hundred also this number.
TOLERANCE = 0.05
FLOOR = {"lut": 10, "lutram": 8, "ff": 10}

_MEASURES = (*RESOURCES, "depth_luts")


@dataclass(frozen=True)
class Growth:
    """One measure of one unit that is over what was accepted; ``accepted`` is None for a unit that is new."""

    unit: str
    measure: str
    accepted: float | None
    found: float

    def __str__(self) -> str:
        if self.accepted is None:
            return f"{self.unit}: is new, {self.measure} {self.found:g}"
        share = f" ({self.found / self.accepted - 1:+.1%})" if self.accepted else ""
        return f"{self.unit}: {self.measure} grew from {self.accepted:g} to {self.found:g}{share}"


def accepted_path(board: Board, given: str | Path) -> Path:
    """Where the accepted figures of ``--board given`` are: beside its board.json, a file for each of its configurations."""
    beside = Path(given).parent if str(given).endswith(".json") else Path(str(files("hwgen.board_data"))) / board.name
    return beside / (f"resources-{board.variant}.json" if board.variant else "resources.json")


def hardware_of(board: Board) -> dict[str, Any]:
    """The configuration without what is not in the hardware."""
    return {k: v for k, v in board.config.to_dict().items() if k not in ("name", "clock_mhz")}


def rows_by_name(result: dict[str, Any], main_units: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every figure that is compared: total, units, their parts (``linear/lane``), main units (``main/ternary_lane``)."""
    rows = {"total": {**result["resources"], "depth_luts": result["depth_luts"]}}
    for unit in result["units"]:
        rows[unit["name"]] = unit
        rows |= {f"{unit['name']}/{part['name']}": part for part in unit["parts"]}
    rows |= {f"main/{unit['name']}": unit for unit in main_units}
    return {name: {measure: row[measure] for measure in _MEASURES} for name, row in rows.items()}


def longest_by_unit(result: dict[str, Any]) -> dict[str, float]:
    """ns of the longest path inside every unit, and from one into another where it is near the target."""
    return {p["unit"]: p["ns"] for p in result["paths"] if " -> " not in p["unit"] or p["ns"] > (1 - TOLERANCE) * TARGET}


def accept(path: Path, board: Board, result: dict[str, Any], main_units: Iterable[dict[str, Any]], tool: str) -> None:
    """Write the figures down."""
    units = rows_by_name(result, main_units)
    engine = f" --engine {board.variant}" if board.variant else ""
    head = {"command": f"hwgen report --board {board.name}{engine} --accept", "tool": tool, "lut_per_mac": result["lut_per_mac"]}
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in units.items()]
    text = json.dumps({**head, "config": hardware_of(board), "paths": longest_by_unit(result)}, indent=2).removesuffix("\n}")
    write_whole(path, text + ',\n  "units": {\n' + ",\n".join(lines) + "\n  }\n}\n")


def load_accepted(path: Path, board: Board) -> dict[str, dict[str, float]]:
    """Accepted figures by unit; an error where there are none, or those of another configuration."""
    fix = f"run `hwgen report --board {board.name} --accept` and look at what it changes"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config, units = {**BuildConfig().to_dict(), **values["config"]}, values["units"]  # a field that is new had its default
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HwgenError("configuration", f"{path.name} of board {board.name} cannot be read: {error}", fix) from error
    now = hardware_of(board)
    changed = sorted(k for k in now if config.get(k) != now[k])
    if changed:
        raise HwgenError(
            "configuration", f"{path.name} of board {board.name} was accepted with another {', '.join(changed)}", fix
        )
    return {name: dict(row) for name, row in units.items()}


def compare(accepted: dict[str, dict[str, float]], found: dict[str, dict[str, Any]]) -> list[Growth]:
    """What of ``found`` is more than `TOLERANCE` over ``accepted``. A unit that is new is over as well."""
    over: list[Growth] = []
    for name, row in found.items():
        if name not in accepted:
            over.append(Growth(name, "lut", None, row["lut"]))
            continue
        for measure in _MEASURES:
            before, now = accepted[name][measure], row[measure]
            if now > before * (1 + TOLERANCE) and now - before > FLOOR.get(measure, 0):
                over.append(Growth(name, measure, before, now))
    return over


def compare_board(
    path: Path, board: Board, result: dict[str, Any], main_units: Iterable[dict[str, Any]]
) -> list[Growth]:
    """What has grown in a whole report, and paths that are longer than the table's target."""
    long = [Growth(p["unit"], "ns", TARGET, p["ns"]) for p in result["paths"] if p["ns"] > TARGET]
    return compare(load_accepted(path, board), rows_by_name(result, main_units)) + long
