"""All codes at all places of the converter, against the golden values."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
import torch
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.golden.int4 import e4m3_values
from hwgen.hw.float.e4m3 import E4M3_BITS, E4m3Integers
from tests.cocotb_runner import run_cocotb, start_clock

COUNT = 3
CODES = np.array([c for c in range(256) if c & 0x7F != 0x7F], np.uint8)


@cocotb.test()
async def converts(dut: Any) -> None:
    words = np.stack([np.roll(CODES, 17 * i) for i in range(COUNT)], axis=1)
    expected = e4m3_values(torch.from_numpy(words)).numpy()
    dut.codes.value = 0
    await start_clock(dut)
    for cycle in range(len(words) + E4m3Integers.LATENCY):
        if cycle < len(words):
            dut.codes.value = int.from_bytes(words[cycle].tobytes(), "little")
        await ReadOnly()
        if cycle >= E4m3Integers.LATENCY:
            got = dut.integers.value.to_unsigned()
            for i, value in enumerate(expected[cycle - E4m3Integers.LATENCY]):
                assert got >> E4M3_BITS * i & ((1 << E4M3_BITS) - 1) == int(value) & ((1 << E4M3_BITS) - 1)
        await RisingEdge(dut.clk)


def test_converter(tmp_path: Path) -> None:
    run_cocotb(partial(E4m3Integers, COUNT), test_module=__name__, build_dir=tmp_path)


def test_converter_refuses_no_codes() -> None:
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        E4m3Integers(0)
