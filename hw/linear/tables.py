"""Look-up tables of partial sums: three activations to the 14 sums that a folded code can ask for."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ENTRY_BITS", "TABLE_ENTRIES", "WALK", "Step", "TableBuilder", "add_inverted", "add_or_subtract"]

#: Entries of a table: entry k is c0 a0 + c1 a1 + c2 a2 with the balanced ternary digits c of k.
TABLE_ENTRIES = 14

#: Bits of an entry (signed): three times 128 at most.
ENTRY_BITS = 10


@dataclass(frozen=True)
class Step:
    """Write ``entry``: the entry before it with activation ``operand`` added or, with ``negate``, subtracted."""

    entry: int
    operand: int
    negate: bool


def _walk() -> tuple[Step, ...]:
    # A path through all digit triples of k > 0 that changes one digit by one at a time: one adder fills a table.
    path = [
        (0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (-1, 1, 0), (-1, 1, 1), (0, 1, 1),
        (1, 1, 1), (1, 0, 1), (0, 0, 1), (-1, 0, 1), (-1, -1, 1), (0, -1, 1), (1, -1, 1),
    ]
    steps = []
    for before, after in zip(path, path[1:], strict=False):
        operand = next(j for j in range(3) if before[j] != after[j])
        steps.append(Step(after[0] + 3 * after[1] + 9 * after[2], operand, after[operand] < before[operand]))
    return tuple(steps)


#: The order in which the entries are filled. The first step starts from zero. Entry 0 is zero in every table, so that it is
#: written once, before the first slice of an operator.
WALK = _walk()


def add_or_subtract(left: Value, right: Value, negate: Value, bits: int) -> Value:
    """``left - right`` with ``negate``, else ``left + right``: signed, ``bits`` wide.

    One carry chain with one look-up table a bit: ``left - (right ^ ~negate)`` with a position below the lowest one that
    borrows for an addition. Written as a difference because a synthesiser may swap the operands of a sum, and the chain
    needs the bare ``left``.
    """
    width = max(len(left), len(right), bits)
    a = Cat(negate, left, left[-1].replicate(width - len(left)))
    b = Cat(1, Cat(right, right[-1].replicate(width - len(right))) ^ (~negate).replicate(width))
    return (a - b)[1 : bits + 1].as_signed()


def add_inverted(inverted: Value, value: Value, carry: Value, bits: int) -> Value:
    """``inverted + value + carry``, ``bits`` wide: ``value - x`` where ``inverted`` is ``~x`` and ``carry`` is 1, ``value + x``
    where ``inverted`` is ``x`` and ``carry`` is 0.

    `add_or_subtract` with the bare operand of the chain on the other side, so that ``value`` may be an expression.
    """
    a = Cat(carry, inverted, inverted[-1].replicate(max(0, bits - len(inverted))))
    b = Cat(1, ~Cat(value, value[-1].replicate(max(0, bits - len(value)))))
    return (a[: bits + 1] - b[: bits + 1])[1 : bits + 1].as_signed()


class TableBuilder(wiring.Component):
    """Computes the entries of one table after another along `WALK`.

    Members
    -------
    operands : In
        Activations of the tables that this builder fills, three a table, stable while selected.
    select, negate : In
        The operand of a step, and whether to subtract it.
    begin : In(1)
        One cycle after ``select``: the first step of a table, which starts from 0.
    entry : Out
        The entry, two cycles after ``select``.
    enable : In(1)
        One cycle after ``select``: take the step; without it ``entry`` stays.
    clear : In(1)
        With the timing of ``enable`` and without it: ``entry`` becomes 0.
    """

    #: Cycles from ``select`` to ``entry``.
    LATENCY = 2

    def __init__(self, tables: int) -> None:
        if tables < 1:
            raise ValueError(f"tables must be at least 1, not {tables!r}")
        self.tables = tables
        super().__init__({
            "operands": In(signed(8)).array(3 * tables),
            "select": In(range(3 * tables)),
            "negate": In(1),
            "enable": In(1),
            "begin": In(1),
            "clear": In(1),
            "entry": Out(signed(ENTRY_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The operand is inverted before its register, so that the carry chain has it bare beside a masked entry.
        operand, negate = Signal(signed(8), reset_less=True), Signal(reset_less=True)
        m.d.sync += negate.eq(self.negate)
        with m.Switch(self.select):
            for i, value in enumerate(self.operands):
                with m.Case(i) if i < len(self.operands) - 1 else m.Default():
                    m.d.sync += operand.eq(value ^ self.negate.replicate(8))
        entry = Signal(signed(ENTRY_BITS), reset_less=True)
        base = entry & (~self.begin).replicate(ENTRY_BITS)
        m.d.comb += self.entry.eq(entry)
        with m.If(self.clear):
            m.d.sync += entry.eq(0)  # the synchronous reset of the flip-flops
        with m.Elif(self.enable):
            m.d.sync += entry.eq(add_inverted(operand, base, negate, ENTRY_BITS))
        return m
