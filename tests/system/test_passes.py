"""Passes of the whole machine that are out of the ordinary: ended by a reset, without logits, up to the last position, with a
matrix larger than the ring, with an address outside the memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hwgen.decoder import BITNET
from hwgen.descriptors import Fetch, Flag, Opcode
from hwgen.errors import HwgenError
from hwgen.registers import Status, register
from hwgen.shape import ModelShape
from hwgen.sim.dram import IDEAL, KV260, RANDOM, DramTiming
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.runtime.engine import Engine, Run
from hwgen.sw.runtime.pages import Session
from hwgen.sw.verification.case import Case, Step, run_case
from hwgen.sw.verification.lock_step import LockStep
from hwgen.sw.verification.random_case import random_passes

from .small import CONFIG, MEMORY_BYTES, SHAPE, SmallDevice, small_image

PROMPT = [5, 40, 0, 17, 23, 8, 31]


def lock_step(device: SmallDevice, image: Image | None = None) -> LockStep:
    return LockStep(CONFIG, image or small_image(), device, GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES))


def results(engine: Engine, session: Session) -> list[object]:
    """What a host can see of a prompt: candidates, logits and the cache."""
    passes = engine.prefill(session, PROMPT, write_logits=True)
    return [
        *(p.candidates for p in passes),
        engine.logits().tobytes(),
        engine.pages.read(range(engine.image.pages)).tobytes(),
    ]


@pytest.fixture(scope="module")
def expected() -> list[object]:
    return results(Engine(GoldenDevice(CONFIG, memory_bytes=MEMORY_BYTES), small_image()), Session())


@pytest.mark.parametrize("cycles", [1, 1500, 6200])  # in every operator: test_stop.py
def test_reset_in_a_pass(cycles: int, expected: list[object]) -> None:
    device = SmallDevice(RANDOM(cycles))
    engine = Engine(device, small_image())
    engine.start([Run(Session(), PROMPT[:4], 1)], write_logits=True)
    device.accelerator.tick(cycles)
    assert device.read_register(register(CONFIG, "STATUS").offset) == Status.BUSY
    device.accelerator.drop_outstanding()
    device.accelerator.reset()
    assert device.read_register(register(CONFIG, "STATUS").offset) == 0
    assert results(Engine(device, small_image()), Session()) == expected
    assert device.clean()


@pytest.mark.parametrize("timing", [KV260, IDEAL, RANDOM(5), replace(RANDOM(6), interleave=True)])
def test_passes_without_logits(timing: DramTiming) -> None:
    device = SmallDevice(timing)
    step = lock_step(device)
    for i, token in enumerate(PROMPT):
        step.forward([token], logits=i in (2, 6))
        assert step.outcome.mismatches == 0, step.outcome.first
    assert step.outcome.passes == len(PROMPT)
    assert device.clean()


def test_cuts_into_passes_change_no_bit() -> None:
    """Passes that begin and end at every place of a block, one that reaches into two blocks, one that fills one."""
    tokens = np.random.default_rng(4).integers(0, SHAPE.vocab, 19).tolist()
    found = []
    for cut in ((6, 6, 6, 1), (2, 6, 5, 6), (5, 2, 1, 6, 5), (1, 4, 4, 6, 3, 1)):
        engine, session = Engine(SmallDevice(), small_image()), Session()
        done = 0
        for tokens_here in cut:
            done += tokens_here
            result = engine.forward(session, tokens[done - tokens_here : done], logits=True, write_logits=True)
        cache = engine.pages.read(session.pages[:2])  # whole blocks: every slot was written
        found.append((result.candidates, engine.logits().tobytes(), cache.tobytes()))
    assert found[1:] == found[:1] * 3


def test_logits_are_written_only_when_asked_for() -> None:
    device = SmallDevice()
    engine, session = Engine(device, small_image()), Session()
    start, size = engine.memory.logits, engine.image.logits_bytes
    device.write(start, np.full(size, 0xA5, np.uint8))
    engine.forward(session, PROMPT[:3], logits=True)
    assert (device.read(start, size) == 0xA5).all()
    result = engine.forward(session, PROMPT[3:5], logits=True, write_logits=True)
    order = np.argsort(-engine.logits(), kind="stable")[: CONFIG.topk]
    assert [c.token for c in result.candidates] == order.tolist()
    assert device.clean()


def test_context_exactly_full() -> None:
    device = SmallDevice()
    step = lock_step(device)
    tokens = np.random.default_rng(8).integers(0, SHAPE.vocab, CONFIG.max_context).tolist()
    for first, last in ((0, 4), (4, 7), (7, 8), (8, 12), (12, 15), (15, 18), (18, 22), (22, 26), (26, 30), (30, 31), (31, 32)):
        step.forward(tokens[first:last], logits=True)
        assert step.outcome.mismatches == 0, step.outcome.first
    assert step.sessions[0][0].position == CONFIG.max_context
    with pytest.raises(HwgenError, match="longer than the context"):
        step.rtl_engine.start([Run(step.sessions[0][1], [1], 1)])
    assert device.clean()


@pytest.mark.parametrize("timing", [KV260, IDEAL, RANDOM(3)])
def test_matrix_larger_than_the_ring(timing: DramTiming) -> None:
    """Every round of tokens fetches it again, as it does several panels of a matrix; single panels that fit are replayed."""
    shape = ModelShape(
        hidden=31, layers=1, heads=4, kv_heads=1, head_dim=8, ffn=63, vocab=50, activation="relu2", max_context=CONFIG.max_context
    )
    image = small_image(shape)
    linear = [d for d in image.descriptors if d.opcode is Opcode.LINEAR]
    addresses = [d.stream_address for d in linear if d.token_start and d.fetch is Fetch.STREAM]
    sizes = {d.stream_address: d.stream_beats for d in linear if d.stream_address in addresses}
    room = CONFIG.ring_beats - 2 * CONFIG.burst
    assert max(sizes.values()) > room >= min(sizes.values())
    assert any(Flag.REPLAY in d.flags for d in linear)
    device = SmallDevice(timing)
    step = lock_step(device, image)
    full = 0
    for tokens in ([1, 2, 3, 4, 5, 6], [5, 6, 7], [8, 9], [10]):
        step.forward(tokens, logits=True)
        assert step.outcome.mismatches == 0, step.outcome.first
        full += step.rtl_engine._read("COUNT_RING_FULL")
    assert full > 0
    assert device.clean()


@pytest.mark.parametrize("timing", [KV260, RANDOM(9)])
def test_heads_rotate_as_their_panels_are_ready(timing: DramTiming) -> None:
    """Queries, keys and values in panels of their own, over one, two and three rounds of tokens."""
    shape = ModelShape(
        hidden=37, layers=2, heads=2, kv_heads=2, head_dim=8, ffn=50, vocab=33, activation="relu2", max_context=CONFIG.max_context
    )
    image = small_image(shape)
    kinds = {(d.flags, d.token_start) for d in image.descriptors if d.opcode is Opcode.ROPE}
    assert kinds == {(flag, start) for flag in (Flag.QUERIES, Flag.KEYS, Flag.VALUES) for start in (0, 2, 4)}
    assert any(Flag.MULTI in d.flags for d in image.descriptors)
    device = SmallDevice(timing)
    step = lock_step(device, image)
    for tokens in ([1, 2, 3, 4, 5, 6], [5, 6, 7], [8], [9, 10, 11, 12, 13], [1, 2], [4, 3, 2, 1]):
        step.forward(tokens, logits=True)
        assert step.outcome.mismatches == 0, step.outcome.first
    assert device.clean()


@pytest.mark.parametrize("timing", [KV260, RANDOM(2)])
def test_short_list_head(timing: DramTiming) -> None:
    """Only some blocks of the vocabulary, whose last one is not full, get exact logits."""
    image = small_image(SHAPE, "shortlist")
    assert SHAPE.vocab % CONFIG.kv_block and SHAPE.vocab > CONFIG.shortlist * CONFIG.kv_block
    assert sum(d.opcode is Opcode.LINEAR and Flag.LOGITS in d.flags for d in image.descriptors) > 1, "panels"
    device = SmallDevice(timing)
    step = lock_step(device, image)
    listed: set[int] = set()
    for tokens in ([1, 2, 3, 4, 5], [6], [7], [8, 9], [10], [11], [12, 13], [14], [15], [16]):
        result = step.forward(tokens, logits=True)
        assert step.outcome.mismatches == 0, step.outcome.first
        assert result is not None
        blocks = {c.token // CONFIG.kv_block for c in result.candidates}
        assert len(blocks) <= CONFIG.shortlist
        listed |= blocks
    assert len(listed) > CONFIG.shortlist, "the list is always the same"
    assert device.clean()


@pytest.mark.parametrize("head", ["exact", "shortlist"])
def test_runs_of_three_sequences(head: str) -> None:
    """Any mix of prompts and single tokens, any of them wanted: every operator, cache, candidate and logit."""
    device = SmallDevice(RANDOM(8))
    passes = random_passes(CONFIG, small_image(SHAPE, head).chunk, np.random.default_rng(2))
    kinds = {tuple(min(wanted, 2) for _, _, wanted in parts) for parts in passes}
    assert {len(parts) for parts in passes} == {1, 2, 3} and len(kinds) > 5
    assert any(sum(wanted for _, _, wanted in parts) > 2 * CONFIG.lanes for parts in passes), "three rounds of wanted tokens"
    case = Case(CONFIG, SHAPE, RANDOM(8), tuple(Step(parts) for parts in passes), 3, head, BITNET)
    result = run_case(case, device)
    assert not result.wrong and result.passes == len(passes)


@pytest.mark.parametrize("what", ["page", "program", "logits"])
def test_address_outside_the_memory(what: str, expected: list[object]) -> None:
    """The pass ends, STATUS and ERROR tell, and the next pass is as if nothing had happened."""
    device = SmallDevice()
    engine, session = Engine(device, small_image()), Session()
    engine.forward(session, PROMPT[:2])  # what registers hold is not written again
    if what == "page":
        engine._write("PAGE", 1 << 20, 0)
    else:
        engine._write(f"{what.upper()}_HIGH", 0x7F)
    runs = [Run(session, PROMPT[2:5], 1)]
    engine.start(runs, write_logits=True)
    with pytest.raises(HwgenError, match="answered a write" if what == "logits" else "answered a") as caught:
        engine.finish(runs)
    assert caught.value.kind == "device"
    assert device.read_register(register(CONFIG, "STATUS").offset) == Status.ERROR
    assert device.accelerator.error_count and not device.accelerator.violation_count
    assert results(Engine(device, small_image()), Session()) == expected
    assert device.read_register(register(CONFIG, "STATUS").offset) == 0
