"""What the machine tells about a pass: its counters and its trace agree with each other and with the program."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest

from hwgen.descriptors import Descriptor, Opcode
from hwgen.operators import must_wait
from hwgen.registers import ENGINE_COUNTERS
from hwgen.sim.dram import KV260, RANDOM
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import PassResult
from hwgen.sw.runtime.pass_trace import TRACKS, TraceEntry, read_trace
from hwgen.sw.verification.lock_step import LockStep

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

#: Three rounds of the two lanes, two with one lane idle, one token.
PASSES = ([5, 40, 0, 17, 23, 8], [31, 2, 9], [7])


@dataclass(frozen=True)
class Traced:
    """One pass."""

    result: PassResult
    entries: tuple[TraceEntry, ...]
    #: Tag and cycle of every operator as the probe shows it.
    retired: tuple[tuple[int, int], ...]


@cache
def traced(head: str) -> tuple[Image, list[Traced]]:
    image, device = small_image(SHAPE, head), SmallDevice(RANDOM(4) if head == "shortlist" else KV260)
    step = LockStep(CONFIG, image, device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))
    passes = []
    for tokens in PASSES:
        first = len(device.retired)
        step.forward(tokens, logits=True)
        assert step.outcome.mismatches == 0, step.outcome.first
        result = step.rtl_result
        assert result is not None
        entries = read_trace(step.rtl_engine, "", result.cycles).entries
        passes.append(Traced(result, entries, tuple(device.retired[first:])))
    return image, passes


HEADS = pytest.mark.parametrize("head", ["exact", "shortlist"])


@HEADS
def test_every_cycle_of_the_engine_has_one_cause(head: str) -> None:
    _, passes = traced(head)
    for number, of in enumerate(passes):
        counters = of.result.counters
        assert sum(counters[name] for name, _ in ENGINE_COUNTERS) == of.result.cycles, number
        assert counters["engine_busy"] == sum(d.slices * d.row_blocks for d in linear(head, number)) // CONFIG.groups
        assert counters["operators"] == len(of.retired)


def linear(head: str, number: int) -> list[Descriptor]:
    """The LINEAR operators of a pass, from its trace."""
    image, passes = traced(head)
    return [image.descriptors[e.tag] for e in passes[number].entries if e.opcode is Opcode.LINEAR]


@HEADS
def test_trace_has_every_operator(head: str) -> None:
    image, passes = traced(head)
    for of in passes:
        assert [e.tag for e in of.entries] == [tag for tag, _ in of.retired]
        assert len(of.entries) == of.result.counters["operators"] < CONFIG.trace_entries
        assert len({cycle - e.end for e, (_, cycle) in zip(of.entries, of.retired, strict=True)}) == 1
        for e in of.entries:
            d = image.descriptors[e.tag]
            assert e.opcode is d.opcode
            assert 0 < e.start < e.end <= of.result.cycles
            assert 0 <= min(e.level_start, e.level_end) <= max(e.level_start, e.level_end) <= CONFIG.ring_beats
            assert 1 <= e.tokens <= max(1, d.token_count)


@HEADS
def test_trace_agrees_with_the_counters(head: str) -> None:
    for of in traced(head)[1]:
        spent: Counter[str] = Counter()
        for e in of.entries:
            spent[e.opcode.name.lower()] += e.end - e.start
        assert {name: cycles for name, cycles in of.result.opcode_cycles.items() if cycles} == spent


@HEADS
def test_operators_wait_for_what_they_need_and_for_nothing_else(head: str) -> None:
    image, passes = traced(head)
    for of in passes:
        in_program = sorted(of.entries, key=lambda e: e.tag)
        assert [e.start for e in in_program] == sorted(e.start for e in in_program)
        for i, later in enumerate(in_program):
            for earlier in in_program[:i]:
                if must_wait(image.descriptors[later.tag], image.descriptors[earlier.tag]):
                    assert earlier.end <= later.start, (earlier, later)


def test_units_run_at_the_same_time() -> None:
    """In prefill, most of what the vector unit does is beside the linear engine."""
    of = traced("exact")[1][0]
    work = {track: [e for e in of.entries if e.opcode in opcodes] for track, opcodes in TRACKS.items()}

    def beside(a: str, b: str) -> int:
        return sum(max(0, min(e.end, f.end) - max(e.start, f.start)) for e in work[a] for f in work[b])

    for track in work:
        assert beside(track, track) == sum(e.end - e.start for e in work[track]), f"{track} does two things at once"
    assert beside("vector", "linear") > 0 and beside("vector", "kv writer") > 0
    assert beside("loader", "linear") == beside("attention", "linear") == 0 < beside("loader", "vector")
    assert [e.tag for e in of.entries] != sorted(e.tag for e in of.entries)
