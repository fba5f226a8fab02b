"""`Sigmoid` against the golden function."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb

from hwgen.golden.activation import sigmoid
from hwgen.hw.vector.sigmoid import Sigmoid
from tests.cocotb_runner import run_cocotb, start_clock
from tests.hw.float.stimulus import EDGES, check, random_numbers, stream, to_bits, to_float


def around(bits: int) -> list[int]:
    """A number, its neighbours and their negatives."""
    near = [bits - 1, bits, bits + 1]
    return near + [number | 1 << 31 for number in near]


def arguments() -> list[int]:
    """Every step of the table with both signs, the ties between steps near the ends, and numbers from the whole
    range."""
    rng = random.Random(1)
    steps = [k / 1024 for k in range(1, (1 << 14) + 40)]
    ties = [(k + 0.5) / 1024 for k in (*range(130), *range(8150, 8250), *range(16300, 16420))]
    bits = [0, *EDGES, *random_numbers(rng, 3000), *random_numbers(rng, 6000, 110, 132)]
    for value in ties:
        bits += around(*to_bits(to_float([0]) + value))
    for value in steps:
        positive = to_bits(to_float([0]) + value)[0]
        bits += [positive, positive | 1 << 31]
    return bits


@cocotb.test()
async def follows_the_table(dut: Any) -> None:
    a = arguments()
    dut.a.value = 0
    await start_clock(dut)
    (results,) = await stream(dut, {"a": a}, ["o"], Sigmoid.latency)
    check(results, to_bits(sigmoid(to_float(a))), a=a)


def test_sigmoid(tmp_path: Path) -> None:
    run_cocotb(partial(Sigmoid), test_module=__name__, build_dir=tmp_path)
