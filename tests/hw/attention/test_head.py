"""HEAD on the attention unit: logits in memory order and the sorted candidates, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
import torch
from cocotb.triggers import ClockCycles, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Format, Opcode
from hwgen.golden.head import head_logits, top_candidates
from hwgen.layout import head_block_beats, pack_head, pad_beats, vectors_of
from hwgen.rounding import ceil_div
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import (
    FORMATS,
    AttentionBench,
    Sink,
    Source,
    drive_operator,
    idle_inputs,
    pack_bytes,
    pulse,
    start_and_wait,
    tiny_config,
    write_query,
)

ADDRESS = 0x40_0000_1000 >> 8


def operands(seed: int, vocab: int, hidden: int, kind: str) -> tuple[Any, Any, Any, float]:
    """Query ``[hidden]``, rows ``[vocab, hidden]``, bf16 scales of the rows as bits, scale of the query; ``kind`` for extremes."""
    rng = np.random.default_rng(seed)
    query = rng.integers(-127, 128, hidden, dtype=np.int8)
    rows = rng.integers(-127, 128, (vocab, hidden), dtype=np.int8)
    scales = rng.integers(112 << 7, 118 << 7, vocab, dtype=np.uint16)
    scale = 3.25e-3
    if kind == "ties":
        rows, scales = rows[rng.integers(0, 3, vocab)], np.full(vocab, 115 << 7, np.uint16)
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
    return head_logits(
        torch.from_numpy(query).float(), torch.tensor(scale, dtype=torch.float32), torch.from_numpy(rows).float(), row_scale,
    )


def check_results(
    config: BuildConfig, logits: torch.Tensor, beats: list[int], segments: list[int], write_logits: bool, address: int
) -> None:
    """In memory the logits with zeros up to whole ring rows, or nothing."""
    if not write_logits:
        assert not segments and not beats
        return
    count = pad_beats(config, ceil_div(4 * len(logits), config.beat_bytes))
    words = config.beat_bytes // 4
    image = np.zeros(count * words, np.float32)
    image[: len(logits)] = logits.numpy()
    assert segments == [address | count << 40]
    strobes = ((1 << config.beat_bytes) - 1) << (8 * config.beat_bytes)
    assert beats == [pack_bytes(beat) | strobes for beat in image.reshape(count, words)]


async def candidates_of(dut: Any, token: int, size: int) -> list[tuple[int, int]]:
    """Token ids and bits of the logits in a wanted token's list."""
    words = []
    for word in range(2 * size):
        dut.candidate.value = 2 * size * token + word
        await ClockCycles(dut.clk, 2)
        words.append(int(dut.candidate_word.value))
    return list(zip(words[0::2], words[1::2], strict=True))


@cocotb.test()
async def ranks(dut: Any) -> None:
    parameters = cocotb_parameters()
    config = BuildConfig.from_dict(parameters["config"])
    idle_inputs(dut)
    drive_operator(dut, Descriptor())
    beats = Source(dut, "beats", 0.0, 3)
    logit_beats, segments = Sink(dut, "logits", 0.0, 4), Sink(dut, "logits_segment", 0.5, 5)
    await start_clock(dut)
    #: Candidates by wanted token.
    wanted: dict[int, list[tuple[int, int]]] = {}
    for number, (stall, back_pressure, interrupt, vocab, hidden, kind) in enumerate(parameters["cases"]):
        query, rows, scales, scale = operands(number, vocab, hidden, kind)
        padded = np.zeros(vectors_of(config, hidden) * config.width, np.int8)
        padded[:hidden] = query
        await write_query(dut, config, padded, scale, slot=0, kv_head=0, kv_heads=1)
        blocks = ceil_div(vocab, config.kv_block)
        command = Descriptor(
            opcode=Opcode.HEAD, vectors=vectors_of(config, hidden), row_blocks=blocks, stride=vocab,
            stream_beats=blocks * head_block_beats(config, hidden), head_stride=0x1000 * number,
            # The formats are those of ATTENTION.
            format=Format.FP8_QUERY | Format.INT4_KEYS | Format.INT4_VALUES if number % 2 else Format.NONE,
        )
        write_logits = number % 3 != 2
        token = number % config.chunk
        drive_operator(
            dut, command, runs=((77 % config.max_context, config.chunk, 0),), first=token, count=1, write_logits=write_logits,
            logits=ADDRESS,
        )
        items = [pack_bytes(beat) for beat in pack_head(config, rows, scales)]
        beats.stall, logit_beats.stall = stall, back_pressure
        if interrupt:
            beats.items += items
            await pulse(dut, dut.start)
            await ClockCycles(dut.clk, interrupt)
            dut.rst.value = 1
            beats.clear()
            await RisingEdge(dut.clk)
            dut.rst.value = 0
            await RisingEdge(dut.clk)
        logit_beats.items.clear()
        segments.items.clear()
        beats.items, beats.taken = list(items), 0
        cycles = await start_and_wait(dut)
        dut._log.info("%d x %d %s: %d cycles, %d beats", vocab, hidden, kind, cycles, len(items))
        assert beats.taken == len(items) == command.stream_beats
        if not stall and not back_pressure and not kind and hidden == config.max_inputs:
            # One beat a cycle.
            assert cycles <= len(items) + 120, (vocab, hidden, cycles)
        logits = golden_logits(query, rows, scales, scale)
        check_results(config, logits, logit_beats.items, segments.items, write_logits, ADDRESS + command.head_stride)
        index, best = top_candidates(logits, config.topk)
        wanted[token] = list(zip(index.tolist(), best.numpy().view(np.uint32).tolist(), strict=True))
        for of, expected in wanted.items():
            assert (await candidates_of(dut, of, config.topk))[: len(expected)] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk": 6, "max_head_dim": 64, "max_query": 512},
        {"query_lanes": 1, "kv_block": 4, "chunk": 4},
        {"query_lanes": 4, "kv_block": 16, "chunk": 2, "rows": 1, "groups": 4},
        {"beat_bytes": 32, "kv_block": 16, "chunk": 10, "beat_vectors": 2, "query_lanes": 4},
        FORMATS,
    ],
)
def test_ranks(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    block, inputs = config.kv_block, config.max_inputs
    cases = [
        (0.0, 0.0, 0, 5 * block, inputs, ""), (0.3, 0.5, 0, 3 * block + 1, inputs - 3, ""),
        (0.0, 0.9, 0, 9 * block - 1, config.width, ""),
        (0.0, 0.0, 0, 1, 1, ""), (0.3, 0.0, 0, block - 1, 17, "ties"), (0.0, 0.3, 60, 6 * block + 2, 20, "ties"),
        (0.0, 0.2, 37, 4 * block, inputs, "negative"), (0.5, 0.0, 0, 3, 9, "zero"), (0.0, 0.0, 0, 2 * block + 2, inputs, "huge"),
        (0.0, 0.98, 0, 7 * block + 3, 5, ""),
    ]
    run_cocotb(
        AttentionBench(config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "cases": cases},
    )
