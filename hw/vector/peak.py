"""Largest magnitude of the elements of a token or head."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..float.format import pipelined

__all__ = ["Peak"]


class Peak(wiring.Component):
    """``o = max |x|`` over vectors of ``width`` float32 values; ``width`` is a power of two.

    Series may follow each other without a gap.

    Members
    -------
    valid, first, last : In(1), x : In, tag : In
        ``x`` is a vector, ``first`` or ``last`` or both of its series.
    o_valid : Out(1), o : Out(32), o_tag : Out
        Strobe: ``o`` is the maximum of the series whose last vector came ``latency`` cycles before, with that vector's ``tag``.
    """

    def __init__(self, width: int, tag_bits: int) -> None:
        if width < 2 or width & (width - 1):
            raise ValueError(f"width must be a power of two of at least 2, not {width!r}")
        self.width = width
        #: Levels of the tree, and the running maximum.
        self.latency = width.bit_length()
        super().__init__({
            "valid": In(1),
            "first": In(1),
            "last": In(1),
            "x": In(32 * width),
            "tag": In(tag_bits),
            "o_valid": Out(1),
            "o": Out(32),
            "o_tag": Out(tag_bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Magnitudes compare like integers.
        values = [self.x.word_select(k, 32)[:31] for k in range(self.width)]
        valid, first, last, tag = self.valid, self.first, self.last, self.tag
        level = 0
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [pipelined(m, Mux(a > b, a, b), f"max_{level}_{k}") for k, (a, b) in enumerate(pairs)]
            valid_next = Signal(name=f"valid_{level}")
            m.d.sync += valid_next.eq(valid)
            valid = valid_next
            first, last = pipelined(m, first, f"first_{level}"), pipelined(m, last, f"last_{level}")
            tag = pipelined(m, tag, f"tag_{level}")
            level += 1

        running = Signal(31, reset_less=True)
        with m.If(valid & (first | (values[0] > running))):
            m.d.sync += running.eq(values[0])
        m.d.sync += [self.o_valid.eq(valid & last), self.o_tag.eq(tag)]
        m.d.comb += self.o.eq(running)
        return m
