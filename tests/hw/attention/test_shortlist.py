"""ShortList against the golden definition: ties, rows beyond the vocabulary, blocks that straddle two runs of vectors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
import torch
from cocotb.triggers import ClockCycles, NextTimeStep, ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.golden.head import short_list
from hwgen.hw.attention.shortlist import ShortList
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

CONFIGS = {
    "default": BuildConfig(shortlist=5),
    "one": BuildConfig(shortlist=1),
    "wide_blocks": BuildConfig(beat_bytes=64, rows=8, builders=2, beat_vectors=2, kv_block=32, shortlist=8),
    "narrow": BuildConfig(beat_bytes=16, rows=2, groups=1, builders=14, kv_block=8, chunk=8, shortlist=3),
}


@cocotb.test()
async def lists_the_best_blocks(dut: Any) -> None:
    config = CONFIGS[cocotb_parameters()["config"]]
    width, entries = config.width, config.shortlist
    choice = random.Random(entries)
    for name in ("start", "first_row", "rows", "valid", "scores", "index__0", "index__1"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    for turn in range(40):
        vectors = choice.choice([1, 2, 3, 7, 20, 60])
        rows = vectors * width - choice.randrange(width)
        levels = [-3.4e38, -2.0, 0.0, 1.5] if turn % 2 else [choice.gauss(0, 1) for _ in range(200)]
        scores = np.array([choice.choice(levels) for _ in range(rows)], np.float32)
        # What DRAIN computes of padded rows may be anything.
        padded = np.concatenate([scores, np.full(vectors * width - rows, 3e38, np.float32)]).reshape(vectors, width)
        cut = choice.randrange(vectors + 1)
        for first, part in ((0, padded[:cut]), (cut, padded[cut:])):
            if not len(part):
                continue
            dut.start.value, dut.first_row.value, dut.rows.value = 1, first * width, rows
            await RisingEdge(dut.clk)
            dut.start.value = 0
            await ClockCycles(dut.clk, 2)
            for vector in part:
                while choice.random() < 0.3:
                    dut.valid.value = 0
                    await RisingEdge(dut.clk)
                dut.valid.value, dut.scores.value = 1, int.from_bytes(vector.tobytes(), "little")
                await RisingEdge(dut.clk)
            dut.valid.value = 0
        waited = 0
        await ReadOnly()
        while dut.busy.value:
            waited += 1
            await RisingEdge(dut.clk)
            await ReadOnly()
        assert waited <= entries + 8
        await NextTimeStep()
        found, other = [], []
        for entry in range(entries):
            dut.index__0.value, dut.index__1.value = entry, entries - 1 - entry
            await ClockCycles(dut.clk, 2)
            found.append(int(dut.block__0.value))
            other.insert(0, int(dut.block__1.value))
        expected = short_list(torch.from_numpy(scores), config.kv_block, entries).tolist()
        assert found[: len(expected)] == expected, (turn, rows)
        assert other == found


@pytest.mark.parametrize("config", CONFIGS)
def test_short_list(tmp_path: Path, config: str) -> None:
    run_cocotb(ShortList(CONFIGS[config]), test_module=__name__, build_dir=tmp_path, parameters={"config": config})
