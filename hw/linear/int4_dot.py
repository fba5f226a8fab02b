"""Products of 4-bit weights and e4m3 activations: two rows a DSP slice, exact."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..float.e4m3 import E4M3_BITS
from ..multiply_add import MultiplyAdd
from .int4_loader import Int4LoadBus, Int4Shape, delayed, log2
from .int4_weights import CODE_BITS, factor

__all__ = ["FIELD", "Int4Dot"]

#: Lowest bit of the upper row's code in a DSP's 27-bit operand.
FIELD = 23


class Int4Dot(wiring.Component):
    """``dot[r] = sum of w[r] E`` over a slice, for the rows of a beat and one token.

    E, 19 bits, is 2 F + e with F = E >> 1: F fits the 18-bit operand of a DSP48E2, the bit e counts apart. The 27-bit operand holds
    the codes of two rows, ``w_b * 2^23 + u_a`` with u_a = w_a + 8 in 0..15: bare bits, and never below -2^26 as
    ``w_b * 2^23 + w_a`` would be. A chain of n DSPs, of which the first adds a centre, ends with::

        P = 2^23 H + L,    H = sum w_b F,    L = sum u_a F + 4 (2^18 n - sum E)
                                               = sum w_a F - 4 sum e + 2^20 n

    where 0 <= L < 2^21 n, as abs(sum w_a F) <= 8 * 114688 n. For n = 4 the fields are disjoint. For more, bits 23 and up of P hold
    H + q with q = L >> 23 in 0 .. n / 4 - 1, and q is their difference from H modulo n / 4, whose bits follow from those of
    w_b and F: a look-up table a bit and DSP. So there is no borrow, and few adders behind the chains::

        dot_a = 2 sum L + sum u_a e          (but for its highest bit: the sum of all 2^21 n)
        dot_b = 2 sum (P >> 23) + sum w_b e - 2 sum q

    (That 8 sum F = 4 sum E - 4 sum e makes e count with u_a, and only sums of E, which M needs as well, are to be computed.)
    The sums with e are made of the `Int4Decoder`'s sums of two neighbours: two bits e select one of four values.

    ::

        cycle   2          3         chain + 3    chain + 4     chain + 5                  (issue of the beat in cycle 0)
                operands   first     last         sum of        dot
                           product   result       chains
                           of position p: p % chain cycles later

    With ``packed=False`` it is plain products and a sum in place of all that, with the same timing.

    Members
    -------
    load : In(Int4LoadBus), here : In(2)
        From the loader; bits of ``here``: values, centres are for this token.
    take : In
        Positions p of the slice that has arrived are taken over in cycle ``p % chain`` of this vector: ``take[i]`` is ``take[0]``
        i cycles later; ``take[0]`` is one cycle ahead of the operands of its first beat.
    skewed, codes, pairs : In
        From `Int4Decoder`.
    dot : Out per row
        ``dot_cycle`` cycles after the issue.
    """

    def __init__(self, config: BuildConfig, shape: Int4Shape, *, packed: bool = True) -> None:
        self.config, self.shape, self.packed = config, shape, packed
        #: Bits of q.
        self.overlap = max(0, log2(shape.chain) - 2)
        super().__init__({
            "load": In(Int4LoadBus(shape)),
            "here": In(2),
            "take": In(shape.chain + 1),
            "skewed": In(CODE_BITS * config.rows).array(shape.inputs),
            "codes": In(CODE_BITS * shape.inputs).array(config.rows),
            "pairs": In((CODE_BITS + 1) * (shape.inputs // 2)).array(config.rows),
            "dot": Out(signed(shape.dot_bits)).array(config.rows),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.packed:
            self._packed(m)
        else:
            self._plain(m)
        return m

    def _arriving(self, p: int) -> tuple[Value, Value]:
        """The value of position p on the load bus, and whether it is there for this token."""
        value = self.load.values.word_select(p % self.shape.word, E4M3_BITS).as_signed()
        return value, self.load.words[p // self.shape.word] & self.here[0]

    def _plain(self, m: Module) -> None:
        values: list[Value] = []
        for p in range(self.shape.inputs):
            first, value = (Signal(signed(E4M3_BITS), name=f"{name}_{p}", reset_less=True) for name in ("first", "value"))
            arriving, arrive = self._arriving(p)
            with m.If(arrive):
                m.d.sync += first.eq(arriving)
            with m.If(self.take[0]):
                m.d.sync += value.eq(first)
            values.append(value)
        for r, codes in enumerate(self.codes):
            products = (codes.word_select(p, CODE_BITS).as_signed() * value for p, value in enumerate(values))
            total = Signal(signed(self.shape.dot_bits), name=f"total_{r}")
            m.d.comb += total.eq(sum(products, Const(0, 1)))
            m.d.comb += self.dot[r].eq(delayed(m, total, self.shape.dot_cycle - 2, f"dot_{r}", reset_less=True)[-1])

    def _packed(self, m: Module) -> None:
        config, shape = self.config, self.shape
        # Of the activations, what is wanted beside the multipliers: the bits e, and the lowest ones of F.
        odd_first, odd = (Signal(shape.inputs, name=name, reset_less=True) for name in ("odd_first", "odd"))
        with m.If(self.take[0]):
            m.d.sync += odd.eq(odd_first)
        lowest: list[Value] = []
        for p in range(shape.inputs):
            first, value = (Signal(self.overlap, name=f"{name}_{p}", reset_less=True) for name in ("lowest_first", "lowest"))
            arriving, arrive = self._arriving(p)
            with m.If(arrive):
                m.d.sync += [odd_first[p].eq(arriving[0]), first.eq(arriving[1 : 1 + self.overlap])]
            with m.If(self.take[p % shape.chain]):
                m.d.sync += value.eq(first)
            lowest.append(value)
        centers: list[Value] = []
        for c in range(shape.chains):
            place, center = (Signal(shape.center_bits, name=f"{name}_{c}", reset_less=True) for name in ("place", "center"))
            with m.If(self.load.chains[c] & self.here[1]):
                m.d.sync += place.eq(self.load.centers.word_select(c % shape.pieces, shape.center_bits))
            with m.If(self.take[1]):
                m.d.sync += center.eq(place)
            centers.append(center)
        for low in range(0, config.rows, 2):
            self._pair(m, low, lowest, odd, centers)

    def _pair(self, m: Module, low: int, lowest: list[Value], odd: Value, centers: list[Value]) -> None:
        """Rows ``low`` and, if there is one, ``low + 1``."""
        config, shape = self.config, self.shape
        both = low + 1 < config.rows
        name = f"{low}"
        overlap = self.overlap
        lows: list[Value] = []
        highs: list[Value] = []
        overlaps: list[Value] = []
        for c in range(shape.chains):
            result, rest = self._chain(m, c, low, lowest, centers[c])
            above = result[FIELD:]
            q = Signal(overlap, name=f"overlap_{name}_{c}")
            m.d.comb += q.eq(above[:overlap] - rest)
            lows.append(Cat(result[:FIELD], q))
            highs.append(above.as_signed())
            overlaps.append(q)
        odd_low = self._odd(m, low, odd)
        # cycle chain + 3 from here
        bits = shape.dot_bits
        flip = 1 << bits - 1
        total = self._sum(m, lows, f"low_{name}", signed_values=False)
        rest = delayed(m, odd_low, shape.chain_levels, f"odd_low_{name}", reset_less=True)[-1]
        m.d.sync += self.dot[low].eq(((total << 1) + rest)[:bits] ^ flip)
        if both:
            odd_high = self._odd(m, low + 1, odd)
            correction = Signal(signed(len(odd_high) + 2), name=f"correction_{name}", reset_less=True)
            q_sum: Value = Const(0, 1)
            for q in overlaps:
                q_sum = q_sum + q
            m.d.sync += correction.eq(odd_high.as_signed() - (q_sum << 1))
            total = self._sum(m, highs, f"high_{name}", signed_values=True)
            rest = delayed(m, correction, shape.chain_levels - 1, f"odd_high_{name}", reset_less=True)[-1].as_signed()
            m.d.sync += self.dot[low + 1].eq((total << 1) + rest)

    def _chain(self, m: Module, c: int, low: int, lowest: list[Value], center: Value) -> tuple[Value, Value]:
        """The last result of a chain, and H modulo ``2^overlap`` with it."""
        config, shape, overlap = self.config, self.shape, self.overlap
        both = low + 1 < config.rows
        result: Value = Cat(Const(0, 2), center, Const(0, 1)).as_signed()
        rest: Value = Const(0, overlap)
        for i in range(shape.chain):
            p = c * shape.chain + i
            name = f"{low}_{p}"
            lower = factor(self.skewed[p].word_select(low, CODE_BITS), low)
            upper = self.skewed[p].word_select(low + 1, CODE_BITS) if both else Const(0, CODE_BITS)
            m.submodules[f"multiply_add_{name}"] = unit = MultiplyAdd(operand_registers=True)
            arriving, arrive = self._arriving(p)
            m.d.comb += [
                unit.a.eq(Cat(lower, Const(0, FIELD - CODE_BITS), upper).as_signed()),
                unit.b.eq(arriving[1:]),
                unit.arrive.eq(arrive),
                unit.take.eq(self.take[i]),
                unit.addend.eq(result),
            ]
            result = unit.result
            if overlap and both:
                code, low_bits = (Signal(overlap, name=f"{n}_{name}", reset_less=True) for n in ("code", "rest"))
                m.d.sync += [code.eq(upper), low_bits.eq(rest + code * lowest[p])]
                rest = low_bits
        return result, delayed(m, rest, 1, f"rest_{low}_{c}", reset_less=True)[-1]

    def _odd(self, m: Module, row: int, odd: Value) -> Value:
        """Sum of the codes of a row whose e is set, in cycle chain + 3."""
        shape = self.shape
        values: list[Value] = []
        for k in range(shape.inputs // 2):
            left, right = (factor(self.codes[row].word_select(2 * k + i, CODE_BITS), row) for i in range(2))
            total = self.pairs[row].word_select(k, CODE_BITS + 1)
            total = total.as_signed() if row % 2 else total
            select = odd.word_select(k, 2)
            value = Signal.like(total, name=f"odd_{row}_{k}", reset_less=True)
            m.d.sync += value.eq(Mux(select[0], Mux(select[1], total, left), Mux(select[1], right, 0)))
            values.append(value)
        result = self._sum(m, values, f"odd_{row}", signed_values=bool(row % 2))
        levels = log2(shape.inputs // 2)
        return delayed(m, result, shape.chain - levels, f"odd_sum_{row}", reset_less=True)[-1]

    def _sum(self, m: Module, values: list[Value], name: str, *, signed_values: bool) -> Value:
        """Pairwise sum, a cycle a level (one level at least)."""
        level = 0
        while level == 0 or len(values) > 1:
            following: list[Value] = []
            for i in range(0, len(values), 2):
                total = values[i] + values[i + 1] if i + 1 < len(values) else values[i]
                node = Signal(signed(len(total)) if signed_values else len(total), name=f"{name}_{level}_{i}", reset_less=True)
                m.d.sync += node.eq(total)
                following.append(node)
            values, level = following, level + 1
        return values[0]
