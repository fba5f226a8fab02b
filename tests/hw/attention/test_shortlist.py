"""ShortList against the golden definition: several tokens, ties, rows beyond the vocabulary, blocks that
straddle two panels."""

from __future__ import annotations

import random
from functools import partial
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
    "one": BuildConfig(shortlist=1, topk=1),
    "wide_blocks": BuildConfig(beat_bytes=64, rows=8, builders=2, beat_vectors=2, kv_block=32, shortlist=8),
    "narrow": BuildConfig(beat_bytes=16, rows=2, groups=1, builders=14, kv_block=8, chunk=8, shortlist=3),
}


async def send(dut: Any, choice: random.Random, panel: np.ndarray, first_row: int, rows: int, number: int) -> None:
    """A panel ``[token, vector, width]`` of scores, as DRAIN sends it: a token's vectors only while no list is on its way."""
    for name, value in (("first_row", first_row), ("rows", rows), ("vectors", panel.shape[1]), ("tokens", panel.shape[0])):
        getattr(dut, name).value = value
    dut.list.value, dut.start.value = number, 1
    await RisingEdge(dut.clk)
    dut.start.value = 0
    await RisingEdge(dut.clk)
    for token in panel:
        await at_rest(dut)
        for vector in token:
            while choice.random() < 0.3:
                dut.valid.value = 0
                await RisingEdge(dut.clk)
            dut.valid.value, dut.scores.value = 1, int.from_bytes(vector.tobytes(), "little")
            await RisingEdge(dut.clk)
        dut.valid.value = 0
        await RisingEdge(dut.clk)


async def at_rest(dut: Any) -> int:
    """Waits until no list is on its way; so many cycles."""
    waited = 0
    await ReadOnly()
    while dut.busy.value:
        waited += 1
        await RisingEdge(dut.clk)
        await ReadOnly()
    await NextTimeStep()
    return waited


async def read(dut: Any, choice: random.Random, numbers: tuple[int, int], entries: int) -> list[list[int]]:
    """Two lists, by a reader each; the second one's waits while the first one has its turn."""
    found: list[list[int]] = [[], []]
    for entry in range(entries):
        for reader, number in enumerate(numbers):
            getattr(dut, f"number__{reader}").value, getattr(dut, f"index__{reader}").value = number, entry
        dut.read.value = 0
        await ClockCycles(dut.clk, choice.randint(2, 4))
        dut.read.value = 1
        await RisingEdge(dut.clk)
        dut.read.value = choice.randrange(2)
        await RisingEdge(dut.clk)
        for reader in range(2):
            found[reader].append(int(getattr(dut, f"block__{reader}").value))
    dut.read.value = 0
    return found


@cocotb.test()
async def lists_the_best_blocks(dut: Any) -> None:
    config = CONFIGS[cocotb_parameters()["config"]]
    width, entries = config.width, config.shortlist
    choice = random.Random(entries)
    for name in ("start", "first_row", "rows", "vectors", "list", "tokens", "valid", "scores", "read",
                 *(f"{name}__{reader}" for name in ("number", "index") for reader in range(2))):
        getattr(dut, name).value = 0
    await start_clock(dut)
    for turn in range(25):
        tokens, vectors = choice.randint(1, config.chunk), choice.choice([1, 2, 3, 7, 20, 60])
        rows = vectors * width - choice.randrange(width)
        levels = [-3.4e38, -2.0, 0.0, 1.5] if turn % 2 else [choice.gauss(0, 1) for _ in range(200)]
        scores = np.array([choice.choice(levels) for _ in range(tokens * rows)], np.float32).reshape(tokens, rows)
        # What DRAIN computes of padded rows may be anything.
        padded = np.pad(scores, ((0, 0), (0, vectors * width - rows)), constant_values=3e38).reshape(tokens, vectors, width)
        cut, round_size = choice.randrange(vectors + 1), choice.randint(1, tokens)
        for first, last in ((0, cut), (cut, vectors)):
            for token in range(0, tokens, round_size) if first < last else ():
                part = padded[token : token + round_size, first:last]
                await send(dut, choice, part, first * width, rows, token)
        await at_rest(dut)
        await ClockCycles(dut.clk, 2)
        assert dut.complete.value
        expected = short_list(torch.from_numpy(scores), config.kv_block, entries).tolist()
        for token in range(tokens):
            other = choice.randrange(tokens)
            for number, found in zip((token, other), await read(dut, choice, (token, other), entries), strict=True):
                assert found[: len(expected[number])] == expected[number], (turn, number, rows)


@pytest.mark.parametrize("config", CONFIGS)
def test_short_list(tmp_path: Path, config: str) -> None:
    run_cocotb(partial(ShortList, CONFIGS[config]), test_module=__name__, build_dir=tmp_path, parameters={"config": config})
