"""`IntToFloat` and `FloatToInt` against ``int_to_f32`` and ``round_int``."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
import torch
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.golden.float32 import int_to_f32, round_int
from hwgen.hw.float.convert import FloatToInt, IntToFloat
from tests.cocotb_runner import run_cocotb, start_clock

from .stimulus import EDGES, check, random_numbers, stream, to_bits, to_float

INTEGERS = ((2, 0), (8, 0), (19, 17), (21, 0), (23, 0), (24, 0), (25, 0), (27, 0), (28, -9), (32, 0), (45, 30))
FORMATS = ((2, 0), (8, 0), (16, 10), (24, 10), (25, 0), (26, 15), (32, 0), (9, -6))


class Converters(wiring.Component):
    """One unit of each size side by side: a single simulator to build."""

    def __init__(self) -> None:
        self.from_int = {f"{k}": IntToFloat(width, fraction) for k, (width, fraction) in enumerate(INTEGERS)}
        self.to_int = {f"{k}": FloatToInt(bits, fraction) for k, (bits, fraction) in enumerate(FORMATS)}
        ports = {f"i{key}": In(unit.i.shape()) for key, unit in self.from_int.items()}
        ports |= {f"f{key}": Out(32) for key in self.from_int}
        ports |= {f"a{key}": In(32) for key in self.to_int}
        ports |= {f"o{key}": Out(unit.o.shape()) for key, unit in self.to_int.items()}
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for key, unit in self.from_int.items():
            m.submodules[f"from_int{key}"] = unit
            m.d.comb += [unit.i.eq(getattr(self, f"i{key}")), getattr(self, f"f{key}").eq(unit.o)]
        for key, unit in self.to_int.items():
            m.submodules[f"to_int{key}"] = unit
            m.d.comb += [unit.a.eq(getattr(self, f"a{key}")), getattr(self, f"o{key}").eq(unit.o)]
        return m


def integers(width: int) -> list[int]:
    rng = random.Random(width)
    low, high = -1 << (width - 1), (1 << (width - 1)) - 1
    values = [low, low + 1, min(low + 2, 0), -1, 0, 1, high - 1, high]
    for _ in range(8_000):
        size = rng.randrange(width)
        value = rng.getrandbits(size) if size else 0
        if rng.getrandbits(1):  # near a power of two, or near a tie
            value = (1 << size) + (rng.choice((0, 1, 3)) << max(size - 24, 0)) + rng.randint(-1, 1)
        values.append(min(max(rng.choice((value, -value)), low), high))
    return values


def floats(bits: int, fraction: int) -> list[int]:
    rng = random.Random(100 * bits + fraction)
    half = 126 - fraction  # exponent field of half a unit
    a = EDGES + random_numbers(rng, 500) + random_numbers(rng, 5_500, half - 3, half + bits + 1)
    while len(a) < 8_008:  # n + 1/2 and its neighbours, as far as a float can hold them
        tie = (rng.randrange(1 << min(bits, 23)) + 0.5) * 2.0**-fraction
        a.append(to_bits(torch.tensor([tie, -tie]))[rng.getrandbits(1)] + rng.randint(-1, 1))
    return a


@cocotb.test()
async def converts_integers(dut: Any) -> None:
    values = {f"i{k}": integers(width) for k, (width, _) in enumerate(INTEGERS)}
    await start_clock(dut)
    results = await stream(dut, values, [f"f{k}" for k in range(len(INTEGERS))], IntToFloat.latency)
    for k, ((_, fraction), got) in enumerate(zip(INTEGERS, results, strict=True)):
        i = values[f"i{k}"]
        check(got, to_bits(int_to_f32(torch.tensor(i, dtype=torch.int64)) * 2.0**-fraction), i=i)


@cocotb.test()
async def converts_floats(dut: Any) -> None:
    values = {f"a{k}": floats(bits, fraction) for k, (bits, fraction) in enumerate(FORMATS)}
    await start_clock(dut)
    results = await stream(dut, values, [f"o{k}" for k in range(len(FORMATS))], FloatToInt.latency)
    for k, (bits, fraction) in enumerate(FORMATS):
        a, mask = values[f"a{k}"], (1 << bits) - 1
        expected = round_int(to_float(a), bits, fraction).tolist()
        check([value & mask for value in results[k]], [value & mask for value in expected], a=a)


def test_convert(tmp_path: Path) -> None:
    run_cocotb(partial(Converters), test_module=__name__, build_dir=tmp_path)


@pytest.mark.parametrize("width", [1, 65, 8.0])
def test_int_to_float_refuses(width: Any) -> None:
    with pytest.raises(ValueError, match="width must be 2 to 64, not "):
        IntToFloat(width)
    with pytest.raises(ValueError, match="fraction must be -64 to 64, not 65"):
        IntToFloat(8, 65)


def test_float_to_int_refuses() -> None:
    with pytest.raises(ValueError, match="bits must be 2 to 32, not 33"):
        FloatToInt(33)
    with pytest.raises(ValueError, match="fraction must be -64 to 64, not 65"):
        FloatToInt(8, 65)
