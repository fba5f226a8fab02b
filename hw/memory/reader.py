"""The read stream: segments in, rows out."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...config import BuildConfig
from ..axi.signature import Axi4Read
from ..interfaces import RowStream, Segment
from .dispatch import Dispatcher
from .gather import Gatherer
from .port import ErrorReport, PortReader
from .ring import UramRing

__all__ = ["StreamReader"]


class StreamReader(wiring.Component):
    """Dispatcher, read ports, gatherer and ring.

    Members
    -------
    segments, enabled, halt, waiting
        See `Dispatcher`.
    axi : Out(Axi4Read) per port
    rows, hold, rewind, level
        See `UramRing`.
    errors : Out(ErrorReport) per port
    unasked : Out, one bit a port
        See `PortReader`.
    beat : Out(1)
        A beat enters the ring.
    idle : Out(1)
        Everything that was asked for is on its way into the ring.
    in_flight : Out(1)
        Something is requested or in flight on a port.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "segments": In(Segment()),
            "enabled": In(config.ports),
            "halt": In(1),
            "axi": Out(Axi4Read(config.port_bits)).array(config.ports),
            "rows": Out(RowStream(config)),
            "hold": In(1),
            "rewind": In(1),
            "level": Out(range(config.ring_beats // config.groups + 1)),
            "errors": Out(ErrorReport()).array(config.ports),
            "unasked": Out(config.ports),
            "beat": Out(1),
            "waiting": Out(1),
            "idle": Out(1),
            "in_flight": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dispatcher = dispatcher = Dispatcher(self.config)
        m.submodules.gatherer = gatherer = Gatherer(self.config)
        m.submodules.ring = ring = UramRing(self.config)
        connect(m, flipped(self.segments), dispatcher.segments)
        connect(m, gatherer.write, ring.write)
        connect(m, ring.rows, flipped(self.rows))
        idle = []
        for number, axi in enumerate(self.axi):
            m.submodules[f"port{number}"] = port = PortReader(self.config)
            connect(m, dispatcher.requests[number], port.request)
            connect(m, port.axi, flipped(axi))
            connect(m, port.offer, gatherer.offers[number])
            connect(m, port.error, flipped(self.errors[number]))
            m.d.comb += [dispatcher.free[number].eq(port.free), self.unasked[number].eq(port.unasked)]
            idle.append(port.idle)
        m.d.comb += [
            dispatcher.enabled.eq(self.enabled),
            dispatcher.halt.eq(self.halt),
            dispatcher.freed.eq(ring.freed),
            dispatcher.done.eq(gatherer.done),
            dispatcher.done_tag.eq(gatherer.done_tag),
            ring.complete.eq(dispatcher.complete),
            ring.hold.eq(self.hold),
            ring.rewind.eq(self.rewind),
            self.level.eq(ring.level),
            self.beat.eq(gatherer.write.valid),
            self.waiting.eq(dispatcher.waiting),
            self.in_flight.eq(~Cat(idle).all()),
            self.idle.eq(dispatcher.idle & ~self.in_flight),
        ]
        return m
