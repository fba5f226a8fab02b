"""The best candidates of the LM head."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["INDEX_BITS", "TopK"]

#: Bits of a token id.
INDEX_BITS = 24

#: Logit of an entry that no candidate reached: the smallest number.
_EMPTY = 0xFF7F_FFFF


def ordered(number: Value) -> Value:
    """Bits of a float32 so that unsigned comparison orders the numbers."""
    return Mux(number[31], ~number, Cat(number[:31], 1))


class TopK(wiring.Component):
    """Sorted list of the ``size`` largest candidates; of equal ones the earlier comes first. One candidate a cycle.

    A chain of cells: each keeps the better of its own and the one that passes, and hands on the other. What a cell gave up
    for a better one goes before all that is further down, also before its equals, which came later.

    Members
    -------
    clear : In(1)
        Strobe: forget everything.
    valid : In(1), index : In, logit : In(32)
        A candidate.
    busy : Out(1)
        A candidate is still on its way through the list.
    best_index, best_logit : Out(32) per entry
        Entries that are empty have index 0 and the smallest float32.
    """

    def __init__(self, size: int) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be at least 1, not {size!r}")
        self.size = size
        super().__init__({
            "clear": In(1),
            "valid": In(1),
            "index": In(INDEX_BITS),
            "logit": In(32),
            "busy": Out(1),
            "best_index": Out(32).array(size),
            "best_logit": Out(32).array(size),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, logit, index = Signal(name="valid_in"), Signal(32, name="logit_in"), Signal(INDEX_BITS, name="index_in")
        ousted = Signal(name="ousted_in")
        m.d.sync += [valid.eq(self.valid & ~self.clear), logit.eq(self.logit), index.eq(self.index)]
        passing = [valid]
        for i in range(self.size):
            occupied, own_logit, own_index = (
                Signal(name=f"occupied_{i}"),
                Signal(32, name=f"logit_{i}"),
                Signal(INDEX_BITS, name=f"index_{i}"),
            )
            next_valid, next_logit, next_index = (
                Signal(name=f"valid_{i}"),
                Signal(32, name=f"pass_{i}"),
                Signal(INDEX_BITS, name=f"pass_index_{i}"),
            )
            better, next_ousted = Signal(name=f"better_{i}"), Signal(name=f"ousted_{i}")
            m.d.comb += better.eq(~occupied | ousted | (ordered(logit) > ordered(own_logit)))
            m.d.sync += next_valid.eq(valid & (occupied | ~better) & ~self.clear)
            with m.If(valid):
                m.d.sync += [
                    next_ousted.eq(better),
                    next_logit.eq(Mux(better, own_logit, logit)),
                    next_index.eq(Mux(better, own_index, index)),
                ]
                with m.If(better):
                    m.d.sync += [occupied.eq(1), own_logit.eq(logit), own_index.eq(index)]
            with m.If(self.clear):
                m.d.sync += occupied.eq(0)
            m.d.comb += [
                self.best_index[i].eq(Mux(occupied, own_index, 0)),
                self.best_logit[i].eq(Mux(occupied, own_logit, _EMPTY)),
            ]
            valid, ousted, logit, index = next_valid, next_ousted, next_logit, next_index
            passing.append(valid)
        m.d.comb += self.busy.eq(Cat(passing[:-1]).any())
        return m
