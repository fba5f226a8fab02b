"""`FloatSqrt` against ``fsqrt``."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

from hwgen.golden.float32 import fsqrt
from hwgen.hw.float.sqrt import FloatSqrt
from tests.cocotb_runner import run_cocotb, start_clock

from .stimulus import EDGES, check, random_numbers, to_bits, to_float


async def extract(dut: Any, a: int) -> int:
    """One operation, begun just after a rising edge; ``done`` must come at the promised edge and no other."""
    dut.start.value = 1
    dut.a.value = a
    await RisingEdge(dut.clk)
    dut.start.value = 0
    dut.a.value = a ^ 0x5A5A5A5A
    for _ in range(FloatSqrt.latency - 1):
        await RisingEdge(dut.clk)
        assert not int(dut.done.value)
    await RisingEdge(dut.clk)
    assert int(dut.done.value)
    return int(dut.o.value)


@cocotb.test()
async def extracts_roots(dut: Any) -> None:
    rng = random.Random(4)
    a = EDGES + [bits & 0x7FFFFFFF for bits in random_numbers(rng, 4_000)] + random_numbers(rng, 200)
    dut.start.value = dut.a.value = 0
    await start_clock(dut)
    check([await extract(dut, bits) for bits in a], to_bits(fsqrt(to_float(a))), a=a)


@cocotb.test()
async def restarts_and_holds(dut: Any) -> None:
    four, nine, two, three = 0x40800000, 0x41100000, 0x40000000, 0x40400000
    dut.start.value = dut.a.value = 0
    await start_clock(dut)
    for interrupted_after in (1, 2, 13, FloatSqrt.latency - 2, FloatSqrt.latency - 1):
        assert await extract(dut, four) == two
        dut.start.value = 1
        dut.a.value = four
        for _ in range(interrupted_after):
            await RisingEdge(dut.clk)
            dut.start.value = 0
        assert await extract(dut, nine) == three
        for _ in range(2 * FloatSqrt.latency):
            await RisingEdge(dut.clk)
            assert not int(dut.done.value) and int(dut.o.value) == three


@cocotb.test()
async def reset_drops_the_operation(dut: Any) -> None:
    dut.start.value = dut.a.value = 0
    await start_clock(dut)
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    for _ in range(2 * FloatSqrt.latency):
        await RisingEdge(dut.clk)
        assert not int(dut.done.value)


def test_sqrt(tmp_path: Path) -> None:
    run_cocotb(partial(FloatSqrt), test_module=__name__, build_dir=tmp_path)
