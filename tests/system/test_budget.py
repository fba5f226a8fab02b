"""Runs that choose blocks of their cache, on the whole machine: every operator, loops, STOP, and memory that answers late."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hwgen.block_choice import first_position
from hwgen.config import BuildConfig
from hwgen.descriptors import Opcode
from hwgen.hw.verilog import cached_verilog
from hwgen.registers import Status
from hwgen.shape import ModelShape
from hwgen.sim.dram import KV260, RANDOM, DramTiming
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.device import Device
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.runtime.block_summaries import loop_limit
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.kv_arrays import with_cache_tokens
from hwgen.sw.runtime.pages import Session
from hwgen.sw.runtime.pass_trace import read_trace
from hwgen.sw.runtime.running_loop import RunningLoop
from hwgen.sw.verification.lock_step import LockStep
from hwgen.weights import random_weights

from . import small

#: Blocks of 8 keys and four summaries: a page has those of two.
CONFIG = replace(
    small.CONFIG, name="budget", kv_budget=3, int4_kv=True, fp8_query=True, max_context=136, page_entries=64, max_head_dim=16,
    max_query=64,
)
SHAPE = ModelShape(
    hidden=30, layers=2, heads=4, kv_heads=2, head_dim=16, ffn=45, vocab=41, activation="silu", max_context=136, tied=False
)
MEMORY_BYTES = 1 << 21
#: Where a run of the largest budget begins to choose.
FIRST = first_position(CONFIG, CONFIG.kv_budget)


@cache
def image_of(kv: str = "k8v8", config: BuildConfig = CONFIG) -> Image:
    image = compile_model(config, replace(random_weights(SHAPE, seed=11), kv=kv))
    return with_cache_tokens(image, 4 * image.context)


def rtl_device(timing: DramTiming = KV260) -> VerilatorDevice:
    return VerilatorDevice(CONFIG, memory_bytes=MEMORY_BYTES, timing=timing, optimize=False, verilog=cached_verilog(CONFIG))


def prompt(length: int, seed: int = 0) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, SHAPE.vocab, length)]


@pytest.mark.parametrize(("kv", "timing"), [("k8v8", KV260), ("k4v4", RANDOM(4))])
def test_every_operator(kv: str, timing: DramTiming) -> None:
    """Beside a run that chooses one that reads its prompt, one that is exact, and one of another length that chooses."""
    device = rtl_device(timing)
    step = LockStep(CONFIG, image_of(kv), device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    step.budget = CONFIG.kv_budget
    for number, length in enumerate((FIRST - 2, FIRST + 59, 3)):
        tokens = prompt(length, number)
        for first in range(0, length, step.image.chunk):
            step.run_pass([(number, tokens[first : first + step.image.chunk], 0)])
    parts = [[(0, [7], 1)], [(0, [9], 1), (1, [3], 1)], [(0, [1], 1), (2, [5, 6], 1), (1, [4], 1)], [(3, [8], 0), (1, [2], 1)]]
    parts += [[(0, [token], 1), (2, [token + 1], 1), (1, [token], 0)] for token in range(9)]
    for runs in parts:
        step.run_pass(runs)
    assert step.outcome.first is None, step.outcome.first
    chooses = [session.summaries.pages for session, _ in step.sessions]
    assert [len(pages) for pages in chooses] == [3, 7, 0, 0], "pages of two blocks each"
    assert not device.accelerator.violation_count


def answer(device: Device, passes: int, loops: bool) -> tuple[list[list[int]], bytes]:
    """Two sequences, one of which begins to choose on the way; by as many doorbells, or by loops that may cross a block."""
    engine = Engine(device, image_of())
    sessions = [Session(), Session()]
    for number, (session, length) in enumerate(zip(sessions, (FIRST - 3, FIRST + 12), strict=True)):
        engine.prefill(session, prompt(length, number))
    tokens, chosen = [12, 6], list[list[int]]()
    while len(chosen) < passes:
        runs = [Run(session, [token], 1, budget=2 + n) for n, (session, token) in enumerate(zip(sessions, tokens, strict=True))]
        if loops:
            most = min(passes - len(chosen), *(loop_limit(CONFIG, run, 64) for run in runs))
            chosen += [list(found) for found in RunningLoop(engine, runs, most, [])]
        else:
            result = engine.run_pass(runs)
            chosen.append([run.best(0) for run in result.runs])
        tokens = chosen[-1]
    return chosen, engine.pages.read([page for session in sessions for page in session.pages]).tobytes()


def test_loops() -> None:
    expected = answer(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), 30, loops=False)
    assert answer(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), 30, loops=True) == expected
    assert answer(rtl_device(RANDOM(6)), 30, loops=True) == expected


def test_stop_in_a_pass_that_chooses() -> None:
    """Before, in and behind every operator that chooses or waits for a choice; the next pass is bit for bit right."""
    device = rtl_device()
    engine, golden = Engine(device, image_of()), Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), image_of())
    session, other = Session(), Session()
    tokens = prompt(FIRST + 5)
    for of, at in ((engine, session), (golden, other)):
        of.prefill(at, tokens)
    expected = golden.run_pass([Run(other, [5], 1, budget=2)]).candidates

    def again() -> None:
        del session.tokens[len(tokens) :]

    assert engine.run_pass([Run(session, [5], 1, budget=2)]).candidates == expected
    whole = engine._read("COUNT_CYCLES")
    entries = [entry for entry in read_trace(engine, "", whole).entries if entry.opcode is Opcode.ATTENTION]
    assert len(entries) == 2 * SHAPE.layers
    moments = sorted({at for entry in entries for at in (entry.start - 3, *np.linspace(entry.start, entry.end, 5, dtype=int))})
    stopped = 0
    for cycles in moments:
        again()
        engine.start([Run(session, [5], 1, budget=2)])
        device.accelerator.tick(int(cycles))
        device.stop()
        stopped += Status(engine._read("STATUS")) == Status.DONE | Status.STOPPED
        engine.settle()
        again()
        assert engine.run_pass([Run(session, [5], 1, budget=2)]).candidates == expected, cycles
    assert stopped >= len(moments) - 2
    assert not device.accelerator.violation_count
