"""Who is next."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Turns"]


class Turns(wiring.Component):
    """Chooses one of those that ask, in turns: the first after the last one chosen. No latency.

    Members
    -------
    asks : In, one bit each
    take : In(1)
        The choice counts, and the next one has its turn.
    chosen : Out, one bit each
        One of ``asks``; none where none asks.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__({"asks": In(count), "take": In(1), "chosen": Out(count)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        #: Those behind the last one chosen.
        behind = Signal(self.count)
        first = [Signal(self.count, name=name) for name in ("first_behind", "first_of_all")]
        asking = [self.asks & behind, self.asks]
        for target, bits in zip(first, asking, strict=True):
            m.d.comb += [target[i].eq(bits[i] & ~bits[:i].any()) for i in range(self.count)]
        m.d.comb += self.chosen.eq(Mux(asking[0].any(), *first))
        with m.If(self.take & self.chosen.any()):
            m.d.sync += behind.eq(Cat(self.chosen[:i].any() for i in range(self.count)))
        return m
