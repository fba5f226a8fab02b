"""HEAD on the attention unit: logits of the rows of a short list, in its order, bit for bit."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
import torch
from cocotb.triggers import RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Fetch, Format, Opcode
from hwgen.golden.int4 import dequantize_rows
from hwgen.layout import head_block_beats, pack_head, vectors_of
from hwgen.rounding import ceil_div
from tests.cocotb_runner import cocotb_parameters, reader, run_cocotb, start_clock
from tests.hw.attention.bench import (
    AttentionBench,
    Source,
    cut_by_reset,
    drive_operator,
    idle_inputs,
    pack_bytes,
    start_and_wait,
    tiny_config,
    write_query,
)
from tools.mutant_config import CONFIG as MUTATED

#: A vector is a key beat, so that a row of few inputs is one.
ONE_KEY_BEAT = tiny_config(chunk=6, beat_vectors=2)


def operands(seed: int, vocab: int, hidden: int, kind: str) -> tuple[Any, Any, Any, float]:
    """Query ``[hidden]``, rows ``[vocab, hidden]``, bf16 scales of the rows as bits, scale of the query; ``kind`` for extremes."""
    rng = np.random.default_rng(seed)
    query = rng.integers(-127, 128, hidden, dtype=np.int8)
    rows = rng.integers(-127, 128, (vocab, hidden), dtype=np.int8)
    scales = rng.integers(112 << 7, 118 << 7, vocab, dtype=np.uint16)
    scale = 3.25e-3
    if kind == "zero":
        scales[:] = 0
    if kind == "negative":
        query, rows = np.full(hidden, -127, np.int8), np.abs(rows)
    if kind == "huge":
        query[:], rows[:], scales[:], scale = 127, 127, 254 << 7, 1e30
        rows[::3] = -127
    return query, rows, scales, scale


def golden_logits(query: Any, rows: Any, scales: Any, scale: float) -> torch.Tensor:
    row_scale = torch.from_numpy((scales.astype(np.uint32) << 16).view(np.float32))
    products = torch.from_numpy(rows.astype(np.int64) @ query.astype(np.int64))
    return dequantize_rows(products, torch.tensor(scale, dtype=torch.float32), row_scale)


class Listed:
    """Takes logits, with room for another block or not; none comes for which there was none."""

    def __init__(self, dut: Any, block: int) -> None:
        self.dut, self.block, self.random = dut, block, random.Random(4)
        self.stall = 0.0
        self.found: list[tuple[int, int]] = []
        self.opened: list[int] = []
        self.left = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut, room, edge = self.dut, 1, RisingEdge(self.dut.clk)
        opens, begins, comes = (reader(getattr(dut, f"listed__{name}")) for name in ("open", "begin", "valid"))
        while True:
            granted, room = room, int(self.random.random() >= self.stall)
            dut.listed__room.value = room
            dut.listed__busy.value = int(self.random.random() < self.stall)
            await edge
            if opens():
                self.opened.append(int(dut.listed__token.value))
                self.left = 0
            if begins():
                assert granted, "a block begins without room"
                self.left += self.block
            if comes():
                assert self.left > 0, "a logit without a place"
                self.left -= 1
                self.found.append((int(dut.listed__row.value), int(dut.listed__logit.value)))


@cocotb.test()
async def lists(dut: Any) -> None:
    parameters = cocotb_parameters()
    config = BuildConfig.from_dict(parameters["config"])
    idle_inputs(dut)
    drive_operator(dut, Descriptor())
    beats, listed = Source(dut, "beats", 0.0, 3), Listed(dut, config.kv_block)
    await start_clock(dut)
    for number, (stall, full, interrupt, vocab, hidden, kind) in enumerate(parameters["cases"]):
        query, rows, scales, scale = operands(number, vocab, hidden, kind)
        padded = np.zeros(vectors_of(config, hidden) * config.width, np.int8)
        padded[:hidden] = query
        await write_query(dut, config, padded, scale, slot=0, kv_head=0, kv_heads=1)
        blocks = np.random.default_rng(number).permutation(ceil_div(vocab, config.kv_block))[: config.shortlist].tolist()
        for entry, block in enumerate(blocks):
            getattr(dut, f"blocks__{entry}").value = block
        size = head_block_beats(config, hidden)
        command = Descriptor(
            opcode=Opcode.HEAD, fetch=Fetch.SHORTLIST, vectors=vectors_of(config, hidden), row_blocks=len(blocks), stride=vocab,
            stream_beats=size,
            # The formats are those of ATTENTION.
            format=Format.FP8_QUERY | Format.INT4_KEYS | Format.INT4_VALUES if number % 2 else Format.NONE,
        )
        token = number % config.chunk
        drive_operator(dut, command, runs=((77 % config.max_context, config.chunk, 0),), first=token, count=1)
        packed = pack_head(config, rows, scales).reshape(-1, size, config.beat_bytes)
        items = [pack_bytes(beat) for block in blocks for beat in packed[block]]
        beats.stall, listed.stall = stall, full
        if interrupt:
            await cut_by_reset(dut, beats, items, interrupt)
        listed.found, listed.opened = [], []
        beats.items, beats.taken = list(items), 0
        cycles = await start_and_wait(dut)
        assert beats.taken == len(items) and listed.opened == [token]
        if not stall and not full and not kind and hidden == config.max_inputs:
            assert cycles <= len(items) + 120, (vocab, hidden, cycles)  # one beat a cycle
        order = [block * config.kv_block + i for block in blocks for i in range(config.kv_block)]
        order = [row for row in order if row < vocab]
        bits = golden_logits(query, rows, scales, scale).numpy().view(np.uint32)[order].tolist()
        assert listed.found == list(zip(order, bits, strict=True)), (number, vocab, hidden)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(chunk=6, max_head_dim=64, max_query=512),
        tiny_config(query_lanes=1, kv_block=4, chunk=4),
        tiny_config(query_lanes=4, kv_block=16, chunk=2, rows=1, groups=4),
        tiny_config(beat_bytes=32, kv_block=16, chunk=10, beat_vectors=2, query_lanes=4),
        ONE_KEY_BEAT,
        MUTATED,
    ],
)
def test_lists(tmp_path: Path, config: BuildConfig) -> None:
    block, inputs = config.kv_block, config.max_inputs
    cases = [
        (0.0, 0.0, 0, 5 * block, inputs, ""), (0.3, 0.5, 0, 3 * block + 1, inputs - 3, ""),
        (0.0, 0.9, 0, 9 * block - 1, config.width, ""),
        (0.0, 0.0, 0, 1, 1, ""), (0.3, 0.0, 0, block - 1, 17, ""), (0.0, 0.3, 60, 6 * block + 2, 20, ""),
        (0.0, 0.2, 37, 4 * block, inputs, "negative"), (0.5, 0.0, 0, 3, 9, "zero"), (0.0, 0.0, 0, 2 * block + 2, inputs, "huge"),
        (0.0, 0.98, 0, 7 * block + 3, 5, ""),
    ]
    run_cocotb(
        partial(AttentionBench, config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "cases": cases},
    )
