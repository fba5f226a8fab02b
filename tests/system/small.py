"""The build and the model that the system tests share, so that they need one library."""

from __future__ import annotations

from functools import cache

from hwgen.config import BuildConfig
from hwgen.decoder import BITNET, DecoderLayer
from hwgen.hw.verilog import cached_verilog
from hwgen.shape import ModelShape
from hwgen.sim.dram import KV260, DramTiming
from hwgen.sw.compiler.compile import compile_model
from hwgen.sw.compiler.image import Image
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.weights import random_weights

__all__ = ["CONFIG", "MEMORY_BYTES", "PUBLIC", "SHAPE", "SmallDevice", "small_image"]

MEMORY_BYTES = 1 << 20

#: Three rounds of tokens, several panels a matrix, and a ring so small that the largest panel cannot stay in it for the next
#: round.
CONFIG = BuildConfig(
    name="system", ports=1, beat_bytes=16, groups=1, lanes=2, rows=4, kv_block=8, chunk=6, builders=7, query_lanes=2, burst=4,
    ring_beats=32, outstanding=4, descriptor_queue=3, scratch_vectors=256, param_vectors=64, max_inputs=64, panel_rows=32,
    max_heads=4, max_kv_heads=2, max_head_dim=8, max_query=32, max_context=32, trace_entries=256, topk=4, shortlist=3, probe=True,
)
SHAPE = ModelShape(
    hidden=30, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=45, vocab=41, activation="silu", max_context=32, tied=False
)

#: Registers and memories that faults go to.
PUBLIC = (
    "accumulators_0", "bank_1", "base2", "byte_5_trits_0", "candidate", "entry", "gathered", "high2", "kept2",
    "next_burst", "offer__slot", "partial_0_3", "peak_0", "product_1_0", "result", "shifted2", "shown0", "slots", "sum_2_1_0",
    "total_0_2", "write__data",
)


@cache
def small_image(shape: ModelShape = SHAPE, head: str = "exact", layer: DecoderLayer = BITNET) -> Image:
    return compile_model(CONFIG, random_weights(shape, seed=11, layer=layer), head=head)


class SmallDevice(VerilatorDevice):
    """The build above, with memory of its own. Remembers when operators end."""

    def __init__(self, timing: DramTiming = KV260) -> None:
        super().__init__(
            CONFIG, memory_bytes=MEMORY_BYTES, timing=timing, public=PUBLIC, optimize=False, verilog=cached_verilog(CONFIG)
        )
        #: Tag and cycle of every operator that :meth:`next_operator` waited for.
        self.retired: list[tuple[int, int]] = []

    def next_operator(self) -> int:
        tag = super().next_operator()
        self.retired.append((tag, self.accelerator.cycle))
        return tag

    def clean(self) -> bool:
        """No rule of AXI was broken, nothing outside the memory was touched."""
        return not self.accelerator.violation_count and not self.accelerator.error_count
