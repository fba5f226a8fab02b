"""Rows of float32 and bf16 from the ring: EMBED, PARAM, ROTARY."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Opcode
from ..interfaces import BeatStream, MemoryWrite, Operator

__all__ = ["RingLoader"]


class RingLoader(wiring.Component):
    """Moves rows from ``beats`` to the scratch (EMBED) or the parameter memory (PARAM, ROTARY).

    ``start`` strobe with one of the three in ``op``, which must be stable until the ``done`` strobe; other opcodes
    are ignored. ``done`` comes after the last write and the last beat. Each row takes ``stream_beats`` beats and
    writes ``vectors`` vectors; what follows them in the row is dropped. Rows of token ``t`` go to ``dst + t *
    dst_stride``; PARAM is a single row at ``dst``. A beat of EMBED is two vectors of bf16 and takes two cycles, any
    other beat is one vector of float32. ``ready`` is low outside an operator.
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
        })  # fmt: skip

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
        upper = Signal()  # half of an EMBED beat

        do_vector, do_beat = Signal(), Signal()
        last_beat, last_row = Signal(), Signal()
        m.d.comb += [
            last_beat.eq(beats_left == 1),
            last_row.eq(is_param | (row + 1 == op.count)),
            do_beat.eq(do_vector & (upper | ~is_embed)),
            self.beats.ready.eq(do_beat),
        ]

        # bf16 is the upper half of float32.
        beat = self.beats.payload
        half = beat.word_select(upper, len(beat) // 2)
        widened = Cat(Cat(Const(0, 16), half.word_select(k, 16)) for k in range(self.config.width))
        do_write = do_vector & (vector < descriptor.vectors)
        m.d.sync += [self.scratch_write.valid.eq(do_write & is_embed), self.param_write.valid.eq(do_write & ~is_embed)]
        with m.If(do_vector):
            m.d.sync += [
                self.scratch_write.addr.eq(base + vector),
                self.scratch_write.data.eq(widened),
                self.param_write.addr.eq(base + vector),
                self.param_write.data.eq(beat),
                vector.eq(vector + 1),
                upper.eq(is_embed & ~upper),
            ]

        with m.FSM(name="state"):
            with m.State("IDLE"), m.If(self.start & (is_embed | is_param | is_rotary)):
                m.d.sync += [
                    offset.eq(Mux(is_param, 0, op.first * descriptor.dst_stride)),
                    row.eq(0),
                    upper.eq(0),
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
