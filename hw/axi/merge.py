"""Two read masters on one AXI4 port."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .signature import Axi4Read

__all__ = ["ReadMerge"]


class ReadMerge(wiring.Component):
    """Serves two read masters through one port: requests of ``low`` get ID 0, those of ``high`` ID 1 and precedence.

    A request passes through a register (one cycle); read data goes straight to the master of its ID, so responses of
    the two may interleave.

    Members
    -------
    low, high : In(Axi4Read)
    port : Out(Axi4Read)
    """

    def __init__(self, data_bits: int) -> None:
        super().__init__({"low": In(Axi4Read(data_bits)), "high": In(Axi4Read(data_bits)), "port": Out(Axi4Read(data_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ar, r = self.port.ar, self.port.r
        with m.If(~ar.valid | ar.ready):
            m.d.comb += [self.high.ar.ready.eq(1), self.low.ar.ready.eq(~self.high.ar.valid)]
            m.d.sync += [ar.valid.eq(self.high.ar.valid | self.low.ar.valid), ar.id.eq(self.high.ar.valid)]
            for name in ("addr", "len", "size", "burst"):
                with m.If(self.high.ar.valid):
                    m.d.sync += getattr(ar, name).eq(getattr(self.high.ar, name))
                with m.Else():
                    m.d.sync += getattr(ar, name).eq(getattr(self.low.ar, name))
        for number, master in enumerate((self.low, self.high)):
            m.d.comb += [
                master.r.valid.eq(r.valid & (r.id == number)),
                master.r.data.eq(r.data),
                master.r.resp.eq(r.resp),
                master.r.last.eq(r.last),
                master.r.id.eq(r.id),
            ]
            with m.If(r.id == number):
                m.d.comb += r.ready.eq(master.r.ready)
        return m
