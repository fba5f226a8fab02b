"""`FloatDiv` against ``fdiv``."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb

from hwgen.golden.float32 import fdiv
from hwgen.hw.float.divide import FloatDiv
from tests.cocotb_runner import run_cocotb, start_clock

from .stimulus import check, operand_pairs, stream, to_bits, to_float


@cocotb.test()
async def divides(dut: Any) -> None:
    a, b = operand_pairs(random.Random(3), 25_000, around=-1)
    dut.a.value = dut.b.value = 0
    await start_clock(dut)
    [results] = await stream(dut, {"a": a, "b": b}, ["o"], FloatDiv.latency)
    check(results, to_bits(fdiv(to_float(a), to_float(b))), a=a, b=b)


def test_divide(tmp_path: Path) -> None:
    run_cocotb(partial(FloatDiv), test_module=__name__, build_dir=tmp_path)
