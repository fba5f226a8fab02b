"""The reset tree: a register for every unit, none of which has too many loads, and units that are as new behind it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from cocotb.triggers import FallingEdge

from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.hw.accelerator import TOP
from hwgen.hw.control.trace import TraceMemory
from hwgen.hw.reset import ResetTree
from hwgen.hw.verilog import cached_verilog
from tests.cocotb_runner import run_cocotb, start_clock
from tools.mutant_config import CONFIG

from .control.test_trace import INPUTS
from .test_accelerator import SMALL

#: Register bits behind a reset net: a net with more than about 10,000 loads does not cross a K26 in a cycle, and BUFG is for 25,000
#: and more (UG904).
LIMIT = 5000

LEAF = '  (* dont_touch = "true" *)\n  (* keep = "true" *)\n  reg rst = 1\'h1;\n'


def modules(config: BuildConfig) -> dict[str, str]:
    """Text of every module by the path of its instance below the design."""
    found = {}
    for text in re.split(r"(?<=^endmodule\n)", cached_verilog(config), flags=re.MULTILINE):
        head = re.search(r"^module \\?(\S+?) ?\(", text, re.MULTILINE)
        if head:
            found[head[1].removeprefix(f"{TOP}.design").lstrip(".")] = text
    return found


def reset_loads(name: str, text: str) -> int:
    """Register bits of a module that the reset sets; the register of a sum in a DSP slice has one pin for it (UG579)."""
    if "multiply_add" in name:
        return len(re.findall(r"^    if \(rst\) begin$", text, re.MULTILINE))
    bits = {name: int(high or 0) + 1 for high, name in re.findall(r"^  reg (?:\[(\d+):0\] )?(\\\S+|\w+)", text, re.MULTILINE)}
    return sum(bits[name] for name in re.findall(r"^    if \(rst\) begin\n +(\\\S+|\w+) +=", text, re.MULTILINE))


def test_every_unit_has_a_reset_register() -> None:
    found = modules(SMALL)
    units = {name for name in found if name and "." not in name} - {TOP}
    assert {"registers", "memory", "linear", "vector", "attention", "scratch"} <= units
    for name in units:
        assert found[name].count(LEAF) == 1 and "    rst <= reset_root;\n" in found[name], name
    assert found[TOP].count("reset_root <= rst;") == 1
    # The design has no register of its own, and what is inside a unit has the unit's reset.
    assert "always @(posedge" not in found[""]
    assert [name for name, text in found.items() if "reset_root" in text and name not in {*units, "", TOP}] == []


def check_loads(config: BuildConfig) -> None:
    """No reset net has too many."""
    loads: dict[str, int] = {}
    for name, text in modules(config).items():
        unit = name.split(".")[0]
        loads[unit] = loads.get(unit, 0) + reset_loads(name, text)
    assert 1000 < max(loads.values()) < LIMIT, loads
    assert loads.keys() >= {"attention", "memory", "linear"} and loads[""] == loads[TOP] == 0


def test_no_reset_has_too_many_loads() -> None:
    check_loads(load_board("demo").config)


@pytest.mark.regress
def test_no_reset_of_a_large_build_has_too_many_loads() -> None:
    """With probes, as another test simulates it: the Verilog comes from the cache."""
    check_loads(replace(load_board("kv260").config, probe=True))


class OneUnit(wiring.Component):
    """A trace memory as the unit of a design."""

    def __init__(self) -> None:
        self.trace = TraceMemory(CONFIG)
        super().__init__(dict(self.trace.signature.members.items()))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.trace = self.trace
        wiring.connect(m, wiring.flipped(self), self.trace)
        return m


@cocotb.test()
async def units_are_as_new(dut: Any) -> None:
    """As many cycles behind the reset as its registers are, whatever the unit does meanwhile."""
    for name in INPUTS:
        getattr(dut, name).value = int(name == "retire")
    await start_clock(dut)
    for cycles in (6, 1, 9):
        for _ in range(cycles):
            await FallingEdge(dut.clk)
        counted = int(dut.count.value)
        dut.rst.value = 1
        for _ in range(ResetTree.LATENCY):
            await FallingEdge(dut.clk)
        assert int(dut.count.value) == counted + ResetTree.LATENCY
        for _ in range(5):
            await FallingEdge(dut.clk)
            assert int(dut.count.value) == 0
        dut.rst.value = 0
        for _ in range(ResetTree.LATENCY):
            await FallingEdge(dut.clk)
            assert int(dut.count.value) == 0
        await FallingEdge(dut.clk)
        assert int(dut.count.value) == 1


def test_units_are_as_new(tmp_path: Path) -> None:
    design = OneUnit()
    tree = ResetTree(design)
    ports = [tree.clk, tree.rst, *(signal for _, _, signal in design.signature.flatten(design))]
    run_cocotb(tree, test_module=__name__, build_dir=tmp_path, ports=[getattr(p, "as_value", lambda p=p: p)() for p in ports])
