"""Second stage of attention, first half: integer dot products become scores; the LM head's become logits."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...numerics import SCORE_BITS, SCORE_FRACTION
from ..float.convert import FloatToInt, IntToFloat
from ..float.multiply import FloatMul
from ..interfaces import index_bits
from .item import AttentionSizes, ItemLayout, delayed

__all__ = ["ScoreScaler"]


class ScoreScaler(wiring.Component):
    """``round_int(fmul(fmul(int_to_f32(q . k), key scale), query scale), 10, 24)``, one key of every lane a cycle, and over
    the valid keys of an item the largest score and the largest exponent of a value scale.

    An item takes ``max(kv_block, latency + 1)`` cycles.

    Members
    -------
    scores, load, item, release
        Counterparts of :class:`ScoreStage`.
    room : In(1)
        An item may start.
    begin : Out(1)
        Strobe: an item starts.
    read_last : Out(1)
        Strobe: the scales of an item's block were read for the last time (by the last round; of HEAD each block has one).
    scales_ready, scale_buffer, scale_key, key_scale, value_scale; scale_addr, scale_read, scale; reach_round, reach_read, reach
        Counterparts of :class:`BlockBuffer`, :class:`QueryMemory` and :class:`SlotTable`.
    logit_valid : Out(1), logit : Out(32)
        Lane 0 before it is rounded to an integer.
    valid, score, usable, key_value_scale : Out
        A key: its score for every lane, whether it takes part there, and its value's bf16 scale.
    done : Out(1), present : Out(ItemLayout), maximum, exponent : Out per lane
        Strobe after the last key of an item; the others then hold its data until the next item's first key has passed.
    working : Out(1)
        With ``config.probe`` only: a key enters.
    """

    #: Cycles from a key's sums to its score.
    latency = 1 + IntToFloat.latency + 2 * FloatMul.latency + FloatToInt.latency

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = sizes = AttentionSizes(config)
        lanes = config.query_lanes
        super().__init__({
            **{f"scores_{lane}": In(config.kv_block * bits) for lane, bits in enumerate(sizes.sum_bits)},
            "load": In(1),
            "item": In(ItemLayout(config)),
            "release": Out(1),
            "room": In(1),
            "begin": Out(1),
            "read_last": Out(1),
            "scales_ready": In(sizes.buffers),
            "scale_buffer": Out((sizes.buffers - 1).bit_length()),
            "scale_key": Out(index_bits(config.kv_block)),
            "key_scale": In(16),
            "value_scale": In(16),
            "scale_addr": Out(index_bits(sizes.query_rows)),
            "scale_read": Out(1),
            "scale": In(32).array(lanes),
            "reach_round": Out(index_bits(sizes.rounds)),
            "reach_read": Out(1),
            "reach": In(sizes.reach_bits).array(lanes),
            "logit_valid": Out(1),
            "logit": Out(32),
            "valid": Out(1),
            "score": Out(signed(SCORE_BITS)).array(lanes),
            "usable": Out(lanes),
            "key_value_scale": Out(16),
            "done": Out(1),
            "present": Out(ItemLayout(config)),
            "maximum": Out(signed(SCORE_BITS)).array(lanes),
            "exponent": Out(8).array(lanes),
            **({"working": Out(1)} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sizes, lanes = self.config, self.sizes, self.config.query_lanes
        key_bits = (config.kv_block - 1).bit_length()
        # Nothing of an item is replaced before its first key left the pipeline.
        period = max(config.kv_block, self.latency + 1)

        full, busy = Signal(), Signal()
        key, age = Signal(key_bits), Signal(range(period))
        running, first, last = Signal(), Signal(), Signal()
        working = Signal(ItemLayout(config))
        m.d.comb += [
            self.begin.eq((full | self.load) & ~busy & self.room & self.scales_ready.bit_select(self.item.buffer, 1)),
            self.scale_buffer.eq(working.buffer),
            self.scale_key.eq(key),
            self.read_last.eq(last & working.release if config.kv_budget else last),
            self.scale_addr.eq(self.item.query_scale),
            self.scale_read.eq(self.begin),
            self.reach_round.eq(self.item.round),
            self.reach_read.eq(self.begin),
            first.eq(running & (key == 0)),
            last.eq(running & (key == config.kv_block - 1)),
            # The next sums arrive `score_latency` + 1 cycles after this or later: when the last key is read.
            self.release.eq(running & (key == max(0, config.kv_block - 2 - sizes.score_latency))),
        ]
        scores = [getattr(self, f"scores_{lane}") for lane in range(lanes)]
        held = [Signal(len(sums), name=f"held_{i}", reset_less=True) for i, sums in enumerate(scores)]
        with m.If(running):
            m.d.sync += key.eq(key + 1)
            with m.If(last):
                m.d.sync += running.eq(0)
        with m.If(busy):
            m.d.sync += age.eq(age + 1)
            with m.If(age == period - 1):
                m.d.sync += busy.eq(0)
        with m.If(self.load):
            m.d.sync += [full.eq(1), *(mine.eq(theirs) for mine, theirs in zip(held, scores, strict=True))]
        with m.If(self.begin):
            m.d.sync += [working.eq(self.item), full.eq(0), busy.eq(1), running.eq(1), key.eq(0), age.eq(1)]

        if config.probe:
            m.d.comb += self.working.eq(running)
        valid = delayed(m, running, self.latency, "valid")
        firsts = delayed(m, first, self.latency, "first")
        lasts = delayed(m, last, self.latency + 1, "last")

        key_scales = delayed(m, self.key_scale, IntToFloat.latency, "key_scale", reset_less=True)
        value_scales = delayed(m, self.value_scale, self.latency - 1, "value_scale", reset_less=True)
        m.d.comb += [self.key_value_scale.eq(value_scales[-1]), self.valid.eq(valid[-1])]

        scaled_at = 1 + IntToFloat.latency + FloatMul.latency
        m.d.comb += self.logit_valid.eq(valid[scaled_at + FloatMul.latency])
        with m.If(firsts[-1]):
            m.d.sync += self.present.eq(working)
        m.d.comb += self.done.eq(lasts[-1])

        for lane, bits in enumerate(sizes.sum_bits):
            takes = working.whole | (Cat(key, working.second) <= self.reach[lane])
            self._scale(m, lane, held[lane].word_select(key, bits), takes, key_scales[-1], firsts[scaled_at - 1])

            self._track_maxima(m, lane, valid[-1], firsts[-1])
        return m

    def _track_maxima(self, m: Module, lane: int, valid: Value, first: Value) -> None:
        """Over the keys that take part, the largest score and the largest exponent of a value scale."""
        takes = self.usable[lane]
        higher = first | (self.score[lane] > self.maximum[lane])
        field = self.key_value_scale[7:15]
        with m.If(valid):
            with m.If(takes & higher):
                m.d.sync += self.maximum[lane].eq(self.score[lane])
            with m.Elif(first):
                m.d.sync += self.maximum[lane].eq(-(1 << (SCORE_BITS - 1)))
            with m.If(takes & (first | (field > self.exponent[lane]))):
                m.d.sync += self.exponent[lane].eq(field)
            with m.Elif(first):
                m.d.sync += self.exponent[lane].eq(0)

    def _scale(self, m: Module, lane: int, sums: Value, takes: Value, key_scale: Value, first: Value) -> None:
        """The sum of one key becomes a score. ``takes``: the key takes part; ``first``: the query's scale is there."""
        bits = self.sizes.sum_bits[lane]
        m.submodules[f"convert_{lane}"] = convert = IntToFloat(bits)
        m.submodules[f"by_key_{lane}"] = by_key = FloatMul()
        m.submodules[f"by_query_{lane}"] = by_query = FloatMul()
        m.submodules[f"round_{lane}"] = to_score = FloatToInt(SCORE_BITS, fraction=SCORE_FRACTION)
        dot = Signal(signed(bits), name=f"dot_{lane}", reset_less=True)
        usable = Signal(name=f"usable_{lane}")
        scale = Signal(32, name=f"scale_{lane}")
        m.d.sync += [dot.eq(sums), usable.eq(takes)]
        with m.If(first):
            m.d.sync += scale.eq(self.scale[lane])
        m.d.comb += [
            convert.i.eq(dot),
            by_key.a.eq(convert.o),
            by_key.b.eq(Cat(Const(0, 16), key_scale)),
            by_query.a.eq(by_key.o),
            by_query.b.eq(scale),
            to_score.a.eq(by_query.o),
            self.score[lane].eq(to_score.o),
            self.usable[lane].eq(delayed(m, usable, self.latency - 1, f"usable_{lane}")[-1]),
        ]
        if lane == 0:
            m.d.comb += self.logit.eq(by_query.o)
