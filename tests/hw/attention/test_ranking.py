"""Ranking against a stable sort: vectors of logits of several tokens, panel by panel, in memory and as candidates."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.hw.attention.ranking import Ranking
from hwgen.rounding import align, ceil_div
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import Sink, pack_bytes
from tools.mutant_config import CONFIG as MUTATED

#: Cycles from `begin` of a vector to its logits: more or less as many as the vector unit takes.
DELAY = 60

BASE, OFFSET = 0x40_0000_1000, 0x2_0000

CONFIGS = {
    "narrow": MUTATED,
    "two_a_beat": BuildConfig(beat_bytes=32, beat_vectors=2, rows=2, builders=1, kv_block=16, chunk=4, topk=5),
    "int4": BuildConfig(engine="int4", beat_bytes=32, rows=2, kv_block=16, chunk=4, topk=1),
}


class Bench:
    """Panels as DRAIN sends them."""

    def __init__(self, dut: Any, config: BuildConfig) -> None:
        self.dut, self.config, self.choice = dut, config, random.Random(config.width)
        self.known: dict[int, np.ndarray] = {}
        #: Vectors that are on their way, and were at most.
        self.underway = self.most = 0

    async def panel(self, first: int, rows: int, logits: np.ndarray, write: bool, stride: int) -> None:
        """``logits [token, row]``, whole vectors, of tokens from ``first`` on."""
        dut, width = self.dut, self.config.width
        row = len(self.known.get(first, [])) if first in self.known else 0
        for name, value in {
            "first_row": row, "rows": rows, "vectors": logits.shape[1] // width, "list": first, "tokens": len(logits),
            "write": write, "base": BASE, "offset": OFFSET + 4 * row, "stride": stride,
        }.items():
            getattr(dut, name).value = int(value)
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        for token in logits:
            await self._wait("busy", 0)
            for vector in token.reshape(-1, width):
                await self._wait("room", 1)
                dut.begin.value = 1
                self.underway += 1
                self.most = max(self.most, self.underway)
                cocotb.start_soon(self._arrive(vector))
                await RisingEdge(dut.clk)
                dut.begin.value = 0
                await ClockCycles(dut.clk, width - 1 + self.choice.choice([0, 0, 0, 5]))
            await ClockCycles(dut.clk, DELAY + 2)
        await self._wait("busy", 0)
        for i, token in enumerate(logits):
            before = self.known.get(first + i, np.zeros(0, np.float32)) if row else np.zeros(0, np.float32)
            self.known[first + i] = np.concatenate((before, token))[: max(rows, 0)]

    async def _arrive(self, vector: np.ndarray) -> None:
        await ClockCycles(self.dut.clk, DELAY)
        self.dut.valid.value, self.dut.logits.value = 1, pack_bytes(vector)
        self.underway -= 1
        await RisingEdge(self.dut.clk)
        self.dut.valid.value = 0

    async def _wait(self, name: str, value: int) -> None:
        """From the cycle after start or a last vector on: whoever asks reads a register."""
        for _ in range(5000):
            await RisingEdge(self.dut.clk)
            if int(getattr(self.dut, name).value) == value:
                return
        raise AssertionError(f"{name} does not become {value}")

    async def candidates(self, token: int) -> list[tuple[int, int]]:
        words, size = [], self.config.topk
        for word in range(2 * size):
            self.dut.candidate.value = 2 * size * token + word
            await ClockCycles(self.dut.clk, 2)
            words.append(int(self.dut.candidate_word.value))
        return list(zip(words[0::2], words[1::2], strict=True))


@cocotb.test()
async def ranks(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    for port in dir(dut):
        if port in ("start", "begin", "valid", "candidate") or (port.startswith("listed__") and port.split("__")[1] in (
            "open", "begin", "valid", "token", "row", "logit",
        )):
            getattr(dut, port).value = 0
    beats, segments = Sink(dut, "beats", 0.0, 4), Sink(dut, "segment", 0.5, 5)
    await start_clock(dut)
    bench, rng = Bench(dut, config), np.random.default_rng(1)
    step = config.width * config.beat_vectors
    for rows, sizes, tokens, first, write, back_pressure, kind in (
        (5 * step, [2, 3], 2, 0, True, 0.0, "any"), (3 * step - 1, [2, 1], 3, 1, True, 0.9, "ties"),
        (1, [1], 1, 3, True, 0.0, "any"), (4 * step - step + 1, [1, 1, 2], 4, 0, False, 0.0, "ties"),
        (9 * step, [9], 1, 2, True, 0.98, "any"), (8 * step, [8], 1, 1, False, 0.0, "rising"),
    ):
        beats.stall = back_pressure
        beats.items.clear()
        segments.items.clear()
        logits = rng.normal(size=(tokens, align(rows, step))).astype(np.float32)
        if kind == "ties":
            logits = np.rint(logits).astype(np.float32) - np.float32(3)
        if kind == "rising":
            logits.sort()
        logits[:, rows:] = 3e38
        for token in range(first, first + tokens):
            bench.known.pop(token, None)
        stride = ceil_div(4 * rows, config.beat_bytes)
        at, places, words = 0, [], []
        for size in sizes:
            part = logits[:, at : at + size * step]
            await bench.panel(first, rows, part, write, stride)
            places += [BASE + OFFSET + 4 * at + t * stride * config.beat_bytes | size << 40 for t in range(tokens)]
            words += [pack_bytes(beat) for beat in part.reshape(-1, config.beat_bytes // 4)]
            at += size * step
        strobes = ((1 << config.beat_bytes) - 1) << (8 * config.beat_bytes)
        assert segments.items == (places if write else [])
        assert beats.items == ([word | strobes for word in words] if write else [])
        for token, known in bench.known.items():
            order = np.argsort(-known.astype(np.float64), kind="stable")[: config.topk]
            expected = [(int(i), int(known[i : i + 1].view(np.uint32)[0])) for i in order]
            assert (await bench.candidates(token))[: len(expected)] == expected, (rows, token)
    assert bench.most >= min(4, 2 * config.kv_block // config.width), "vectors wait although there is room"
    await ReadOnly()


@pytest.mark.parametrize("name", CONFIGS)
def test_ranks(tmp_path: Path, name: str) -> None:
    run_cocotb(
        partial(Ranking, CONFIGS[name]), test_module=__name__, build_dir=tmp_path, parameters={"config": CONFIGS[name].to_dict()},
    )
