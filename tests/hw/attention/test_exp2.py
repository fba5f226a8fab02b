"""Exp2 over every input that does not give 0, and some that do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import torch
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.golden.attention import exp2
from hwgen.hw.attention.exp2 import Exp2
from tests.cocotb_runner import run_cocotb, start_clock


@cocotb.test()
async def is_exact(dut: Any) -> None:
    differences = [*range(18 * 1024), *(1 << n for n in range(15, 25)), (1 << 24) - 2]
    expected = exp2(torch.tensor(differences, dtype=torch.int32)).tolist()
    dut.d.value = dut.zero.value = 0
    await start_clock(dut)
    found = []
    for cycle in range(len(differences) + Exp2.latency):
        dut.d.value = differences[min(cycle, len(differences) - 1)]
        await ReadOnly()
        if cycle >= Exp2.latency:
            found.append(int(dut.p.value))
        await RisingEdge(dut.clk)
    assert found == expected
    dut.d.value, dut.zero.value = 0, 1
    for _ in range(Exp2.latency):
        await RisingEdge(dut.clk)
    await ReadOnly()
    assert int(dut.p.value) == 0


def test_exp2(tmp_path: Path) -> None:
    run_cocotb(partial(Exp2), test_module=__name__, build_dir=tmp_path)
