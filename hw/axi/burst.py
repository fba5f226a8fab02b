"""Cuts runs of port words into AXI bursts."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..interfaces import ADDRESS_BITS
from .signature import BOUNDARY

__all__ = ["Burst", "BurstSplitter", "Run"]


def Run() -> data.StructLayout:
    """A run of consecutive port words: ``address`` of the first in bytes (word-aligned) and ``words`` (1 or more)."""
    return data.StructLayout({"address": ADDRESS_BITS, "words": 32})


def Burst(burst: int) -> data.StructLayout:
    """One burst: ``address`` and ``words``, 1 up to ``burst``."""
    return data.StructLayout({"address": ADDRESS_BITS, "words": bits_for(burst)})


class BurstSplitter(wiring.Component):
    """Splits each run into bursts of at most ``burst`` words that do not cross a 4096-byte boundary, in ascending order.

    A burst leaves every two cycles at most; the first two cycles after its run was taken. Empty runs are dropped.

    Members
    -------
    runs : In(stream of Run)
    bursts : Out(stream of Burst)
    idle : Out(1)
        Neither a run nor a burst is held.
    """

    def __init__(self, *, word_bytes: int, burst: int) -> None:
        if burst < 1 or burst & (burst - 1) or burst * word_bytes > BOUNDARY:
            raise ValueError(f"burst must be a power of two of at most {BOUNDARY} bytes, not {burst!r} words of {word_bytes} bytes")
        self.word_bytes = word_bytes
        self.burst = burst
        super().__init__({
            "runs": In(stream.Signature(Run())),
            "bursts": Out(stream.Signature(Burst(burst))),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = self.word_bytes.bit_length() - 1
        address, words = Signal(ADDRESS_BITS), Signal(32)
        pending, left = Signal(), Signal()

        to_boundary = Signal(range(BOUNDARY // self.word_bytes + 1))
        longest = Signal(range(self.burst + 1))
        length = Signal(range(self.burst + 1))
        m.d.comb += [
            to_boundary.eq(BOUNDARY // self.word_bytes - address[shift : BOUNDARY.bit_length() - 1]),
            longest.eq(self.burst),
            length.eq(longest),
            self.idle.eq(~pending & ~left & ~self.bursts.valid),
        ]
        with m.If(to_boundary < self.burst):
            m.d.comb += longest.eq(to_boundary)
        with m.If(words < longest):
            m.d.comb += length.eq(words)

        with m.If(self.bursts.ready):
            m.d.sync += self.bursts.valid.eq(0)
        with m.If(left):
            # The run moves on in a cycle of its own, so that no path goes through both subtractions.
            m.d.sync += [
                left.eq(0),
                address.eq(address + (self.bursts.p.words << shift)),
                words.eq(words - self.bursts.p.words),
                pending.eq(words != self.bursts.p.words),
            ]
        with m.Elif(pending):
            with m.If(words == 0):
                m.d.sync += pending.eq(0)
            with m.Elif(~self.bursts.valid | self.bursts.ready):
                m.d.sync += [
                    self.bursts.valid.eq(1),
                    self.bursts.p.address.eq(address),
                    self.bursts.p.words.eq(length),
                    left.eq(1),
                    pending.eq(0),
                ]
        with m.Else():
            m.d.comb += self.runs.ready.eq(1)
            with m.If(self.runs.valid):
                m.d.sync += [pending.eq(1), address.eq(self.runs.p.address), words.eq(self.runs.p.words)]
        return m
