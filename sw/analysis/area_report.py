"""``hwgen report``: resources of a board's accelerator by unit, estimated with Yosys for the family of its device.

Every distinct module is synthesized once, without flattening, and counted as often as it is used; the modules of a unit go
through Yosys together, and what did not change since an earlier report comes from the cache. Depth is that of the deepest path
inside one module: what runs on through a module's ports counts in each module by itself. (`measure_main_unit` flattens, and sees
such paths whole.) The longest paths in ns go through carry chains, memories, DSP slices and ports (`hwgen.sw.analysis.paths`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ...boards import RESOURCES, Board
from ...config import BuildConfig
from ...hw.verilog import cached_verilog
from .area_model import CEILINGS, predicted_uram
from .main_units import MainUnit, unit_verilog
from .netlist import VerilogModule, black_box, merge_equal, parse_modules
from .outside_cores import describe_outside, outside_resources
from .paths import cached_paths, describe_paths
from .reset_loads import widest_reset
from .yosys import cached_synthesis, count_resources, family_of, ultra_rows, yosys_version

__all__ = ["describe_report", "measure_main_unit", "report_board"]

TOP = "hwgen_accelerator"


def measure_main_unit(
    unit: MainUnit, config: BuildConfig, *, family: str = "xcup", fresh: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Resources and depth of one component by itself, flattened."""
    verilog, tool = unit_verilog(unit.build(config)), yosys_version()
    found = cached_synthesis(
        verilog, "top", tool, lambda: progress(f"synthesizing {unit.name}"), fresh=fresh, flatten=True, family=family
    )
    return {"name": unit.name, **_rounded(count_resources(found["top"]["cells"])), "depth_luts": int(found["top"]["depth"])}


class Totals:
    """Sums over the hierarchy."""

    def __init__(
        self, modules: dict[str, VerilogModule], representative: dict[str, str], synthesized: dict[str, dict[str, Any]]
    ) -> None:
        self._modules, self._representative, self._synthesized = modules, representative, synthesized
        self._names = {name.lstrip("\\") for name in modules}

    def own(self, name: str) -> Counter[str]:
        """Primitives of a module without its submodules."""
        cells = self._synthesized[self._representative[name].lstrip("\\")]["cells"]
        return Counter({kind: n for kind, n in cells.items() if kind.lstrip("\\") not in self._names})

    def cells(self, name: str) -> Counter[str]:
        total = self.own(name)
        for instance in self._modules[name].instances:
            total.update(self.cells(instance.module))
        return total

    def depth(self, name: str) -> int:
        """Longest path between registers in cells, module by module."""
        return max([self.own_depth(name), *(self.depth(i.module) for i in self._modules[name].instances)])

    def own_depth(self, name: str) -> int:
        return int(self._synthesized[self._representative[name].lstrip("\\")]["depth"])


def _rounded(resources: dict[str, float]) -> dict[str, float]:
    return {k: int(v) if v == int(v) else v for k, v in resources.items()}


def linear_use(config: BuildConfig, units: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For every linear engine: multiply-accumulates a cycle at most, and look-up tables and DSP slices for each of them."""
    unit = next(u for u in units if u["name"] == "linear")
    found = {}
    for engine, there in (("ternary", config.has_ternary), ("int4", config.has_int4)):
        if not there:
            continue
        of = next(p for p in unit["parts"] if p["name"] == f"{engine}_engine") if config.engine == "both" else unit
        macs = config.macs(engine)
        found[engine] = {"macs": macs, "lut_per_mac": of["lut"] / macs}
        if of["dsp"]:
            found[engine]["macs_per_dsp"] = macs / of["dsp"]
    return found


def outer_modules(modules: dict[str, VerilogModule]) -> list[str]:
    """The top module and, where that only adds the reset stage, the module inside that holds the units."""
    names = [TOP]
    inner = [i.module for i in modules[TOP].instances if i.name == "design"]
    return names + inner


def parts_of(totals: Totals, modules: dict[str, VerilogModule], name: str) -> list[dict[str, Any]]:
    """What a unit consists of: copies of a submodule (``lane_0_0``, ``lane_0_1`` ...) together, and its own logic."""
    groups: dict[str, list[str]] = {}
    for instance in modules[name].instances:
        groups.setdefault(re.sub(r"(_?\d+)+$", "", instance.name), []).append(instance.module)
    if not groups:
        return []
    rows = [
        {
            "name": part,
            "count": len(of),
            **_rounded(count_resources(sum((totals.cells(n) for n in of), Counter()))),
            "depth_luts": max(totals.depth(n) for n in of),
        }
        for part, of in groups.items()
    ]
    own = {"name": "own", "count": 1, **_rounded(count_resources(totals.own(name))), "depth_luts": totals.own_depth(name)}
    return [*rows, own]


def summarize(
    board: Board,
    modules: dict[str, VerilogModule],
    representative: dict[str, str],
    synthesized: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """What ``hwgen report --json`` prints."""
    totals = Totals(modules, representative, synthesized)
    outer = outer_modules(modules)
    units: list[dict[str, Any]] = [
        {
            "name": re.sub(r"\$\d+$", "", i.name),  # numbered where a signal has the name
            **_rounded(count_resources(totals.cells(i.module))),
            "depth_luts": totals.depth(i.module),
            "parts": parts_of(totals, modules, i.module),
        }
        for i in modules[outer[-1]].instances
    ]
    own: Counter[str] = sum((totals.own(name) for name in outer), Counter())
    depth = max(int(synthesized[name.lstrip("\\")]["depth"]) for name in outer)
    units.append({"name": "top", **_rounded(count_resources(own)), "depth_luts": depth, "parts": []})
    engines = linear_use(board.config, units)
    used = _rounded(count_resources(totals.cells(TOP)))
    outside = outside_resources(board)
    whole = {kind: used[kind] + outside[kind] for kind in RESOURCES}
    return {
        "board": board.name,
        "resources": used,
        "outside": outside,
        "outside_sources": describe_outside(board),
        "available": board.available,
        "ceilings": CEILINGS,
        "above_ceiling": [k for k, share in CEILINGS.items() if whole[k] > share * board.available.get(k, math.inf)],
        "predicted_uram": predicted_uram(board.config),
        "units": units,
        "engine": board.config.engine,
        "engines": engines,
        "lut_per_mac": next(iter(engines.values()))["lut_per_mac"],
        "depth_luts": totals.depth(TOP),
        "estimated": True,
    }


def below(modules: dict[str, VerilogModule], representative: dict[str, str], top: str) -> list[str]:
    """Distinct modules of the hierarchy under ``top``, itself first."""
    names = {top: None}
    for instance in modules[top].instances:
        names |= dict.fromkeys(below(modules, representative, representative[instance.module]))
    return list(names)


def report_board(
    board: Board, *, fresh: bool = False, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Synthesize a board's accelerator, or take the result from the cache."""
    tool = yosys_version()
    modules = parse_modules(cached_verilog(board.config, progress))
    representative, texts = merge_equal(modules, TOP)
    synthesized: dict[str, dict[str, Any]] = {}
    outer = outer_modules(modules)
    units = [representative[i.module] for i in modules[outer[-1]].instances]
    boxes = "".join(black_box(modules[name]) for name in dict.fromkeys(units))
    tops = [*((name, "") for name in dict.fromkeys(units)), (TOP, boxes)]
    for number, (top, stubs) in enumerate(tops, 1):
        names = outer if top == TOP else below(modules, representative, top)
        verilog = "".join(texts[name] for name in names) + stubs

        def say(top: str = top, number: int = number, count: int = len(names)) -> None:
            progress(f"synthesizing {top.lstrip(chr(92))} ({number} of {len(tops)}, {count} modules)")

        found = cached_synthesis(verilog, top, tool, say, fresh=fresh, family=family_of(board.part))
        boxed = {name.lstrip("\\") for name in units} if stubs else set()
        synthesized |= {name: of for name, of in found.items() if name not in boxed}
    # the table of delays is for UltraScale+
    rows = ultra_rows("".join(texts.values()))
    netlists = {
        name: {**of["netlist"], "rows": rows.get(name, {})} for name, of in synthesized.items() if "netlist" in of
    }
    inside = [name.lstrip("\\") for name in outer]
    paths = cached_paths(netlists, TOP, inside, fresh=fresh) if family_of(board.part) == "xcup" else []
    longest = paths[0]["ns"] if paths else None
    return {
        **summarize(board, modules, representative, synthesized), "paths": paths, "longest_path_ns": longest,
        "reset_loads": widest_reset(netlists, TOP),
    }


def describe_report(result: dict[str, Any]) -> list[str]:
    """The report as a table, with those parts of a unit that are 1% of the look-up tables or 5% of another kind."""
    total, available = result["resources"], result["available"]

    def row(name: str, values: dict[str, Any], style: str = ">10,") -> str:
        return f"{name:28}" + "".join(f"{values.get(kind, 0):{style}}" for kind in RESOURCES)

    def matters(part: dict[str, Any]) -> bool:
        return any(part[kind] > (0.01 if kind == "lut" else 0.05) * total[kind] for kind in RESOURCES)

    lines = [f"{'unit':28}" + "".join(f"{kind:>10}" for kind in RESOURCES) + f"{'depth':>7}"]
    for unit in result["units"]:
        lines.append(row(unit["name"], unit) + f"{unit['depth_luts']:>7}")
        for part in filter(matters, unit["parts"]):
            label = f"  {part['name']}" + (f" x {part['count']}" if part["count"] > 1 else "")
            lines.append(row(label, part) + f"{part['depth_luts']:>7}")
    lines.append(row("total", total) + f"{result['depth_luts']:>7}")
    if result["outside_sources"]:
        lines.append(row("outside the core", result["outside"]))
        total = {kind: total[kind] + result["outside"][kind] for kind in RESOURCES}
        lines.append(row("with it", total))
    if available:
        lines.append(row("of the device", {k: total[k] / available[k] for k in RESOURCES if available.get(k)}, ">10.1%"))
        limits = (f"{CEILINGS[k]:>10.0%}" if k in CEILINGS else " " * 10 for k in RESOURCES)
        lines.append(f"{'planning ceiling':28}" + "".join(limits))
        lines += [
            f"above the planning ceiling: {kind} {total[kind]:,} of {available[kind]:,} ({total[kind] / available[kind]:.1%})"
            for kind in result["above_ceiling"]
        ]
    for engine, of in result["engines"].items():
        per_dsp = f", {of['macs_per_dsp']:.2f} of them a DSP slice" if "macs_per_dsp" in of else ""
        lines.append(f"{engine} engine: {of['macs']:,} multiply-accumulates a cycle, {of['lut_per_mac']:.2f} LUT each{per_dsp}")
    if (reset := result["reset_loads"])["loads"]:
        lines.append(f"reset net with the most loads: {reset['loads']:,}, {reset['net']} in {reset['module']}")
    lines += describe_paths(result["paths"])
    lines += [f"outside the core: {text}" for text in result["outside_sources"]]
    lines.append("estimated with Yosys, but for what is outside the core")
    return lines
