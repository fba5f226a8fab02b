"""Sorted list of the largest of many."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["INDEX_BITS", "TopK", "ordered"]

#: Bits of a token id.
INDEX_BITS = 24


def ordered(number: Value) -> Value:
    """Bits of a float32 so that unsigned comparison orders the numbers."""
    return Mux(number[31], ~number, Cat(number[:31], 1))


class TopK(wiring.Component):
    """Sorted list of the ``size`` largest keys; of equal ones the earlier comes first. One candidate a cycle.

    A chain of cells: each keeps the better of its own and the one that passes, and hands on the other. What a cell gave up
    for a better one goes before all that is further down, also before its equals, which came later.

    Members
    -------
    clear : In(1)
        Strobe: forget everything.
    valid : In(1), index : In(index_bits), key : In(32)
        A candidate; keys compare as unsigned numbers.
    busy : Out(1)
        A candidate is still on its way through the list.
    held, best_key : Out per entry
        Whether the entry is not empty, and its key.
    best : Out(index_bits) per entry
        Indices, best first; 0 where an entry is empty.
    """

    def __init__(self, size: int, index_bits: int) -> None:
        for name, value in (("size", size), ("index_bits", index_bits)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self.size, self.index_bits = size, index_bits
        super().__init__({
            "clear": In(1),
            "valid": In(1),
            "index": In(index_bits),
            "key": In(32),
            "busy": Out(1),
            "held": Out(1).array(size),
            "best_key": Out(32).array(size),
            "best": Out(index_bits).array(size),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, key, index = Signal(name="valid_in"), Signal(32, name="key_in"), Signal(self.index_bits, name="index_in")
        ousted = Signal(name="ousted_in")
        m.d.sync += [valid.eq(self.valid & ~self.clear), key.eq(self.key), index.eq(self.index)]
        passing = [valid]
        for i in range(self.size):
            occupied, own_key = Signal(name=f"occupied_{i}"), Signal(32, name=f"key_{i}", reset_less=True)
            own_index = Signal(self.index_bits, name=f"index_{i}", reset_less=True)
            next_valid, next_key = Signal(name=f"valid_{i}"), Signal(32, name=f"pass_{i}", reset_less=True)
            next_index = Signal(self.index_bits, name=f"pass_index_{i}", reset_less=True)
            better, next_ousted = Signal(name=f"better_{i}"), Signal(name=f"ousted_{i}")
            m.d.comb += better.eq(~occupied | ousted | (key > own_key))
            m.d.sync += next_valid.eq(valid & (occupied | ~better) & ~self.clear)
            with m.If(valid):
                m.d.sync += [
                    next_ousted.eq(better),
                    next_key.eq(Mux(better, own_key, key)),
                    next_index.eq(Mux(better, own_index, index)),
                ]
                with m.If(better):
                    m.d.sync += [occupied.eq(1), own_key.eq(key), own_index.eq(index)]
            with m.If(self.clear):
                m.d.sync += occupied.eq(0)
            m.d.comb += [self.held[i].eq(occupied), self.best_key[i].eq(own_key), self.best[i].eq(Mux(occupied, own_index, 0))]
            valid, ousted, key, index = next_valid, next_ousted, next_key, next_index
            passing.append(valid)
        m.d.comb += self.busy.eq(Cat(passing[:-1]).any())
        return m
