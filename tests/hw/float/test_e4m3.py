"""`FloatToE4m3` against ``e4m3_codes`` of ``e4m3_integers``."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import torch

from hwgen.golden.int4 import e4m3_codes, e4m3_integers, e4m3_values
from hwgen.hw.float.convert import FloatToInt
from hwgen.hw.float.e4m3 import FloatToE4m3
from tests.cocotb_runner import run_cocotb, start_clock

from .stimulus import EDGES, check, random_numbers, stream, to_bits, to_float

#: Every value that is not negative, ascending.
VALUES = e4m3_values(torch.arange(0x7F)).double() / 512


def arguments() -> list[int]:
    """Every value, every midpoint between neighbours and their neighbours among floats, of both signs; the largest
    values and what lies above; numbers from the whole range."""
    rng = random.Random(3)
    midpoints = (VALUES[1:] + VALUES[:-1]) / 2
    above = torch.tensor([464.0, 479.0, 480.0, 496.0, 511.0, 512.0, 513.0, 1024.0, 1e5, 1e38])
    near = torch.tensor([2.0**-11, 3 * 2.0**-11, 2.0**-12, 2.0**-30])
    bits = []
    for number in to_bits(torch.cat((VALUES[1:], midpoints, above, near)).to(torch.float32)):
        bits += [number + step for step in (-2, -1, 0, 1, 2)]
    bits += random_numbers(rng, 2_000) + random_numbers(rng, 20_000, 114, 138)
    return [0, *EDGES, *bits, *(number ^ 1 << 31 for number in bits)]


@cocotb.test()
async def rounds_to_the_nearest(dut: Any) -> None:
    a = arguments()
    dut.a.value = 0
    await start_clock(dut)
    (codes,) = await stream(dut, {"a": a}, ["o"], FloatToE4m3.latency)
    check(codes, e4m3_codes(e4m3_integers(to_float(a))).tolist(), a=a)
    assert set(codes) == set(range(256)) - {0x7F, 0x80, 0xFF}, "every finite code but -0 comes out, and no other"


def test_e4m3(tmp_path: Path) -> None:
    run_cocotb(partial(FloatToE4m3), test_module=__name__, build_dir=tmp_path)


def test_stands_beside_the_integers() -> None:
    assert FloatToE4m3.latency == FloatToInt.latency
