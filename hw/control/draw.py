"""A token drawn from the candidates of a run: the integers of `hwgen.draw`, one candidate after the other."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Elaboratable, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...draw import EXPONENT_ONE, FIXED_BITS, MULTIPLIER, ROUNDS, SCALE_BITS, SEGMENT_FRACTION, WEYL
from ...numerics import exp2_table
from ...registers import DRAW_COUNT, DRAW_SCALE
from ..interfaces import index_bits
from ..multiply_add import MultiplyAdd

__all__ = ["DrawUnit"]

#: The multiplier takes a word in two limbs: so many bits, and those above.
_LIMB = 17

#: Where in the last product of two limbs a power of two begins, 16 bits before its point, and a random part of the sum of weights.
_POWER, _PART = 3, 15

#: Bits of a weight: 2^16 is the largest.
_WEIGHT_BITS = 17


class DrawUnit(wiring.Component):
    """Which candidate of a run is its next token: the best one, or one that is drawn (numerics contract, "Draw").

    One DSP slice multiplies for everything, limbs of 17 bits by numbers of 26. Its products, by the cycle of a state (its step) in
    which their operands are selected: 0 and 1 of the difference by the scale, or of the random number by the sum of the weights; 0
    of the table's slope by the part of a segment; 0 to 3 of a round of Philox. Three cycles later each is there, with those before
    it added::

        step       0        1        2        3        4        5        6
        operands   lo, lo   hi, lo   lo, hi   hi, hi
        added                        0        >> 17    all      >> 17
        result                                lo, lo   hi, lo            all

        START - FETCH - LOAD - ALIGN ... - (TOP) - DIFFER - POWER (5 cycles) - TABLE (4) - HALVE ... -> FETCH of the next candidate,
        or RANDOM (70) - PART (5) - PICK (two a candidate, with PASS) - NAME - DONE

    A logit is aligned a bit a cycle, and a weight halved a bit a cycle: a candidate takes some 25 cycles, at most 190.

    Members
    -------
    ask : In(1)
        Level: a token is asked for, until ``done``. Whoever stops asking need not wait.
    how, key : In(32)
        The words of DRAW, from ``ask`` on.
    position : In
        Of the token that is asked for, from two cycles behind ``ask`` on.
    entry, of_logit : Out
        Number of a candidate, and whether its logit is asked for, or its token: both 0 before ``ask``.
    candidate : In(32)
        What was asked for in the cycle before.
    done : Out(1)
        ``candidate`` is the token.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "ask": In(1),
            "how": In(32),
            "key": In(32),
            "position": In(bits_for(config.max_context)),
            "entry": Out(index_bits(config.topk)),
            "of_logit": Out(1),
            "candidate": In(32),
            "done": Out(1),
        })

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        #: A difference of logits; the part of a power within its segment; then the random number.
        self._word = Signal(32, reset_less=True)
        #: The weight of a candidate, and the sum of all; then what is left of the part of it that is drawn.
        self._weight, self._total = Signal(_WEIGHT_BITS, reset_less=True), Signal(_WEIGHT_BITS + bits_for(self.config.topk))
        self._slope = Signal(range(max(exp2_table()[1]) + 1), reset_less=True)
        self._step = Signal(3)
        m.d.sync += self._step.eq(self._step + 1)
        with m.FSM() as states:
            self._multiply(m, *(states.ongoing(name) for name in ("POWER", "TABLE", "PART")))
            self._sum(m, states.ongoing("PICK"))
            with m.State("START"):
                m.d.comb += self.done.eq(self._count[1:] == 0)
                with m.If(~self.done):
                    m.next = "FETCH"
            self._align(m, states.ongoing("TOP"))
            self._weigh(m)
            self._randomize(m)
            self._pick(m)
        return ResetInserter(~self.ask)(m)

    @property
    def _count(self) -> Value:
        return self.how[DRAW_COUNT.first : DRAW_COUNT.first + DRAW_COUNT.width]

    def _multiply(self, m: Module, of_power: Value, of_table: Value, of_part: Value) -> None:
        """The multiplier, and which operands a state gives it."""
        m.submodules.multiply_add = unit = MultiplyAdd(operand_registers=False)
        self._product = unit.result
        step, limbs = self._step, (Const(MULTIPLIER % (1 << _LIMB), _LIMB), Const(MULTIPLIER >> _LIMB, _LIMB))
        a, b = Signal(SCALE_BITS, reset_less=True), Signal(_LIMB, reset_less=True)
        m.d.sync += [
            a.eq(Mux(of_power, self.how[DRAW_SCALE.first : DRAW_SCALE.first + DRAW_SCALE.width],
                     Mux(of_table, self._slope, Mux(of_part, self._total, Mux(step[1], limbs[1], limbs[0]))))),
            b.eq(Mux(step[0], self._word[_LIMB:], self._word[:_LIMB])),
        ]
        m.d.comb += [
            unit.a.eq(a), unit.b.eq(b),
            unit.addend.eq(Mux(step == 2, 0, Mux(step == 4, self._product, self._product >> _LIMB))),
        ]

    def _sum(self, m: Module, picking: Value) -> None:
        """The weights of all candidates; one adder adds them, and takes them off again."""
        m.submodules.weights = weights = memory.Memory(shape=_WEIGHT_BITS, depth=self.config.topk, init=[])
        keep, kept = weights.write_port(), weights.read_port()
        self._counted = keep.en
        #: The sum with the weight, or without it; and whether that is not negative.
        self._next, self._enough = Signal.like(self._total, name="next_total"), Signal()
        operand = Signal.like(self._total)
        m.d.comb += [
            keep.addr.eq(self.entry), keep.data.eq(self._weight), kept.addr.eq(self.entry),
            operand.eq(Mux(picking, kept.data, self._weight) ^ picking.replicate(len(operand))),
            Cat(self._next, self._enough).eq(self._total + operand + picking),
        ]

    def _align(self, m: Module, of_top: Value) -> None:
        """The next candidate's logit in fixed point, taken off the best one's."""
        #: The magnitude is that of the logit once the exponent has come up to `EXPONENT_ONE`. ``top`` is 0 before the best logit.
        exponent, negative = Signal(8, reset_less=True), Signal(reset_less=True)
        magnitude, top = Signal(FIXED_BITS, reset_less=True), Signal(32)
        minus, rest = Signal(), Signal(32)
        m.d.comb += [
            minus.eq(negative ^ ~of_top),
            rest.eq(top + (Cat(magnitude, Const(0, 1)) ^ minus.replicate(32)) + minus),
        ]
        with m.State("FETCH"):
            m.d.comb += self.of_logit.eq(1)
            m.next = "LOAD"
        with m.State("LOAD"):
            m.d.sync += [
                magnitude.eq(Cat(Const(0, FIXED_BITS - 24), self.candidate[:23], Const(1, 1))),
                exponent.eq(self.candidate[23:31]), negative.eq(self.candidate[31]),
            ]
            m.next = "ALIGN"
        with m.State("ALIGN"):
            with m.If(exponent < EXPONENT_ONE):
                m.d.sync += [magnitude.eq(magnitude >> 1), exponent.eq(exponent + 1)]
            with m.Else():
                m.next = "DIFFER"
                with m.If(self.entry == 0):
                    m.next = "TOP"
            with m.If(exponent > EXPONENT_ONE):
                m.d.sync += magnitude.eq(-1)
        with m.State("TOP"):
            m.d.sync += top.eq(rest)
            m.next = "DIFFER"
        with m.State("DIFFER"):
            m.d.sync += [self._word.eq(rest), self._step.eq(0)]
            m.next = "POWER"

    def _weigh(self, m: Module) -> None:
        """A power of two, by the table of `exp2_table`, and halved."""
        bases, slopes = (Array(Const(value, max(column).bit_length()) for value in column) for column in exp2_table())
        power, fall, weight = self._product[_POWER:], self._product[SEGMENT_FRACTION - 1 :], self._weight
        segment = power[SEGMENT_FRACTION:16]
        halvings, far = Signal(5, reset_less=True), Signal(reset_less=True)
        with m.State("POWER"), m.If(self._step == 4):
            m.d.sync += [
                self._word.eq(power[:SEGMENT_FRACTION]), weight.eq(bases[segment]), self._slope.eq(slopes[segment]),
                halvings.eq(power[16:]), far.eq(power[16 + len(halvings) :].any()), self._step.eq(0),
            ]
            m.next = "TABLE"
        with m.State("TABLE"), m.If(self._step == 3):
            # Twice as much less twice the fall: rounded to nearest.
            m.d.sync += weight.eq(((weight << 1) - fall[: len(self._slope) + 1]) >> 1)
            with m.If(far):
                m.d.sync += weight.eq(0)
            m.next = "HALVE"
        with m.State("HALVE"):
            m.d.sync += [weight.eq(weight >> 1), halvings.eq(halvings - 1)]
            with m.If(halvings == 0):
                m.d.comb += self._counted.eq(1)
                m.d.sync += [self._total.eq(self._next), self.entry.eq(self.entry + 1), self._step.eq(0)]
                m.next = "FETCH"
                with m.If(self.entry + 1 == self._count):
                    m.d.sync += [self.entry.eq(0), self._word.eq(self.position)]
                    m.next = "RANDOM"

    def _randomize(self, m: Module) -> None:
        """`hwgen.draw.random_word` of the position and the key."""
        product, number = self._product, Signal(range(ROUNDS))
        second, weyl = Signal(32), Signal(32)
        low, middle = (Signal(_LIMB, reset_less=True, name=name) for name in ("low", "middle"))
        whole = Cat(low, middle, product[: 64 - 2 * _LIMB])
        with m.State("RANDOM"):
            with m.If(self._step == 3):
                m.d.sync += low.eq(product)
            with m.If(self._step == 5):
                m.d.sync += middle.eq(product)
            with m.If(self._step == 6):
                m.d.sync += [
                    self._word.eq(whole[32:] ^ (self.key + weyl)[:32] ^ second), second.eq(whole[:32]), weyl.eq(weyl + WEYL),
                    number.eq(number + 1), self._step.eq(0),
                ]
                with m.If(number == ROUNDS - 1):
                    m.next = "PART"

    def _pick(self, m: Module) -> None:
        """The candidate in whose weight the random part of the sum falls."""
        with m.State("PART"), m.If(self._step == 4):
            m.d.sync += self._total.eq(self._product[_PART:])
            m.next = "PICK"
        with m.State("PICK"):
            m.d.sync += [self._total.eq(self._next), self.entry.eq(self.entry + 1)]
            m.next = "PASS"
            with m.If(~self._enough):
                m.d.sync += self.entry.eq(self.entry)
                m.next = "NAME"
        with m.State("PASS"):  # the weight of the next one is read
            m.next = "PICK"
        with m.State("NAME"):
            m.next = "DONE"
        with m.State("DONE"):
            m.d.comb += self.done.eq(1)
