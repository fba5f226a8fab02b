"""The runner must fail when a cocotb test fails, when none runs, and when the simulation dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock


class Accumulator(wiring.Component):
    """``total`` is the sum of all ``step`` sampled so far, modulo 256."""

    def __init__(self) -> None:
        super().__init__({"step": In(8), "total": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.total.eq(self.total + self.step)
        return m


@cocotb.test()
async def adds_up(dut: Any) -> None:
    step = cocotb_parameters()["step"]
    dut.step.value = step
    await start_clock(dut)
    for cycle in range(10):
        await RisingEdge(dut.clk)
        await ReadOnly()
        assert dut.total.value.to_unsigned() == (cycle + 1) * cocotb_parameters()["expected_step"]


@cocotb.test()
async def dies(dut: Any) -> None:
    import os

    os._exit(0)


def test_passes_and_reuses_the_build(tmp_path: Path) -> None:
    for step in (3, 5):
        run_cocotb(
            Accumulator(), test_module=__name__, build_dir=tmp_path, testcase="adds_up",
            parameters={"step": step, "expected_step": step},
        )


def test_reports_a_failing_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cocotb tests failed: .*adds_up"):
        run_cocotb(
            Accumulator(), test_module=__name__, build_dir=tmp_path, testcase="adds_up",
            parameters={"step": 3, "expected_step": 4},
        )


def test_reports_a_dead_simulation(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended without results"):
        run_cocotb(Accumulator(), test_module=__name__, build_dir=tmp_path, testcase="dies")


def test_reports_that_nothing_ran(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no cocotb test ran|ended without results"):
        run_cocotb(Accumulator(), test_module=__name__, build_dir=tmp_path, testcase="missing")
