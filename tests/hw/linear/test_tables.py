"""The table builder against the definition of an entry."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.hw.linear.tables import TABLE_ENTRIES, WALK, TableBuilder
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

# These simulations are short: compiling is what takes time.


def balanced_digits(k: int) -> list[int]:
    digits = []
    for _ in range(3):
        digit = (k + 1) % 3 - 1
        digits.append(digit)
        k = (k - digit) // 3
    assert k == 0
    return digits


@cocotb.test()
async def fills_tables(dut: Any) -> None:
    tables = cocotb_parameters()["tables"]
    rng = random.Random(3)
    for name in ("enable", "begin", "clear"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    for trial in range(60):
        choices = (-127, 127, 0, -128) if trial < 30 else range(-127, 128)
        operands = [rng.choice(choices) for _ in range(3 * tables)]
        for i, value in enumerate(operands):
            getattr(dut, f"operands__{i}").value = value & 255
        steps = [(t, step) for t in range(tables) for step in WALK]
        for cycle in range(len(steps) + 2):
            # `select` and `negate` of this cycle's step, the rest of the step before it, the entry of the one before that
            if cycle < len(steps):
                table, step = steps[cycle]
                dut.select.value = 3 * table + step.operand
                dut.negate.value = int(step.negate)
            dut.enable.value = 0
            dut.begin.value = 0
            if 1 <= cycle <= len(steps):
                dut.enable.value = 1
                dut.begin.value = int(steps[cycle - 1][1] is WALK[0])
            await ReadOnly()
            if cycle >= 2:
                table, step = steps[cycle - 2]
                expected = sum(c * operands[3 * table + j] for j, c in enumerate(balanced_digits(step.entry)))
                assert dut.entry.value.to_signed() == expected, (trial, table, step)
            await RisingEdge(dut.clk)
        if trial % 2:  # otherwise the first step itself starts from zero
            dut.enable.value, dut.clear.value = 0, 1
            await RisingEdge(dut.clk)
            dut.clear.value = 0
            await ReadOnly()
            assert dut.entry.value == 0
            await RisingEdge(dut.clk)


@pytest.mark.parametrize("tables", [1, 3])
def test_builder(tmp_path: Path, tables: int) -> None:
    run_cocotb(
        partial(TableBuilder, tables), test_module=__name__, build_dir=tmp_path, parameters={"tables": tables}
    )


def test_walk_fills_every_entry_but_zero_once() -> None:
    assert sorted(step.entry for step in WALK) == list(range(1, TABLE_ENTRIES))


def test_builder_refuses_no_tables() -> None:
    with pytest.raises(ValueError, match="tables must be at least 1, not 0"):
        TableBuilder(0)
