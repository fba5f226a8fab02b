"""Segments to the ports' planes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..axi.burst import Run
from ..interfaces import ADDRESS_BITS, Segment

__all__ = ["PlaneSplitter"]


class PlaneSplitter(wiring.Component):
    """Gives every port its share of a segment: ``beats`` words at ``address + port * beats * port_bytes``.

    Two cycles from segment to runs; a segment a cycle while all ports take their runs, which they may do independently.

    Members
    -------
    segments : In(Segment)
    runs : Out(stream of Run) per port
    idle : Out(1)
        Nothing is held.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "segments": In(Segment()),
            "runs": Out(stream.Signature(Run())).array(config.ports),
            "idle": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shift = self.config.port_bytes.bit_length() - 1
        held, advance = Signal(), Signal()
        address, beats = Signal(ADDRESS_BITS), Signal(32)
        m.d.comb += [
            advance.eq(~Cat(run.valid & ~run.ready for run in self.runs).any()),
            self.segments.ready.eq(~held | advance),
            self.idle.eq(~held & ~Cat(run.valid for run in self.runs).any()),
        ]
        with m.If(self.segments.ready):
            m.d.sync += [held.eq(self.segments.valid), address.eq(self.segments.p.address), beats.eq(self.segments.p.beats)]
        for port, run in enumerate(self.runs):
            plane = Signal(ADDRESS_BITS, name=f"plane{port}")
            with m.If(self.segments.ready):
                m.d.sync += plane.eq((self.segments.p.beats * port) << shift)
            with m.If(advance):
                m.d.sync += [run.valid.eq(held), run.p.address.eq(address + plane), run.p.words.eq(beats)]
            with m.Elif(run.ready):
                m.d.sync += run.valid.eq(0)
        return m
