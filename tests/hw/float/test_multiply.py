"""`FloatMul` against ``fmul``."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb

from hwgen.golden.float32 import fmul
from hwgen.hw.float.multiply import FloatMul
from tests.cocotb_runner import run_cocotb, start_clock

from .stimulus import check, operand_pairs, stream, to_bits, to_float


@cocotb.test()
async def multiplies(dut: Any) -> None:
    a, b = operand_pairs(random.Random(2), 25_000, around=+1)
    dut.a.value = dut.b.value = 0
    await start_clock(dut)
    [results] = await stream(dut, {"a": a, "b": b}, ["o"], FloatMul.latency)
    check(results, to_bits(fmul(to_float(a), to_float(b))), a=a, b=b)


def test_multiply(tmp_path: Path) -> None:
    run_cocotb(partial(FloatMul), test_module=__name__, build_dir=tmp_path)
