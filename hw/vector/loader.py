"""Rows of float32 and bf16 from the ring: EMBED, PARAM, ROTARY."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Opcode
from ..data_register import data_register
from ..interfaces import BeatStream, MemoryWrite, Operator, index_bits

__all__ = ["RingLoader"]


class RingLoader(wiring.Component):
    """Moves rows from ``beats`` to the scratch (EMBED) or the parameter memory (PARAM, ROTARY).

    Each row takes ``stream_beats`` beats and writes ``vectors`` vectors; what follows them in the row is dropped. Rows of token
    ``t`` go to ``dst + t * dst_stride``; PARAM is a single row at ``dst``. A beat holds ``beat_vectors`` vectors of float32, for
    EMBED twice as many of bf16, the first in its low bits; each takes a cycle.

    Members
    -------
    op : In(Operator), start : In(1)
        Strobe with one of the three in ``op``, which must be stable until ``done``; other opcodes are ignored.
    done : Out(1)
        Strobe, after the last write and the last beat.
    beats : In(BeatStream)
        ``ready`` is low outside an operator.
    scratch_write, param_write : Out(MemoryWrite)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        vector_bits = 32 * config.width
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "done": Out(1),
            "beats": In(BeatStream(config)),
            "scratch_write": Out(MemoryWrite(config.scratch_vectors, vector_bits)),
            "param_write": Out(MemoryWrite(config.param_vectors, vector_bits)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op, descriptor = self.op, self.op.descriptor
        is_embed = descriptor.opcode == Opcode.EMBED
        is_param = descriptor.opcode == Opcode.PARAM
        is_rotary = descriptor.opcode == Opcode.ROTARY

        offset, base = Signal(16, reset_less=True), Signal(16, reset_less=True)
        row = Signal.like(op.count)
        beats_left = Signal(32)
        vector = Signal(17)
        part = Signal(range(2 * self.config.beat_vectors))  # vector of the beat

        do_vector, do_beat = Signal(), Signal()
        last_part, last_beat, last_row = Signal(), Signal(), Signal()
        m.d.comb += [
            last_beat.eq(beats_left == 1),
            last_row.eq(is_param | (row + 1 == op.count)),
            last_part.eq(part == Mux(is_embed, 2 * self.config.beat_vectors - 1, self.config.beat_vectors - 1)),
            do_beat.eq(do_vector & last_part),
            self.beats.ready.eq(do_beat),
        ]

        # bf16 is the upper half of float32.
        beat = self.beats.payload
        width = self.config.width
        narrow = beat.word_select(part, 16 * width)
        widened = Cat(Cat(Const(0, 16), narrow.word_select(k, 16)) for k in range(width))
        wide = beat.word_select(part[: index_bits(self.config.beat_vectors)], 32 * width)
        do_write = do_vector & (vector < descriptor.vectors)
        m.d.sync += [self.scratch_write.valid.eq(do_write & is_embed), self.param_write.valid.eq(do_write & ~is_embed)]
        scratch_data, param_data = data_register(m, self.scratch_write.data), data_register(m, self.param_write.data)
        with m.If(do_vector):
            m.d.sync += [
                self.scratch_write.addr.eq(base + vector),
                scratch_data.eq(widened),
                self.param_write.addr.eq(base + vector),
                param_data.eq(wide),
                vector.eq(vector + 1),
                part.eq(Mux(last_part, 0, part + 1)),
            ]

        with m.FSM(name="state"):
            with m.State("IDLE"), m.If(self.start & (is_embed | is_param | is_rotary)):
                m.d.sync += [
                    offset.eq(Mux(is_param, 0, op.first * descriptor.dst_stride)),
                    row.eq(0),
                    part.eq(0),
                ]
                m.next = "BASE"
            with m.State("BASE"):
                m.d.sync += [base.eq(descriptor.dst + offset), beats_left.eq(descriptor.stream_beats), vector.eq(0)]
                m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += do_vector.eq(self.beats.valid)
                with m.If(do_beat):
                    m.d.sync += beats_left.eq(beats_left - 1)
                    with m.If(last_beat):
                        m.d.sync += [
                            beats_left.eq(descriptor.stream_beats),
                            vector.eq(0),
                            row.eq(row + 1),
                            base.eq(base + descriptor.dst_stride),
                        ]
                        with m.If(last_row):
                            m.next = "FINISH"
            with m.State("FINISH"):
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
