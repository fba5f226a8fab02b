"""Running sum of probabilities of every query slot, and its reciprocal."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..float.add import FloatAdd
from ..float.multiply import FloatMul
from .item import AttentionSizes, ItemLayout, delayed
from .reciprocal import Reciprocal

__all__ = ["Denominator"]


class Denominator(wiring.Component):
    """``l = fadd(fmul(l, c), sum)`` for the lanes one after the other, then after the last block ``fdiv(1, l)``.

    One multiplier, adder and divider serve all lanes. Updates must be at least ``latency`` and ``query_lanes`` cycles apart.

    Members
    -------
    valid : In(1), item : In(ItemLayout), correction, total : In per lane
        Strobe: an item's ``c`` and sum as float32.
    reciprocal : Out(stream of 32 bits)
        One for each lane, in lane order, of every item that is the last of its head. Room for two items.
    """

    #: Cycles from ``valid`` until the sum of lane 0 is stored.
    latency = 2 + FloatMul.latency + FloatAdd.latency

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        super().__init__({
            "valid": In(1),
            "item": In(ItemLayout(config)),
            "correction": In(32).array(config.query_lanes),
            "total": In(32).array(config.query_lanes),
            "reciprocal": Out(stream.Signature(32)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, lanes = self.config, self.config.query_lanes
        lane_bits = self.sizes.lane_bits
        m.submodules.multiply, m.submodules.add = multiply, add = FloatMul(), FloatAdd()
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.submodules.waiting = waiting = fifo.SyncFIFO(width=32, depth=2 * lanes)
        m.submodules.sums = sums = memory.Memory(shape=32, depth=self.sizes.rounds << lane_bits, init=[])
        m.submodules.results = results = fifo.SyncFIFO(width=32, depth=2 * lanes)
        put, get = sums.write_port(), sums.read_port(domain="comb")

        item = Signal(ItemLayout(config))
        corrections, totals = ([Signal(32, name=f"{n}_{i}") for i in range(lanes)] for n in ("correction", "total"))
        running = Signal()
        lane = Signal(max(1, lane_bits))
        with m.If(self.valid):
            m.d.sync += [item.eq(self.item), running.eq(1), lane.eq(0)]
            for i in range(lanes):
                m.d.sync += [corrections[i].eq(self.correction[i]), totals[i].eq(self.total[i])]
        with m.Elif(running):
            # The lane at work is at index 0.
            for mine in (corrections, totals):
                m.d.sync += [before.eq(after) for before, after in zip(mine, mine[1:], strict=False)]
            m.d.sync += [lane.eq(lane + 1), running.eq(lane != lanes - 1)]

        address = Signal(len(put.addr))
        m.d.comb += address.eq((item.round << lane_bits) | (lane if lane_bits else 0))
        before = Signal(32)
        m.d.comb += [
            get.addr.eq(address),
            # What the memory held before the head's first block has no meaning.
            before.eq(Mux(item.first, 0, get.data)),
            multiply.a.eq(before),
            multiply.b.eq(corrections[0]),
            add.a.eq(multiply.o),
            add.b.eq(delayed(m, totals[0], multiply.latency, "total")[-1]),
        ]
        through = multiply.latency + add.latency
        stored = delayed(m, running, through, "stored")[-1]
        m.d.comb += [
            put.en.eq(stored),
            put.addr.eq(delayed(m, address, through, "address")[-1]),
            put.data.eq(add.o),
            waiting.w_en.eq(stored & delayed(m, item.last, through, "last")[-1]),
            waiting.w_data.eq(add.o),
            reciprocal.a.valid.eq(waiting.r_rdy),
            reciprocal.a.payload.eq(waiting.r_data),
            waiting.r_en.eq(reciprocal.a.ready),
            results.w_en.eq(reciprocal.o.valid),
            results.w_data.eq(reciprocal.o.payload),
            reciprocal.o.ready.eq(results.w_rdy),
            self.reciprocal.valid.eq(results.r_rdy),
            self.reciprocal.payload.eq(results.r_data),
            results.r_en.eq(self.reciprocal.ready),
        ]
        return m
