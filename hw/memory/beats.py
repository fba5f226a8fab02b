"""Ring rows to single beats."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import BeatStream, RowStream, index_bits

__all__ = ["RowToBeats"]


class RowToBeats(wiring.Component):
    """Shows the beats of each row one after the other, the earliest first.

    No latency, and no row is taken before its last beat is: whatever follows in the ring stays there for another
    consumer of rows.

    Members
    -------
    rows : In(RowStream)
    beats : Out(BeatStream)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({"rows": In(RowStream(config)), "beats": Out(BeatStream(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        last = self.config.groups - 1
        index = Signal(index_bits(last + 1))
        m.d.comb += [
            self.beats.valid.eq(self.rows.valid),
            self.beats.payload.eq(self.rows.payload.word_select(index, 8 * self.config.beat_bytes)),
            self.rows.ready.eq(self.beats.ready & (index == last)),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += index.eq(Mux(index == last, 0, index + 1))
        return m
