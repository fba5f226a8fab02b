"""Ring rows to their readers, whole or beat by beat."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import BeatStream, RowStream, index_bits

__all__ = ["RowToBeats"]


class RowToBeats(wiring.Component):
    """Shows the rows to a reader of rows and, one after the other and the earliest first, the beats of each row to the readers
    of beats. One of them reads at a time; the others are not ready.

    No latency, and no row is taken before its last beat is: whatever follows in the ring stays there for another
    reader. That a row is taken is one look-up table behind what the readers say: it goes on to the memory of the ring.

    Members
    -------
    rows : In(RowStream)
    whole : Out(RowStream)
    beats : Out(BeatStream) per reader of beats
    """

    def __init__(self, config: BuildConfig, readers: int) -> None:
        self.config = config
        super().__init__({
            "rows": In(RowStream(config)),
            "whole": Out(RowStream(config)),
            "beats": Out(BeatStream(config)).array(readers),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        last = self.config.groups - 1
        index = Signal(index_bits(last + 1))
        ready = Signal()
        m.d.comb += [
            ready.eq(Cat(beats.ready for beats in self.beats).any()),
            self.whole.valid.eq(self.rows.valid),
            self.whole.payload.eq(self.rows.payload),
            self.rows.ready.eq(self.whole.ready | (ready & (index == last))),
        ]
        for beats in self.beats:
            m.d.comb += [
                beats.valid.eq(self.rows.valid),
                beats.payload.eq(self.rows.payload.word_select(index, 8 * self.config.beat_bytes)),
            ]
        with m.If(self.rows.valid & ready):
            m.d.sync += index.eq(Mux(index == last, 0, index + 1))
        return m
