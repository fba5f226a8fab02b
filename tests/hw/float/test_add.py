"""`FloatAdd` against ``fadd`` and ``fsub``."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb

from hwgen.golden.float32 import fadd, fsub
from hwgen.hw.float.add import FloatAdd
from tests.cocotb_runner import run_cocotb, start_clock

from .stimulus import check, operand_pairs, stream, to_bits, to_float


@cocotb.test()
async def adds_and_subtracts(dut: Any) -> None:
    rng = random.Random(1)
    a, b = operand_pairs(rng, 25_000, around=+1)
    sub = [rng.getrandbits(1) for _ in a]
    dut.a.value = dut.b.value = dut.sub.value = 0
    await start_clock(dut)
    [results] = await stream(dut, {"a": a, "b": b, "sub": sub}, ["o"], FloatAdd.latency)
    total, difference = to_bits(fadd(to_float(a), to_float(b))), to_bits(fsub(to_float(a), to_float(b)))
    check(results, [d if s else t for t, d, s in zip(total, difference, sub, strict=True)], a=a, b=b, sub=sub)


def test_add(tmp_path: Path) -> None:
    run_cocotb(partial(FloatAdd), test_module=__name__, build_dir=tmp_path)
