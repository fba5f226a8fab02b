"""A fault of a machine is planted in the same unit of another design, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.sim.mutants import Mutant
from hwgen.sim.unit_fault import read_fault, unit_fault
from tests.cocotb_runner import to_verilog


class Unit(wiring.Component):
    """Counts up by a step, or down."""

    def __init__(self) -> None:
        super().__init__({"step": In(8), "down": In(1), "total": Out(8), "many": Out(1), "odd": Out(1), "last": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.down):
            m.d.sync += self.total.eq(self.total - self.step)
        with m.Else():
            m.d.sync += self.total.eq(self.total + self.step)
        m.d.sync += self.last.eq(self.total)
        m.d.comb += [self.many.eq(self.total > 100), self.odd.eq(self.total[0] ^ self.last[0])]
        return m


class Around(wiring.Component):
    """Two units, one of which always counts up, and something else."""

    def __init__(self) -> None:
        super().__init__({"step": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.up = up = Unit()
        m.submodules.other = other = Unit()
        most = Signal(8)
        m.d.sync += most.eq(up.total + other.last)
        m.d.comb += [up.step.eq(self.step), other.step.eq(up.last), other.down.eq(up.odd), self.o.eq(most ^ other.many)]
        return m


def fault_of(module: str) -> tuple[str, Mutant]:
    """Verilog of the whole, and a sum in one of its units that is a difference."""
    verilog = to_verilog(Around())
    lines = verilog.split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"module \\top.{module} "))
    line = next(i for i in range(start, len(lines)) if "total + step" in lines[i])
    return verilog, Mutant(f"\\top.{module}", line, "operator", "total + step", "total - step")


@pytest.mark.parametrize("module", ["up", "other"])
def test_a_fault_has_a_place_in_the_unit(module: str, tmp_path: Path) -> None:
    fault = unit_fault(*fault_of(module))
    fault.write(tmp_path / "fault.json")
    alone = to_verilog(Unit())
    planted = read_fault(tmp_path / "fault.json").plant(alone)
    assert planted is not None
    changed = [(a, b) for a, b in zip(alone.split("\n"), planted.split("\n"), strict=True) if a != b]
    [(before, after)] = changed
    assert before.endswith("= total + step;") and after.endswith("= (total - step );")


def test_names_with_numbers_are_those_of_the_design() -> None:
    """Of several signals of a name all but one have a number, which counts through the whole design."""
    fault = unit_fault(*fault_of("up"))
    numbered = re.sub(r"\btotal\b", lambda _: r"\total$12 ", to_verilog(Unit()))
    planted = fault.plant(numbered)
    assert planted is not None
    [after] = [b for a, b in zip(numbered.split("\n"), planted.split("\n"), strict=True) if a != b]
    assert after.endswith(r"= (\total$12  - step );")


def test_the_unit_that_is_most_alike_has_it() -> None:
    verilog, mutant = fault_of("other")
    planted = unit_fault(verilog, mutant).plant(verilog)
    assert planted is not None
    [changed] = [i for i, (a, b) in enumerate(zip(verilog.split("\n"), planted.split("\n"), strict=True)) if a != b]
    assert changed == mutant.line


def test_other_units_have_no_place_for_it() -> None:
    verilog, mutant = fault_of("other")
    fault = unit_fault(verilog, mutant)
    assert fault.plant("\n".join(line for line in to_verilog(Unit()).split("\n") if "total + step" not in line)) is None
    assert fault.plant(to_verilog(Around()).replace("total", "sum")) is None
