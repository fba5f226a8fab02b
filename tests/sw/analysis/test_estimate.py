"""The analytic model by itself; test_bench.py holds it against RTL."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from hwgen.boards import load_board
from hwgen.descriptors import Opcode
from hwgen.published import published_shape
from hwgen.shape import ModelShape
from hwgen.sim import MemoryConditions
from hwgen.sim.port_rate import tabled_port_rate
from hwgen.sw.analysis.estimate import Calibration, PassModel, calibration_of, estimate_json, estimate_model

KV260 = load_board("kv260")


def test_spans_obey_the_machine() -> None:
    model = PassModel(KV260.config, published_shape("bitnet-0.73b"))
    traced = model.run(24, 48)
    for opcodes in ({Opcode.LINEAR}, {Opcode.NORM, Opcode.DRAIN, Opcode.ROPE}, {Opcode.ATTENTION, Opcode.HEAD}):
        spans = [s for s in traced.spans if s.descriptor.opcode in opcodes]
        assert all(a.end <= b.start for a, b in zip(spans, spans[1:], strict=False))
    starts = [s.start for s in traced.spans]
    assert starts == sorted(starts)
    assert traced.cycles > max(s.end for s in traced.spans)


def test_beats_are_those_of_the_program() -> None:
    shape = published_shape("bitnet-0.73b")
    traced = PassModel(KV260.config, shape).run(1, 0)
    c = KV260.config
    matrices = shape.linear_weights / (c.slice_inputs * c.rows)
    head = shape.vocab * shape.hidden / c.beat_bytes
    assert matrices + head < traced.stream_beats < 1.05 * (matrices + head)  # padding, gains, embedding, scales


def test_more_context_costs_its_bytes() -> None:
    model = PassModel(KV260.config, published_shape("bitnet-0.73b"))
    short, long = model.run(1, 128), model.run(1, 1024)
    assert long.cycles - short.cycles == pytest.approx(long.stream_beats - short.stream_beats, rel=0.05)


def test_a_smaller_ring_is_never_faster() -> None:
    shape = published_shape("bitnet-0.73b")
    cycles = [PassModel(replace(KV260.config, ring_beats=beats), shape).run(1, 128).cycles for beats in (512, 2048, 8192)]
    assert cycles == sorted(cycles, reverse=True)


def test_short_list_saves_the_head() -> None:
    exact, short = (estimate_json(KV260, "bitnet-2b4t", 0, 1, head=head, cached=128) for head in ("exact", "shortlist"))
    assert short["decode"]["tok_s"] > 1.4 * exact["decode"]["tok_s"]
    assert exact["decode"]["stream_bytes"] > short["decode"]["stream_bytes"]


def test_takes_milliseconds_a_pass() -> None:
    model = PassModel(KV260.config, published_shape("bitnet-0.73b"))
    begin = time.process_time()
    for _ in range(5):
        model.run(1, 128)
    assert (time.process_time() - begin) / 5 < 0.5  # tens of milliseconds, on a machine that does nothing else


def test_any_shape() -> None:
    shape = ModelShape(hidden=64, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=96, vocab=50, max_context=64)
    estimate = estimate_model(load_board("demo").config, shape, 13, 2)
    assert len(estimate.prefill) == 2 and len(estimate.decode) == 2


def test_calibration_has_the_memory_of_the_board() -> None:
    slow = MemoryConditions(latency_ns=480, cpu_bytes_per_s=1e9)
    usual, calibration = Calibration(), calibration_of(KV260, slow)
    assert calibration.port_rate == tabled_port_rate(KV260, slow) < calibration_of(KV260, MemoryConditions()).port_rate
    assert calibration.refill - usual.refill == calibration.first_beat - usual.first_beat == 120 - 60
    assert calibration_of(load_board("demo"), MemoryConditions()) == usual  # the memory that the figures were taken with
