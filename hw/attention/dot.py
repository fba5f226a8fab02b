"""Dot products of query lanes with a block of keys."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from .item import DOT_LATENCY, AttentionSizes

__all__ = ["DotArray"]


class DotArray(wiring.Component):
    """Exact sums ``query . key`` of every lane with every key of a block, ``key_bytes`` elements a cycle.

    Members
    -------
    key : In
        One key beat: ``key_bytes`` elements of every key.
    query : In per lane
        The same elements of the lane's query, signed, ``query_bits`` each.
    valid, first : In(1)
        A beat comes; it is the first of a block and starts new sums.
    scores_0, scores_1, ... : Out, for each lane
        ``kv_block`` signed sums of the lane's ``sum_bits``, ``latency`` cycles after the last beat, until the next block's
        first beat arrives there.
    """

    latency = DOT_LATENCY

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        super().__init__({
            "key": In(8 * config.beat_bytes),
            "query": In(self.sizes.query_bits * config.key_bytes).array(config.query_lanes),
            "valid": In(1),
            "first": In(1),
            **{f"scores_{lane}": Out(config.kv_block * bits) for lane, bits in enumerate(self.sizes.sum_bits)},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, query_bits = self.config, self.sizes.query_bits
        # An e4m3 integer is below 2^18 in magnitude, also one of a code that means no number.
        product_bits = 26 if config.fp8_query else 16
        valid, first = [Signal(name=f"valid_{i}") for i in range(2)], [Signal(name=f"first_{i}") for i in range(2)]
        m.d.sync += [
            valid[0].eq(self.valid),
            valid[1].eq(valid[0]),
            first[0].eq(self.first),
            first[1].eq(first[0]),
        ]
        for lane, bits in enumerate(self.sizes.sum_bits):
            scores = getattr(self, f"scores_{lane}")
            for key in range(config.kv_block):
                products = []
                for i in range(config.key_bytes):
                    product = Signal(signed(product_bits), name=f"product_{lane}_{key}_{i}", reset_less=True)
                    element = self.key.word_select(key * config.key_bytes + i, 8).as_signed()
                    with m.If(self.valid):
                        m.d.sync += product.eq(element * self.query[lane].word_select(i, query_bits).as_signed())
                    products.append(product)
                partial_bits = product_bits + (config.key_bytes - 1).bit_length()
                partial = Signal(signed(partial_bits), name=f"partial_{lane}_{key}", reset_less=True)
                total = Signal(signed(bits), name=f"total_{lane}_{key}", reset_less=True)
                with m.If(valid[0]):
                    m.d.sync += partial.eq(sum(products[1:], start=products[0]))
                with m.If(valid[1]):
                    m.d.sync += total.eq(Mux(first[1], 0, total) + partial)
                m.d.comb += scores.word_select(key, bits).eq(total)
        return m
