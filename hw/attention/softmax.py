"""Second stage of attention, second half: running maximum, probabilities, and weights for the values."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...numerics import EXP2_ONE, SCORE_BITS
from ..data_register import data_register
from ..float.convert import IntToFloat
from .denominator import Denominator
from .exp2 import Exp2
from .item import AttentionSizes, ItemLayout, delayed

__all__ = ["OnlineSoftmax"]


class OnlineSoftmax(wiring.Component):
    """Per item and lane: ``M' = max(M, max S)``, ``c = exp2(M' - M)``, ``P = exp2(M' - S)``, the weights ``W`` of the values and
    the denominator. One key a cycle; an item takes ``kv_block + 3`` cycles (twelve at least).

    Members
    -------
    begin, valid, score, usable, key_value_scale, done, present, maximum, exponent
        Counterparts of :class:`ScoreScaler`.
    room : Out(1)
        The scaler may begin an item.
    ready : Out(1), take : In(1), willing : In(1)
        ``ready``: an item's results are complete; ``take`` (only while ``ready``) accepts them. ``weights`` stays valid for two
        cycles more. ``willing``: the next results will be taken as soon as they are ready.
    item : Out(ItemLayout), weights : Out per lane, power, correction : Out per lane
        Weights of ``kv_block`` keys, 16 bits each; exponent field of their unit; ``c`` as float32.
    reciprocal : Out(stream of 32 bits)
        Of :class:`Denominator`.
    working : Out(1)
        With ``config.probe`` only: a key enters.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = AttentionSizes(config)
        lanes = config.query_lanes
        super().__init__({
            "begin": In(1),
            "valid": In(1),
            "score": In(signed(SCORE_BITS)).array(lanes),
            "usable": In(lanes),
            "key_value_scale": In(16),
            "done": In(1),
            "present": In(ItemLayout(config)),
            "maximum": In(signed(SCORE_BITS)).array(lanes),
            "exponent": In(8).array(lanes),
            "room": Out(1),
            "ready": Out(1),
            "take": In(1),
            "willing": In(1),
            "item": Out(ItemLayout(config)),
            "weights": Out(16 * config.kv_block).array(lanes),
            "power": Out(8).array(lanes),
            "correction": Out(32).array(lanes),
            "reciprocal": Out(stream.Signature(32)),
            **({"working": Out(1)} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, lanes = self.config, self.config.query_lanes
        key_bits = (config.kv_block - 1).bit_length()
        m.submodules.denominator = denominator = Denominator(config)
        wiring.connect(m, wiring.flipped(self.reciprocal), denominator.reciprocal)
        accept = Signal()
        #: Items begun in the scaler and not accepted here.
        ahead = Signal(2)
        get = self._store_keys(m, ahead)
        pending, waiting, maxima, exponents = self._queue_item(m, accept)

        item = Signal(ItemLayout(config))
        merge, running, step, last = self._sequence_item(m, get, ahead, pending, accept, waiting, item)

        # Cycles after the step: 1 key read, 2 difference, 6 probability, 7 product, 8 weight stored.
        keyed = delayed(m, running & (step != 0), 7, "keyed")
        first = delayed(m, running & (step == 1), 7, "first")
        lasts = delayed(m, last, 7 + IntToFloat.latency, "lasts")
        opening = delayed(m, running & (step == 0), 6 + IntToFloat.latency, "opening")
        value_scale = get.data[:16]
        mantissa = Signal(8)
        m.d.sync += mantissa.eq(Mux(value_scale[7:15] == 0, 0, Cat(value_scale[:7], 1)))
        mantissas = delayed(m, mantissa, 4, "mantissa")
        self._hand_over(m, item, first[7], lasts)

        for i in range(lanes):
            m.submodules[f"exp2_{i}"] = exp2 = Exp2()
            m.submodules[f"convert_{i}"] = convert = IntToFloat(EXP2_ONE.bit_length() + key_bits + 1)
            m.submodules[f"maxima_{i}"] = kept = memory.Memory(shape=signed(SCORE_BITS), depth=self.sizes.rounds, init=[])
            store, fetch = kept.write_port(), kept.read_port(domain="comb")
            before, block, merged = (Signal(signed(SCORE_BITS), name=f"{n}_{i}") for n in ("before", "block", "merged"))
            exponent = Signal(8, name=f"block_exponent_{i}")
            m.d.comb += [
                fetch.addr.eq(waiting.round),
                store.addr.eq(item.round),
                store.en.eq(running & (step == 0)),
                store.data.eq(merged),
            ]
            with m.If(accept):
                m.d.sync += [before.eq(fetch.data), block.eq(maxima[i]), exponent.eq(exponents[i])]
            with m.If(merge):
                m.d.sync += merged.eq(Mux(~item.first & (before > block), before, block))
            usable = get.data[16 + i]
            score = get.data[16 + lanes + SCORE_BITS * i :][:SCORE_BITS].as_signed()
            difference, zero = Signal(SCORE_BITS + 1, name=f"difference_{i}"), Signal(name=f"zero_{i}")
            m.d.sync += [
                difference.eq(merged - Mux(opening[1], before, score)),
                zero.eq(Mux(opening[1], item.first, ~usable)),
            ]
            m.d.comb += [exp2.d.eq(difference), exp2.zero.eq(zero)]
            self._weigh(m, i, exp2.p * mantissas[4], exponent, value_scale, keyed[7])
            self._sum(m, i, exp2.p, convert, keyed[6], first[6], opening)
            with m.If(first[7]):
                m.d.sync += self.power[i].eq(exponent)
            m.d.comb += [denominator.correction[i].eq(self.correction[i]), denominator.total[i].eq(convert.o)]
        return m

    def _sequence_item(
        self, m: Module, get: memory.ReadPort, ahead: Signal, pending: Signal, accept: Signal, waiting: data.View, item: data.View
    ) -> tuple[Signal, Signal, Signal, Signal]:
        """Accepts an item, merges its maximum, then takes c (step 0) and every key. Returns strobe of the merge, whether a step
        runs, its number, and whether it is the last."""
        config = self.config
        # From an item's acceptance until its last use of what the acceptance replaces.
        period = max(config.kv_block + 3, m.submodules.denominator.latency + 1, config.query_lanes + 1, 12)
        get_key = Signal(get.addr.shape())
        busy, merge, running = Signal(), Signal(), Signal()
        age = Signal(range(period))
        step = Signal(range(config.kv_block + 1))
        last = Signal()
        #: Items accepted whose results were not taken.
        unclaimed = Signal(2)
        m.d.comb += [
            accept.eq(pending & ~busy & ((unclaimed == 0) | ((unclaimed == 1) & self.willing))),
            last.eq(running & (step == config.kv_block)),
        ]
        m.d.sync += [
            unclaimed.eq(unclaimed + accept - self.take),
            ahead.eq(ahead + self.begin - accept),
            merge.eq(accept),
        ]
        with m.If(accept):
            m.d.sync += [item.eq(waiting), busy.eq(1), age.eq(1)]
        with m.If(busy):
            m.d.sync += age.eq(age + 1)
            with m.If(age == period - 1):
                m.d.sync += busy.eq(0)
        with m.If(merge):
            m.d.sync += [running.eq(1), step.eq(0)]
        with m.If(running):
            m.d.sync += step.eq(step + 1)
            with m.If(step != 0):
                m.d.sync += get_key.eq(get_key + 1)
            with m.If(last):
                m.d.sync += running.eq(0)
        m.d.comb += get.addr.eq(get_key)
        if config.probe:
            m.d.comb += self.working.eq(running)
        return merge, running, step, last

    def _store_keys(self, m: Module, ahead: Signal) -> memory.ReadPort:
        """Keys between scaler and exponential: two items that were not accepted, and the one at work. Returns the port to read
        them."""
        config, lanes = self.config, self.config.query_lanes
        m.submodules.keys = keys = memory.Memory(
            shape=16 + lanes * (1 + SCORE_BITS), depth=4 * config.kv_block, init=[], attrs={"ram_style": "distributed"}
        )
        put, get = keys.write_port(), keys.read_port()
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        put_key = Signal((config.kv_block - 1).bit_length() + 2, name="$signal")
        m.d.comb += [
            put.en.eq(self.valid),
            put.addr.eq(put_key),
            put.data.eq(Cat(self.key_value_scale, self.usable, *self.score)),
            self.room.eq(ahead < 2),
        ]
        with m.If(self.valid):
            m.d.sync += put_key.eq(put_key + 1)
        return get

    def _queue_item(self, m: Module, accept: Signal) -> tuple[Signal, data.View, list[Signal], list[Signal]]:
        """An item whose scores are complete waits in two places: where the scaler left its maxima, and here. Returns whether one
        does here, the item, its maxima and exponents."""
        config, lanes = self.config, self.config.query_lanes
        finished, pending = Signal(name="$signal"), Signal(name="$signal")
        waiting = Signal(ItemLayout(config))
        maxima = [Signal(signed(SCORE_BITS), name=f"maximum_{i}") for i in range(lanes)]
        exponents = [Signal(8, name=f"exponent_{i}") for i in range(lanes)]
        move = Signal()
        m.d.comb += move.eq((finished | self.done) & (~pending | accept))
        m.d.sync += [finished.eq((finished | self.done) & ~move), pending.eq(move | (pending & ~accept))]
        with m.If(move):
            m.d.sync += waiting.eq(self.present)
            for i in range(lanes):
                m.d.sync += [maxima[i].eq(self.maximum[i]), exponents[i].eq(self.exponent[i])]
        return pending, waiting, maxima, exponents

    def _hand_over(self, m: Module, item: data.View, weighed: Signal, lasts: list[Value]) -> None:
        """Results of ``item``: its denominator goes on by itself, its weights are ready until they are taken."""
        denominator = m.submodules.denominator
        with m.If(weighed):
            m.d.sync += self.item.eq(item)
        m.d.comb += [denominator.valid.eq(lasts[7 + IntToFloat.latency]), denominator.item.eq(self.item)]
        ready = Signal()
        with m.If(self.take):
            m.d.sync += ready.eq(0)
        with m.If(lasts[7]):
            m.d.sync += ready.eq(1)
        m.d.comb += self.ready.eq(ready)

    def _weigh(self, m: Module, i: int, probability: Value, exponent: Signal, value_scale: Value, keyed: Value) -> None:
        """The weight of one key: probability times scale of the value, in units of ``exponent``."""
        # One place less than h: the last is the rounding bit's.
        places = Signal(9, name=f"places_{i}")
        shift = Signal(5, name=f"shift_{i}")
        m.d.comb += places.eq((exponent - value_scale[7:15] + 6)[:9])
        m.d.sync += shift.eq(Mux(places[5:].any(), 31, places))
        shifts = delayed(m, shift, 5, f"shift_{i}")
        product, weight = Signal(24, name=f"product_{i}", reset_less=True), Signal(16, name=f"weight_{i}")
        m.d.sync += product.eq(probability)
        m.d.comb += weight.eq(((product >> shifts[5]) + 1) >> 1)
        weights = data_register(m, self.weights[i])
        with m.If(keyed):
            m.d.sync += weights.eq(Cat(weights[16:], weight))

    def _sum(
        self, m: Module, i: int, probability: Value, convert: IntToFloat, keyed: Value, first: Value, opening: list[Value]
    ) -> None:
        """The sum of the probabilities, and c."""
        total = Signal(len(convert.i) - 1, name=f"sum_{i}", reset_less=True)
        with m.If(keyed):
            m.d.sync += total.eq(Mux(first, 0, total) + probability)
        m.d.comb += convert.i.eq(Mux(opening[6], probability, total))
        with m.If(opening[6 + IntToFloat.latency]):
            # c = P * 2^-15
            m.d.sync += self.correction[i].eq(
                Mux(convert.o[23:31] == 0, 0, Cat(convert.o[:23], (convert.o[23:31] - (EXP2_ONE.bit_length() - 1))[:8], 0))
            )
