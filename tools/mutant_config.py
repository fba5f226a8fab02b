"""The small machine in which faults are planted; units are tested as it has them too, so that its faults have places there."""

from __future__ import annotations

from hwgen.config import BuildConfig

__all__ = ["CONFIG"]

#: Two ports, two lanes, a ring so small that a panel does not stay in it, both engines and every format.
CONFIG = BuildConfig(
    name="mutated", engine="both", int4_kv=True, fp8_query=True, ports=2, port_bits=64, beat_bytes=16, groups=2, lanes=1, rows=4,
    kv_block=8, chunk=6, builders=7, query_lanes=2, burst=4, ring_beats=32, outstanding=4, descriptor_queue=3, scratch_vectors=256,
    param_vectors=64, max_inputs=64, panel_rows=32, max_heads=4, max_kv_heads=2, max_head_dim=8, max_query=32, max_context=32,
    trace_entries=256, topk=4, shortlist=3, probe=True,
)
