"""What passes between the stages of the attention unit, and the sizes that they share."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Shape, Signal, Value
from amaranth.lib import data
from amaranth.utils import bits_for

from ...attention_memory import AttentionMemory
from ...config import BuildConfig
from ...numerics import E4M3_LARGEST
from ..float.e4m3 import E4M3_BITS
from ..interfaces import index_bits

__all__ = ["DOT_LATENCY", "AttentionSizes", "ItemLayout", "counted", "delayed", "more_than"]

#: Cycles from the last key beat of a block to its dot products.
DOT_LATENCY = 3


class AttentionSizes(AttentionMemory):
    """Derived sizes of the attention unit."""

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config)
        #: Beats of the keys of one block of the LM head at most.
        self.head_dims = max(config.max_inputs // config.key_bytes, self.dims)
        #: log2 of the beats of one vector of ``width`` dimensions.
        self.part_bits = (config.width // config.key_bytes - 1).bit_length()
        #: Bits of a number of blocks: of a context, or of the short list.
        self.block_bits = bits_for(max(config.max_pages, config.shortlist))
        #: log2 of the query lanes.
        self.lane_bits = (config.query_lanes - 1).bit_length()
        #: Bits of a position from the beginning of the block of a run's first token on: a run reaches into two blocks at most.
        self.reach_bits = (config.kv_block - 1).bit_length() + 1
        #: Bits of the sums of one lane: lane 0 also computes the LM head.
        dot = (E4M3_LARGEST if config.fp8_query else 127) * 127 * config.max_head_dim
        self.sum_bits = [config.score_bits] + [dot.bit_length() + 1] * (config.query_lanes - 1)
        #: Bits of a query element at the multipliers (signed): int8, or e4m3 as an integer.
        self.query_bits = E4M3_BITS if config.fp8_query else 8
        #: Cycles from a query's address to its elements.
        self.query_latency = 3 if config.fp8_query else 2
        #: Cycles from a key beat's request to the sums that it ends.
        self.score_latency = self.query_latency + DOT_LATENCY


def ItemLayout(config: BuildConfig) -> data.StructLayout:
    """An item of work: one round of query slots against one block of one key/value head.

    ``buffer`` of the block; ``round``; ``output`` first word of the output memory; ``query_scale`` row of the scales;
    ``whole`` every key of the block is before the run; else it is the first of the blocks with tokens of the run, or with
    ``second`` the second; ``first``, ``last`` block of the head; ``release`` last round of the block; ``ends`` last item of the
    run, ``final`` of the operator.
    """
    sizes = AttentionSizes(config)
    return data.StructLayout({
        "buffer": (sizes.buffers - 1).bit_length(),
        "round": index_bits(sizes.rounds),
        "output": index_bits(sizes.output_words),
        "query_scale": index_bits(sizes.query_rows),
        "whole": 1,
        "second": 1,
        "first": 1,
        "last": 1,
        "release": 1,
        "ends": 1,
        "final": 1,
    })


def counted(count: Signal, up: Value, down: Value) -> Value:
    """``count + up - down`` of two bits in one carry chain."""
    return (count + Cat(up ^ down, (down & ~up).replicate(len(count) - 1)))[: len(count)]


def more_than(m: Module, size: int, up: Value, down: Value, name: str) -> Signal:
    """A counter from 0 to ``size`` of which bit k says whether it is above k: neither adding nor comparing takes time."""
    above = Signal(size, name=name)
    with m.If(up & ~down):
        m.d.sync += above.eq(Cat(Const(1, 1), above))
    with m.Elif(down & ~up):
        m.d.sync += above.eq(above[1:])
    return above


def delayed(m: Module, value: Value, cycles: int, name: str, *, reset_less: bool = False) -> list[Value]:
    """``value`` of 0, 1, ... ``cycles`` cycles before. Without reset a long line fits shift registers."""
    line = [value]
    for i in range(cycles):
        after = Signal(Shape.cast(value.shape()), name=f"{name}_{i + 1}", reset_less=reset_less)
        m.d.sync += after.eq(line[-1])
        line.append(after)
    return line
