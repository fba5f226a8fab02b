"""ATTENTION with CHOOSE, and with what it has chosen, on the unit with its KV store, bit for bit against the golden arithmetic."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
import torch
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from hwgen.block_choice import attended_blocks, attended_position, candidates, summary_beats, summary_pages
from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Fetch, Flag
from hwgen.golden.arithmetic import arithmetic
from hwgen.golden.float32 import round_int
from hwgen.golden.int4 import e4m3_values
from hwgen.hw.interfaces import index_bits
from hwgen.numerics import SCORE_BITS, SCORE_FRACTION
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock
from tests.hw.attention.bench import (
    FORMATS,
    AttentionBench,
    Source,
    cut_by_reset,
    drive_operator,
    idle_inputs,
    pack_bytes,
    start_and_wait,
    tiny_config,
)
from tests.hw.attention.test_attention import Case, Sequence


class ChoosingCase(Case):
    """Runs are position, tokens and budget; those with a budget attend to what is chosen by summaries, which are random."""

    def __init__(
        self, config: BuildConfig, seed: int, heads: int, kv_heads: int, head_dim: int, runs: list[tuple[int, int, int]], kind: str,
        formats: str = "",
    ) -> None:
        places = [(position, tokens) for position, tokens, _ in runs]
        super().__init__(config, seed, heads, kv_heads, head_dim, places, kind, formats)
        self.budgets = [budget for _, _, budget in runs]
        rng = np.random.default_rng(seed + 1000)
        rows = [summary_pages(config, position) * config.kv_block for position, _, _ in runs]
        #: Keys that are summaries, ``[kv_head, row, dim]``, and their scales.
        self.summaries = [(kv[0], scale[0]) for kv, scale in (self._keys(rng, n, kind) for n in rows)]
        #: Of every run, by head, what it chooses.
        self.chosen = [self._choose(number) for number in range(len(runs))]
        self.sequences = [self._attended(number) for number in range(len(runs))]

    def _choose(self, number: int) -> list[list[int]]:
        of, budget, group = self.sequences[number], self.budgets[number], self.group
        if not budget:
            return [[] for _ in range(self.kv_heads)]
        token = sum(tokens for _, tokens in self.runs[:number])
        keys, key_scales = self.summaries[number]
        widened = (key_scales.astype(np.uint32) << 16).view(np.float32)
        out = []
        for head in range(self.kv_heads):
            codes = torch.from_numpy(self.query[token, head * group : (head + 1) * group])
            query = e4m3_values(codes) if self.e4m3 else codes
            dot = (query.double() @ torch.from_numpy(keys[head]).double().T).float().numpy()
            scale = self.query_scale[token, head * group : (head + 1) * group, None]
            f = arithmetic(widened[head], scale)
            scaled = f.mul(f.mul(dot, widened[head][None]), scale)
            rows = round_int(torch.from_numpy(scaled), SCORE_BITS, SCORE_FRACTION).numpy().max(axis=0)
            score = rows.reshape(-1, self.config.summary_rows).max(axis=1)
            out.append(sorted(candidates(self.config, of.position), key=lambda block: (-int(score[block]), block))[:budget])
        return out

    def _attended(self, number: int) -> Sequence:
        """The run's sequence as if what it attends to were all there is."""
        of, budget = self.sequences[number], self.budgets[number]
        if not budget:
            return of
        block = self.config.kv_block
        places = []
        for head in range(self.kv_heads):
            blocks = attended_blocks(self.config, of.position, self.chosen[number][head])
            slots = [b * block + i for b in blocks for i in range(block)]
            whole = attended_position(self.config, of.position, budget)
            slots = [*slots[:whole], of.position]
            places.append(slots)
        index = np.array(places)
        kv = np.stack([of.kv[:, head][:, index[head]] for head in range(self.kv_heads)], axis=1)
        scale = np.stack([of.scale[:, head][:, index[head]] for head in range(self.kv_heads)], axis=1)
        return Sequence(index.shape[1] - 1, 1, kv, scale)

    def choosing(self, dst: int) -> Descriptor:
        return replace(
            self.descriptor(dst), flags=Flag.CHOOSE, fetch=Fetch.SUMMARY, stream_beats=summary_beats(self.config, self.layout)
        )

    def summary_beats(self, rng: np.random.Generator) -> list[int]:
        """Pages of summaries of every run and head, the scales of values noise; a page of noise of a run without a budget."""
        config, layout, block = self.config, self.layout, self.config.kv_block
        beats, out = summary_beats(config, layout), list[int]()
        for number, head in itertools.product(range(len(self.runs)), range(self.kv_heads)):
            keys, scales = self.summaries[number]
            for page in range(summary_pages(config, self.runs[number][0]) if self.budgets[number] else 1):
                image = rng.integers(0, 256, (beats, config.beat_bytes), dtype=np.uint8)
                if self.budgets[number]:
                    slots = slice(page * block, (page + 1) * block)
                    image[: layout.header_beats].reshape(-1).view(np.uint16)[:block] = scales[head, slots]
                    image[layout.beats_of(0)] = layout.join(0, keys[head, slots]).reshape(-1, config.beat_bytes).view(np.uint8)
                out += [pack_bytes(beat) for beat in image]
        return out

    def table(self) -> list[tuple[int, ...]]:
        return [(position, tokens, 0, budget) for (position, tokens), budget in zip(self.runs, self.budgets, strict=True)]


async def read_choice(dut: Any, config: BuildConfig, case: ChoosingCase) -> list[list[list[int]]]:
    """What the unit has chosen, by run and head."""
    heads, out = 1 << index_bits(config.max_kv_heads), []
    for number, budget in enumerate(case.budgets):
        of_run = []
        for head in range(case.kv_heads):
            entries = []
            for i in range(budget):
                dut.chosen__index.value = (number * heads + head) * config.kv_budget + i
                await ClockCycles(dut.clk, 2)
                entries.append(int(dut.chosen__number.value))
            of_run.append(entries)
        out.append(of_run)
    return out


@cocotb.test()
async def chooses(dut: Any) -> None:
    parameters = cocotb_parameters()
    config = BuildConfig.from_dict(parameters["config"])
    idle_inputs(dut)
    drive_operator(dut, Descriptor())
    dut.chosen__index.value = 0
    beats = Source(dut, "beats", 0.0, 3)
    written: list[tuple[int, int]] = []
    dones = 0

    async def watch() -> None:
        nonlocal dones
        while True:
            await ReadOnly()
            if int(dut.scratch_write__valid.value):
                written.append((int(dut.scratch_write__addr.value), int(dut.scratch_write__data.value)))
            dones += int(dut.choice_done.value)
            await RisingEdge(dut.clk)

    await start_clock(dut)
    cocotb.start_soon(watch())
    for number, (stall, interrupt, *arguments) in enumerate(parameters["cases"]):
        rng = np.random.default_rng(number)
        case = ChoosingCase(config, number, *arguments)
        dst = 3 + number % 5
        await case.load(dut, rng)
        beats.stall = stall
        drive_operator(dut, case.choosing(dst), runs=case.table())
        if interrupt:
            await cut_by_reset(dut, beats, case.summary_beats(rng), interrupt)
        written.clear()
        dones, beats.taken, items = 0, 0, case.summary_beats(rng)
        beats.items += items
        cycles = await start_and_wait(dut)
        dut._log.info("%s: %d cycles, %d beats", arguments, cycles, len(items))
        await ClockCycles(dut.clk, 3)
        assert beats.taken == len(items) and not beats.items and dones == 1 and not written, arguments
        assert await read_choice(dut, config, case) == case.chosen, arguments
        if not stall:
            pages = sum(summary_pages(config, p) if b else 1 for (p, _), b in zip(case.runs, case.budgets, strict=True))
            assert cycles <= case.kv_heads * pages * (len(items) + 8 * config.kv_block + 60), (arguments, cycles)

        drive_operator(dut, case.descriptor(dst), runs=case.table())
        beats.taken, items = 0, case.beats(rng)
        beats.items += items
        await start_and_wait(dut)
        expected = case.expected(dst)
        assert beats.taken == len(items) and not beats.items
        assert dict(written) == expected and len(written) == len(expected) and dones == 1, arguments


CASES: dict[str, tuple[BuildConfig, list[tuple[Any, ...]]]] = {
    # Blocks of 8 keys; runs are position, tokens, budget.
    "small": (tiny_config(kv_budget=5, max_context=256, summary_rows=1), [
        (0.0, 0, 4, 2, 16, [(40, 1, 2)], "plain"),  # the fewest blocks that it chooses from, at the beginning of a block
        (0.3, 0, 4, 2, 16, [(47, 1, 2)], "plain"),
        (0.0, 0, 4, 4, 32, [(201, 1, 5)], "plain"),  # several pages of summaries
        (0.0, 57, 4, 4, 32, [(255, 1, 5)], "plain"),  # reset in the middle
        (0.2, 0, 8, 2, 16, [(80, 1, 2), (9, 2, 0), (130, 1, 5)], "plain"),  # four heads in two lanes, and a run without one
        (0.0, 0, 3, 1, 16, [(66, 1, 4), (70, 1, 1), (72, 1, 3), (0, 1, 0)], "plain"),  # rounds that runs share
        (0.0, 0, 2, 2, 16, [(200, 1, 5)], "equal"),  # of equal scores the first blocks
        (0.0, 0, 2, 2, 16, [(200, 1, 5)], "saturated"),
        (0.0, 0, 2, 2, 16, [(135, 1, 5)], "zero"),
        (0.0, 0, 2, 2, 16, [(135, 1, 5)], "lowest"),
        (0.0, 0, 2, 2, 16, [(3, 4, 0)], "plain"),  # nobody chooses
    ]),
    "rows": (tiny_config(kv_budget=5, max_context=256, summary_rows=8), [
        (0.0, 0, 4, 2, 16, [(40, 1, 2)], "plain"),
        (0.2, 0, 8, 2, 16, [(80, 1, 2), (9, 2, 0), (255, 1, 5)], "plain"),
        (0.0, 0, 2, 2, 16, [(200, 1, 5)], "equal"),
    ]),
    # Four rows a block.
    "formats": (tiny_config(**{**FORMATS, "kv_budget": 4, "max_context": 256}), [
        (0.0, 0, 4, 2, 64, [(101, 1, 4), (88, 1, 3)], "plain", "k4v4"),
        (0.3, 0, 4, 2, 32, [(101, 1, 2)], "plain", "k4v4 e4m3"),
        (0.1, 0, 8, 4, 32, [(255, 1, 4), (17, 5, 0)], "extremes", "k8v4"),
        (0.0, 40, 4, 4, 64, [(200, 1, 4)], "plain", "e4m3"),
    ]),
}


@pytest.mark.parametrize("name", CASES)
def test_choice(name: str, tmp_path: Path) -> None:
    config, cases = CASES[name]
    run_cocotb(
        partial(AttentionBench, config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "cases": cases},
    )
