"""Ternary models with scales of groups, and without, on a build that takes both, in lock-step with the golden machine."""

from __future__ import annotations

import pytest

from hwgen.config import BuildConfig
from hwgen.decoder import LLAMA, QWEN3, DecoderLayer
from hwgen.hw.verilog import cached_verilog
from hwgen.shape import ModelShape
from hwgen.sim.dram import KV260
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.case import MEMORY_BYTES, Case, Step, run_case

#: Slices of 40 inputs: four row blocks in a beat of short ones. Panels of 96 rows cut every matrix.
CONFIG = BuildConfig(
    name="grouped", engine="grouped", ports=2, port_bits=64, beat_bytes=16, groups=2, lanes=1, rows=2, builders=7, kv_block=16,
    chunk=4, ring_beats=512, ring_memory="block", scratch_vectors=1024, param_vectors=256, max_inputs=256, panel_rows=96,
    max_heads=4, max_kv_heads=2, max_head_dim=32, max_query=128, max_context=32, trace_entries=16, topk=2, shortlist=2, burst=8,
    query_lanes=1, probe=True,
)

SHAPE = ModelShape(
    hidden=128, layers=1, heads=4, kv_heads=2, head_dim=32, ffn=256, vocab=70, activation="silu", max_context=32, rms_eps=1e-6,
)


@pytest.mark.parametrize(("engine", "layer"), [("grouped", QWEN3), ("ternary", LLAMA)])
def test_grouped(engine: str, layer: DecoderLayer) -> None:
    """A pass of a token, whose lanes work together; passes of more, of one sequence and of two."""
    steps = (Step(((0, 1, 1),)), Step(((0, 3, 1),)), Step(((0, 2, 1), (1, 2, 2))))
    verilog = cached_verilog(CONFIG)
    device = VerilatorDevice(CONFIG, memory_bytes=MEMORY_BYTES, timing=KV260, optimize=False, verilog=verilog)
    result = run_case(Case(CONFIG, SHAPE, KV260, steps, 1, "exact", layer, engine=engine), device)
    assert not result.wrong and result.passes == len(steps)
