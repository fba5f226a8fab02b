"""`Peak` against ``max``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cocotb
import pytest
from cocotb.triggers import RisingEdge

from hwgen.hw.vector.peak import Peak
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.float.stimulus import EDGES, random_numbers

from .bench import pack


@cocotb.test()
async def finds_every_maximum(dut: Any) -> None:
    """Series of 1 to 9 vectors, with and without gaps inside and between them."""
    rng = random.Random(1)
    width = cocotb_parameters()["width"]
    for name in ("valid", "first", "last", "x", "tag"):
        getattr(dut, name).value = 0
    await start_clock(dut)

    expected: list[tuple[int, int, int]] = []  # cycle, maximum, tag
    found = []
    cycle = 0

    async def step() -> None:
        nonlocal cycle
        await RisingEdge(dut.clk)
        if dut.o_valid.value:
            found.append((cycle, int(dut.o.value), int(dut.o_tag.value)))
        cycle += 1

    latency = cocotb_parameters()["latency"]
    for _ in range(300):
        length, maximum, tag = rng.randint(1, 9), 0, rng.getrandbits(7)
        gaps = rng.random() < 0.3
        for k in range(length):
            numbers = rng.choice((rng.choices(EDGES, k=width), random_numbers(rng, width, 2, 254), [0] * width))
            maximum = max(maximum, *(number & 0x7FFFFFFF for number in numbers))
            dut.valid.value, dut.first.value, dut.last.value = 1, int(k == 0), int(k == length - 1)
            dut.x.value = pack(numbers, 32)
            dut.tag.value = tag if k == length - 1 else rng.getrandbits(7)
            if k == length - 1:
                expected.append((cycle + latency, maximum, tag))
            await step()
            dut.valid.value, dut.x.value = 0, (1 << 32 * width) - 1
            dut.first.value, dut.last.value = rng.getrandbits(1), rng.getrandbits(1)
            for _ in range(rng.randrange(3) if gaps else 0):
                await step()
    for _ in range(latency + 2):
        await step()
    assert found == expected


@pytest.mark.parametrize("width", [2, 4, 16])
def test_peak(width: int, tmp_path: Path) -> None:
    peak = Peak(width, 7)
    parameters = {"width": width, "latency": peak.latency}
    run_cocotb(peak, test_module=__name__, build_dir=tmp_path, parameters=parameters)


@pytest.mark.parametrize("width", [0, 1, 3, 12])
def test_refuses_other_widths(width: int) -> None:
    with pytest.raises(ValueError, match=rf"width must be a power of two of at least 2, not {width}"):
        Peak(width, 1)
