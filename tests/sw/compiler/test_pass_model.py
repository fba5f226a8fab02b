"""The model of a pass by itself; test_bench.py holds it against RTL."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from hwgen.boards import load_board
from hwgen.descriptors import Descriptor, Flag, Opcode
from hwgen.layout import KvBlockLayout
from hwgen.published import published_model
from hwgen.sw.compiler.pass_model import COSTS, PassModel, Ring, Work

KV260 = load_board("kv260")


def test_spans_obey_the_machine() -> None:
    model = PassModel(KV260.config, published_model("bitnet-0.73b").shape)
    traced = model.run(24, 48)
    for opcodes in ({Opcode.LINEAR}, {Opcode.NORM, Opcode.DRAIN, Opcode.ROPE}, {Opcode.ATTENTION, Opcode.HEAD}):
        spans = [s for s in traced.spans if s.descriptor.opcode in opcodes]
        assert all(a.end <= b.start for a, b in zip(spans, spans[1:], strict=False))
    starts = [s.start for s in traced.spans]
    assert starts == sorted(starts)
    assert traced.cycles > max(s.end for s in traced.spans)


def test_beats_are_those_of_the_program() -> None:
    shape = published_model("bitnet-0.73b").shape
    traced = PassModel(KV260.config, shape).run(1, 0)
    c = KV260.config
    matrices = shape.linear_weights / (c.slice_inputs * c.rows)
    head = shape.vocab * shape.hidden / c.beat_bytes
    assert matrices + head < traced.stream_beats < 1.05 * (matrices + head)  # padding, gains, embedding, scales


def test_more_context_costs_its_bytes() -> None:
    model = PassModel(KV260.config, published_model("bitnet-0.73b").shape)
    short, long = model.run(1, 128), model.run(1, 1024)
    assert long.cycles - short.cycles == pytest.approx(long.stream_beats - short.stream_beats, rel=0.05)


def test_a_smaller_ring_is_never_faster() -> None:
    shape = published_model("bitnet-0.73b").shape
    cycles = [PassModel(replace(KV260.config, ring_beats=beats), shape).run(1, 128).cycles for beats in (512, 2048, 8192)]
    assert cycles == sorted(cycles, reverse=True)


def test_ports_bring_their_words_and_the_ring_takes_a_beat() -> None:
    """Of four words a beat, three ports bring three quarters, and six no more than one beat."""
    shape = published_model("bitnet-0.73b").shape
    three, four, six = (PassModel(replace(KV260.config, ports=ports), shape).run(1, 128).cycles for ports in (3, 4, 6))
    assert three / four == pytest.approx(4 / 3, rel=0.03)
    assert four == six


def test_takes_milliseconds_a_pass() -> None:
    model = PassModel(KV260.config, published_model("bitnet-0.73b").shape)
    begin = time.process_time()
    for _ in range(5):
        model.run(1, 128)
    assert (time.process_time() - begin) / 5 < 0.5  # tens of milliseconds, on a machine that does nothing else


@pytest.mark.parametrize(("heads", "vectors", "tokens", "cycles"), [
    (1, 1, 1, 140), (4, 4, 1, 585), (4, 16, 1, 817), (2, 8, 2, 669), (4, 2, 2, 1045),
])
def test_norms_of_heads_take_what_the_rtl_took(heads: int, vectors: int, tokens: int, cycles: int) -> None:
    """Cycles from start to done of the vector unit with vectors of 8 elements."""
    config = KV260.config
    assert config.width == 8
    model = PassModel(config, replace(published_model("bitnet-0.73b").shape, layers=1))
    d = Descriptor(opcode=Opcode.NORM, flags=Flag.STORE, heads=heads, vectors=vectors)
    work = Work(descriptor=d, count=tokens, tokens=tokens, runs=[(0, tokens)], start=0, beats=0)
    assert COSTS[Opcode.NORM](model, work, Ring(config, model.calibration)) == pytest.approx(cycles, abs=3)


@pytest.mark.parametrize(
    ("kv_heads", "dim", "runs", "cycles"),
    [
        # KV_WRITE of a layer in `hwgen bench --board kv260 --shape bitnet-0.73b --prompt 0 --cached 128 --decode 1`.
        (16, 96, [(128, 1)], 8_343),
    ],
)
def test_kv_writes_take_what_the_rtl_took(kv_heads: int, dim: int, runs: list[tuple[int, int]], cycles: int) -> None:
    config, model = KV260.config, PassModel(KV260.config, published_model("bitnet-0.73b").shape)
    beats = KvBlockLayout(config, dim).beats
    write = Descriptor(opcode=Opcode.KV_WRITE, kv_heads=kv_heads, head_vectors=dim // config.width, stream_beats=beats)
    ring = Ring(config, model.calibration)
    work = Work(write, 1, 1, runs, 0.0, 0)
    assert COSTS[Opcode.KV_WRITE](model, work, ring) == pytest.approx(cycles, rel=0.01)
    assert ring.arrived - model.calibration.first_beat == pytest.approx(kv_heads * beats / ring.rate)
