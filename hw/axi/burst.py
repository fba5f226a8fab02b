"""Cuts segments into aligned AXI bursts."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..interfaces import ADDRESS_BITS, Segment
from .signature import BOUNDARY

__all__ = ["Burst", "BurstSplitter", "Interleave"]


class Interleave:
    """The order in which whole blocks are read: ``streams`` stretches of ``stretch`` bursts each, one burst of every stretch in
    turn. Both are powers of two; one stream is ascending order."""

    def __init__(self, streams: int = 1, stretch: int = 1) -> None:
        for name, value in (("streams", streams), ("stretch", stretch)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        self.streams = streams
        self.stretch = stretch

    @property
    def bursts(self) -> int:
        """Of a block."""
        return self.streams * self.stretch


def Burst(beats: int, block: int) -> data.StructLayout:
    """One burst of at most ``beats`` beats, in a block of at most ``block`` beats.

    ``address`` of the first beat; ``beats``, 1 or more; ``position`` of the first beat in the block; ``advance``: in the last burst
    of a block the beats of all of it, otherwise 0; ``defer``: other beats of the block that come before these are read later, so
    that these count with the last burst; ``opens``: the first burst of a block of several. A burst outside blocks is a block of
    its own.
    """
    return data.StructLayout({
        "address": ADDRESS_BITS, "beats": bits_for(beats), "position": bits_for(block - 1), "advance": bits_for(block),
        "defer": 1, "opens": 1,
    })


class BurstSplitter(wiring.Component):
    """Splits each segment into bursts that cross no multiple of ``burst`` beats, so none crosses a 4096-byte boundary. Every
    burst is the longest one there.

    Bursts come in ascending order but in blocks: where ``order.bursts`` bursts from a multiple of their bytes on belong to the
    segment, they come in the order of ``order``.

    The first burst is offered three cycles after its segment was taken, then one a cycle. A segment is taken every two cycles at
    most. Empty segments are dropped.

    Members
    -------
    segments : In(Segment)
    bursts : Out(stream of Burst)
    idle : Out(1)
        Neither a segment nor a burst is held.
    """

    def __init__(self, *, beat_bytes: int, burst: int, order: Interleave | None = None) -> None:
        if burst < 1 or burst & (burst - 1) or burst * beat_bytes > BOUNDARY:
            raise ValueError(f"burst must be a power of two of at most {BOUNDARY} bytes, not {burst!r} beats of {beat_bytes} bytes")
        self.beat_bytes = beat_bytes
        self.burst = burst
        self.order = order or Interleave()
        super().__init__({
            "segments": In(Segment()),
            "bursts": Out(stream.Signature(Burst(burst, burst * self.order.bursts))),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        unit_bits, beat_bits = self.burst.bit_length() - 1, self.beat_bytes.bit_length() - 1
        low = beat_bits + unit_bits
        # The segment to come: its first unit (an aligned burst), first beat in it, and the beat behind its last.
        pending = Signal()
        next_unit, next_first, next_end = Signal(ADDRESS_BITS - low), Signal(unit_bits), Signal(33)
        # The present one: ends of units that are left in it, and beats behind the last of these.
        active = Signal()
        unit, first = Signal(ADDRESS_BITS - low), Signal(unit_bits)
        ends, tail = Signal(33 - unit_bits), Signal(unit_bits)
        empty, emit = Signal(), Signal()
        m.d.comb += [
            empty.eq((ends == 0) & (tail == first)),
            emit.eq(active & ~empty & (~self.bursts.valid | self.bursts.ready)),
            self.segments.ready.eq(~pending),
            self.idle.eq(~pending & ~active & ~self.bursts.valid),
        ]
        with m.If(~active | empty):
            m.d.sync += [active.eq(pending), pending.eq(0), unit.eq(next_unit), first.eq(next_first),
                         ends.eq(next_end[unit_bits:]), tail.eq(next_end[:unit_bits])]
        with m.If(self.segments.valid & self.segments.ready):
            address = self.segments.p.address
            m.d.sync += [
                pending.eq(1),
                next_unit.eq(address[low:]),
                next_first.eq(address[beat_bits:low]),
                next_end.eq(self.segments.p.beats + address[beat_bits:low]),
            ]
        with m.If(self.bursts.ready):
            m.d.sync += self.bursts.valid.eq(0)
        with m.If(emit):
            m.d.sync += self.bursts.valid.eq(1)
            if self.order.bursts == 1:
                self._next(m, unit, first, ends, tail)
            else:
                block_bits = self.order.bursts.bit_length() - 1
                with m.If((first == 0) & (unit[:block_bits] == 0) & (ends[block_bits:] != 0)):
                    self._next_of_block(m, unit, ends)
                with m.Else():
                    self._next(m, unit, first, ends, tail)
        return m

    def _next(self, m: Module, unit: Signal, first: Signal, ends: Signal, tail: Signal) -> None:
        """The burst up to the end of the unit or of the segment."""
        burst, beats = self.bursts.p, Signal(bits_for(self.burst))
        m.d.comb += beats.eq(Mux(ends == 0, tail, self.burst) - first)
        m.d.sync += [
            burst.address.eq(Cat(Const(0, self.beat_bytes.bit_length() - 1), first, unit)),
            burst.beats.eq(beats), burst.position.eq(0), burst.advance.eq(beats), burst.defer.eq(0),
            burst.opens.eq(0),
            unit.eq(unit + 1),
        ]
        with m.If(ends == 0):
            m.d.sync += first.eq(tail)
        with m.Else():
            m.d.sync += [first.eq(0), ends.eq(ends - 1)]

    def _next_of_block(self, m: Module, unit: Signal, ends: Signal) -> None:
        """A whole unit of the block that begins at ``unit``."""
        order, burst = self.order, self.bursts.p
        stream_bits, block_bits = order.streams.bit_length() - 1, order.bursts.bit_length() - 1
        number = Signal(block_bits)
        last = number == order.bursts - 1
        in_block = Cat(number[stream_bits:], number[:stream_bits])
        of_unit = Const(0, self.burst.bit_length() - 1)
        m.d.sync += [
            number.eq(number + 1),
            burst.address.eq(Cat(Const(0, self.beat_bytes.bit_length() - 1), of_unit, in_block, unit[block_bits:])),
            burst.beats.eq(self.burst), burst.position.eq(Cat(of_unit, in_block)),
            burst.advance.eq(Mux(last, order.bursts * self.burst, 0)),
            burst.defer.eq((number[:stream_bits] != 0) & ~last),
            burst.opens.eq(number == 0),
        ]
        with m.If(last):
            m.d.sync += [unit.eq(unit + order.bursts), ends[block_bits:].eq(ends[block_bits:] - 1)]
