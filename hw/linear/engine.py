"""The ternary linear engine: weight beats against the activations of up to ``tokens`` tokens."""

from __future__ import annotations

from functools import partial

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from ...config import BuildConfig
from ...descriptors import Format
from ...grouped_layout import GroupSlices
from ...layout import ZERO_BYTE
from .activations import ActivationMemory
from .group_scales import ScaleMemory, take_scales
from .int4_loader import delayed
from .lane import TernaryLane, factor_bits
from .panel import Beats, PanelEngine, ShortSlices, connect_inputs
from .schedule import TableSchedule
from .trits import TritDecoder

__all__ = ["LinearEngine"]


class LinearEngine(PanelEngine):
    """LINEAR of packed ternary weights and int8 activations, by table look-up.

    Members: those of `PanelEngine`. Activations beyond the inputs of the matrix meet zero weights and may have any value.
    ``waiting_tables``: the tables of the slice are not complete.

    ::

        cycle   0      1 .. 4   5         6 .. levels + 5    levels + 6    levels + 7    levels + 8    levels + 9
                issue  decode   look up   adder tree         multiply      accumulate    write         write parity

    A slice takes the longest of its beats, of building its tables (`TableSchedule`) and of loading its activations
    (`ActivationMemory`).

    With an engine for scales of groups, and `Format.GROUPED`, the panel is a `GroupedLayout`. Scale beats, in front of every group,
    take a cycle each in either mode; a beat of a short slice is taken ``parts`` times, with bytes of zero trits in the place of
    those that it has not.
    """

    #: Cycles from the issue of a beat to its look-ups.
    LOOK_UP = 1 + TritDecoder.INDEX_LATENCY

    def __init__(self, config: BuildConfig) -> None:
        #: Levels of the adder trees.
        self.levels = (config.tables - 1).bit_length()
        super().__init__(config, config.ternary_acc_bits, self.LOOK_UP + self.levels + TernaryLane.ADD)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        slicing = GroupSlices(config) if config.has_groups else None
        lanes = [[TernaryLane(config) for _ in range(config.lanes)] for _ in range(config.groups)]
        m.submodules.schedule = schedule = TableSchedule(config)
        m.submodules.activations = activations = ActivationMemory(config, config.slice_inputs, slicing)

        # A beat's tables are complete when it looks them up, and still those when the copy has been released.
        if not TableSchedule.WRITE_LATENCY <= self.LOOK_UP < 1 + TableSchedule.RELEASE_LATENCY:
            raise AssertionError("tables change while they are used")
        built = Signal(2)  # slices whose tables are complete and not used up
        buffer = Signal()
        released = Signal()
        beats, factors = self._take(m, built != 0, buffer, slicing)
        m.d.sync += [released.eq(beats.end_of_slice), built.eq(built + schedule.built - beats.end_of_slice)]
        with m.If(beats.end_of_slice):
            m.d.sync += buffer.eq(~buffer)
        with m.If(self.start):
            m.d.sync += buffer.eq(0)
        m.d.comb += [
            schedule.start.eq(self.start),
            schedule.release.eq(released),
            schedule.loaded.eq(activations.loaded),
            activations.start.eq(self.start),
            activations.half.eq(self.op.descriptor.buffers[1]),
            activations.count.eq(self.op.count),
            activations.slices.eq(self.op.descriptor.slices),
            activations.taken.eq(schedule.taken),
        ]
        if slicing is not None:
            m.d.comb += activations.grouped.eq(self._grouped)
        connect_inputs(m, activations.write, self.activation)
        look_up = beats.track[self.LOOK_UP]
        for g, group in enumerate(lanes):
            m.submodules[f"decoder_{g}"] = decoder = TritDecoder(config)
            used = Signal(name=f"used_{g}")
            m.d.sync += used.eq(self.op.gang | (self.op.count > g * config.lanes))
            m.d.comb += [decoder.beat.eq(beats.registers[g]), decoder.valid.eq(beats.track[1]["valid"] & used)]
            signed_factors = self._signed(m, factors[g] if factors else None, decoder, g)
            for number, lane in enumerate(group):
                m.submodules[f"lane_{g}_{number}"] = lane
                m.d.comb += [
                    lane.here.eq(self._here(activations.token, g, number)),
                    lane.take.eq(schedule.take),
                    lane.look_up.eq(look_up["valid"]),
                    lane.buffer.eq(look_up["buffer"]),
                ]
                m.d.comb += [a.eq(b) for a, b in zip(lane.index, decoder.index, strict=True)]
                m.d.comb += [a.eq(b) for a, b in zip(lane.negate, decoder.negate, strict=True)]
                m.d.comb += [a.eq(b) for a, b in zip(lane.factor, signed_factors, strict=True)]
                connect_inputs(m, lane.load, activations.load)
                connect_inputs(m, lane.build, schedule.build)
        self._accumulate(m, lanes, beats.track)
        return m

    @property
    def _grouped(self) -> Value:
        """The panel has scales of groups."""
        return (self.op.descriptor.format & Format.GROUPED).any()

    def _take(self, m: Module, ready: Value, buffer: Value, slicing: GroupSlices | None) -> tuple[Beats, list[Value]]:
        """The beats, and for every group of lanes the scales of their rows: bytes, two cycles before that of the last level."""
        config = self.config
        if slicing is None:
            return self._issue(m, ready, {"buffer": buffer}, self.op.gang), []
        scaling, gang, short, grouped = Signal(), Signal(), Signal(), Signal()
        m.d.comb += grouped.eq(self._grouped)
        m.submodules.scales = scales = ScaleMemory(config, row_bytes=1)
        parts = ShortSlices(short, slicing.parts, partial(self._short_beat, slicing))
        beats = self._issue(m, ready, {"buffer": buffer}, gang, scaling, parts)
        last = take_scales(m, self, beats, scales, scaling, gang, Const(slicing.count), grouped)
        m.d.comb += short.eq(grouped & last)
        # From the cycle of the scale memory to two cycles in front of the products of a row.
        wait = self.LOOK_UP + self.levels - 2 - ScaleMemory.LATENCY
        return beats, [
            delayed(m, codes, wait, f"scales_{g}", reset_less=True)[-1] for g, codes in enumerate(scales.codes)
        ]

    def _short_beat(self, slicing: GroupSlices, beat: Value, part: Value) -> Value:
        """A part of a beat as the beat of a whole slice: every row with its bytes, then bytes of zero trits."""
        rest = 8 * slicing.rest_bytes
        rows = beat[: slicing.parts * self.config.rows * rest].word_select(part, self.config.rows * rest)
        zeros = [Const(ZERO_BYTE, 8)] * (slicing.row_bytes - slicing.rest_bytes)
        return Cat(Cat(rows.word_select(row, rest), *zeros) for row in range(self.config.rows))

    def _signed(self, m: Module, codes: Value | None, decoder: TritDecoder, group: int) -> list[Value]:
        """The factors of the rows: the scale of their group (two registers), or 1 without groups, with the sign of the row, from
        one register.
        """
        scaled = Signal(name=f"scaled_{group}")
        m.d.sync += scaled.eq(self._grouped)
        bits = factor_bits(self.config)
        factors: list[Value] = []
        for row in range(self.config.rows):
            minus = decoder.negate[row][0]
            factor = Signal(bits, name=f"factor_{group}_{row}", reset_less=True)
            if codes is None:
                m.d.sync += factor.eq(Cat(1, minus))
            else:
                scale = self._scale(m, codes.word_select(row, 8), scaled, f"scale_{group}_{row}")
                m.d.sync += factor.eq((scale ^ minus.replicate(bits)) + minus)
            factors.append(factor.as_signed())
        return factors

    def _scale(self, m: Module, code: Value, scaled: Value, name: str) -> Value:
        """The number that ``code`` stands for, in a register, or 1 where the matrix is not ``scaled``."""
        mantissa, exponent = code[:6], code[6:]
        scale = Signal(factor_bits(self.config) - 1, name=name, reset_less=True)
        with m.Switch(exponent):
            for value in range(4):
                with m.Case(value):
                    number = Cat(mantissa, 1) << value - 1 if value else mantissa
                    m.d.sync += scale.eq(Mux(scaled, number, 1))
        return scale
