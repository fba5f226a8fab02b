"""Weight bytes to table codes: five base-3 digits a byte, three consecutive inputs of a row to one folded code."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig

__all__ = ["GROUP", "INDEX_BITS", "TritDecoder", "partner"]

#: Consecutive inputs that share one table.
GROUP = 3

#: Bits of a folded table index, 0 to 13.
INDEX_BITS = 4

#: Offset of the digit sum: three zero trits have digits 1, 1, 1.
ZERO_CODE = sum(3**j for j in range(GROUP))


def partner(table: int) -> tuple[int, int]:
    """``(level, left)`` of the adder in which the subtree that begins with ``table`` (> 0) is the right operand.

    Neighbours are added pairwise, so the lowest set bit of ``table`` is the level, and clearing it gives the first
    table of the left operand.
    """
    return (table & -table).bit_length() - 1, table & (table - 1)


class TritDecoder(wiring.Component):
    """Folded codes of one weight beat.

    Row ``r`` of a beat is bytes ``[r, r + 1) * beat_bytes / rows``; a byte is ``sum(d_j * 3^j)`` with digits d = w + 1.
    Inputs ``3t .. 3t + 2`` of a row belong to table ``t``; the last table may cover fewer. With k = w0 + 3 w1 + 9 w2 the
    table holds the entries of k >= 0 only: its value counts with the sign of k.

    The signs are not applied to the entries. Each adder of the tree over a row's tables adds or subtracts its right
    operand as the first tables of both operands agree or differ in sign, and what it returns has the sign of its left
    operand. So there is one decision for every table but the first, and that one belongs to the final sum.

    One beat a cycle. No stage changes without a valid beat in it.

    Members
    -------
    beat : In, valid : In(1)
        A new ``beat`` (bytes above 242 give arbitrary codes).
    index : Out per row and table
        abs(k), `INDEX_LATENCY` cycles after ``beat``.
    negate : Out per row and table
        Of table t > 0: subtract the right operand of the adder that `partner` describes, `INDEX_LATENCY` + 1 + level cycles after
        ``beat``; of table 0: the sum of the row counts negative, `INDEX_LATENCY` + ``levels`` cycles after ``beat``.
    """

    #: Cycles from ``beat`` to ``index``.
    INDEX_LATENCY = 4

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        #: Adder levels over the tables of a row.
        self.levels = (config.tables - 1).bit_length()
        super().__init__({
            "valid": In(1),
            "beat": In(8 * config.beat_bytes),
            "index": Out(data.ArrayLayout(INDEX_BITS, config.tables)).array(config.rows),
            "negate": Out(config.tables).array(config.rows),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        row_bytes = config.beat_bytes // config.rows

        # valid[i]: the registers of stage i take a new value at the end of this cycle.
        valid = [self.valid]
        for stage in range(1, self.INDEX_LATENCY + self.levels):
            register = Signal(name=f"valid_{stage}")
            m.d.sync += register.eq(valid[-1])
            valid.append(register)

        for row in range(config.rows):
            digits: list[Value] = []
            for byte in range(row * row_bytes, (row + 1) * row_bytes):
                digits += self._digits(m, valid, self.beat.word_select(byte, 8), f"byte_{byte}")
            signs = Signal(config.tables, name=f"signs_{row}", reset_less=True)
            for table in range(config.tables):
                group = digits[GROUP * table : GROUP * (table + 1)]
                group += [Const(1, 2)] * (GROUP - len(group))
                folded = Signal(INDEX_BITS + 1, name=f"folded_{row}_{table}")
                fold(m, Cat(group), folded)
                index = Signal(INDEX_BITS, name=f"index_{row}_{table}", reset_less=True)
                m.d.comb += self.index[row][table].eq(index)
                with m.If(valid[3]):
                    m.d.sync += Cat(index, signs[table]).eq(folded)
            self._relative_signs(m, valid[self.INDEX_LATENCY :], signs, row)
        return m

    def _digits(self, m: Module, valid: list[Value], byte: Value, name: str) -> list[Value]:
        """Digits (2 bits each) of a byte after three stages: quotient by 27, remainder, digits of both.

        The quotient is that of the byte without its two lowest bits, so that a bit of it is one look-up table. The remainder is 29
        at most then; where it is 27 or more, the quotient is one more.
        """
        quotient = Signal(4, name=f"{name}_quotient")
        with m.Switch(byte[2:]):
            for number in range(1, 9):
                with m.Case(*(high for high in range(64) if high * 4 // 27 == number)):
                    m.d.comb += quotient.eq(number)
        high = [Signal(4, name=f"{name}_high_{i}", reset_less=True) for i in range(2)]
        rest = Signal(5, name=f"{name}_rest", reset_less=True)
        with m.If(valid[0]):
            m.d.sync += [high[0].eq(quotient), rest.eq(byte)]
        multiple = Signal(5, name=f"{name}_multiple")  # 27 * quotient, modulo 32
        with m.Switch(high[0]):
            for number in range(1, 9):
                with m.Case(number):
                    m.d.comb += multiple.eq(27 * number % 32)
        low = Signal(5, name=f"{name}_low", reset_less=True)
        with m.If(valid[1]):
            m.d.sync += [high[1].eq(high[0]), low.eq(rest - multiple)]
        carry = Signal(name=f"{name}_carry")
        m.d.comb += carry.eq(low >= 27)
        digits: list[Value] = []
        # Numbers that stand for a byte, with what they are to the digits.
        for source, count, numbers in ((low, 3, range(30)), (Cat(carry, high[1]), 2, range(2 * 3**2 - 1))):
            value = Signal(2 * count, name=f"{name}_digits_{len(digits)}")
            with m.Switch(source):
                for number in numbers:
                    pattern = digit_pattern(number % 27 if count == 3 else number // 2 + number % 2, count)
                    with m.Case(number):
                        m.d.comb += value.eq(pattern)
            register = Signal.like(value, name=f"{name}_trits_{len(digits)}", reset_less=True)
            with m.If(valid[2]):
                m.d.sync += register.eq(value)
            digits += [register.word_select(j, 2) for j in range(count)]
        return digits

    def _relative_signs(self, m: Module, valid: list[Value], signs: Value, row: int) -> None:
        """Delay every decision to the cycle of its adder; decisions of one level share a register."""
        for level in range(self.levels + 1):
            tables = [t for t in range(1, self.config.tables) if partner(t)[0] == level] if level < self.levels else [0]
            decisions = Cat(signs[t] ^ signs[partner(t)[1]] if t else signs[0] for t in tables)
            for delay in range(level + (level < self.levels)):
                register = Signal(len(tables), name=f"negate_{row}_{level}_{delay}", reset_less=True)
                with m.If(valid[delay]):
                    m.d.sync += register.eq(decisions)
                decisions = register
            m.d.comb += [self.negate[row][t].eq(decisions[i]) for i, t in enumerate(tables)]


def digit_pattern(number: int, count: int) -> int:
    """The ``count`` base-3 digits of ``number``, two bits each."""
    return sum(number // 3**j % 3 << 2 * j for j in range(count))


def fold(m: Module, digits: Value, folded: Signal) -> None:
    """Index and, above it, sign of three digits."""
    with m.Switch(digits):
        for code in range(3**GROUP):
            if code != ZERO_CODE:
                with m.Case(digit_pattern(code, GROUP)):
                    m.d.comb += folded.eq(abs(code - ZERO_CODE) | (code < ZERO_CODE) << INDEX_BITS)
