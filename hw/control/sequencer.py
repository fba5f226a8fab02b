"""Executes the descriptors of a program in order."""

from __future__ import annotations

import enum

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Flag, Opcode
from ..interfaces import ADDRESS_BITS, DescriptorLayout, Operator
from .active import ActiveRange, Pass

__all__ = ["UNIT_OF", "Sequencer", "Unit"]


class Unit(enum.IntEnum):
    """Bits of `Sequencer.starts` and `Sequencer.dones`."""

    LOADER = 0
    VECTOR = 1
    LINEAR = 2
    ATTENTION = 3
    KV_WRITER = 4


#: Who executes an operator.
UNIT_OF: dict[Opcode, Unit] = {
    Opcode.EMBED: Unit.LOADER,
    Opcode.PARAM: Unit.LOADER,
    Opcode.ROTARY: Unit.LOADER,
    Opcode.NORM: Unit.VECTOR,
    Opcode.DRAIN: Unit.VECTOR,
    Opcode.ROPE: Unit.VECTOR,
    Opcode.LINEAR: Unit.LINEAR,
    Opcode.ATTENTION: Unit.ATTENTION,
    Opcode.HEAD: Unit.ATTENTION,
    Opcode.KV_WRITE: Unit.KV_WRITER,
}


class Sequencer(wiring.Component):
    """Takes one descriptor after the other, skips those the pass does not need (see `ActiveRange`), and has the unit of
    its opcode execute each of the others. From ``done`` of one operator to ``start`` of the next: four cycles.

    With REPLAY, and when another round of tokens follows, ``hold`` is 1 from the cycle before ``start`` until ``done``, and
    ``rewind`` is strobed in the next cycle. An opcode that is not in `Opcode` retires without effect.

    Members
    -------
    descriptors : In(stream of DescriptorLayout)
    current : In(Pass)
    write_logits, logits : In
        Passed on to the operator bus.
    op : Out(Operator)
    starts, dones : Out, In, one bit a `Unit`
    hold, rewind : Out(1)
        To the ring.
    quiet : In(1)
        Nothing is in flight to or from memory and the prefetcher has reached END.
    finished : Out(1)
        Strobe: END was reached and the machine is quiet.
    running : Out(1)
        An operator is being executed.
    retire : Out(1)
        Strobe: the operator on ``op`` has ended.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "descriptors": In(stream.Signature(DescriptorLayout())),
            "current": In(Pass(config)),
            "write_logits": In(1),
            "logits": In(ADDRESS_BITS),
            "op": Out(Operator(config)),
            "starts": Out(len(Unit)),
            "dones": In(len(Unit)),
            "hold": Out(1),
            "rewind": Out(1),
            "quiet": In(1),
            "finished": Out(1),
            "running": Out(1),
            "retire": Out(1),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, op = self.config, self.op
        d = op.descriptor
        m.submodules.active = active = ActiveRange(config)
        unit = Signal(len(Unit))
        m.d.comb += [
            active.descriptor.eq(d),
            active.current.tokens.eq(self.current.tokens),
            active.current.position.eq(self.current.position),
            active.current.want_logits.eq(self.current.want_logits),
            op.write_logits.eq(self.write_logits),
            op.logits.eq(self.logits),
        ]
        with m.Switch(d.opcode):
            for opcode, index in UNIT_OF.items():
                with m.Case(opcode):
                    m.d.comb += unit.eq(1 << index)

        m.d.sync += [self.starts.eq(0), self.rewind.eq(0), self.retire.eq(0), self.finished.eq(0)]
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptors.ready.eq(1)
                with m.If(self.descriptors.valid):
                    m.d.sync += d.eq(self.descriptors.p)
                    m.next = "DECODE"
            with m.State("DECODE"):
                m.d.sync += [
                    op.first.eq(active.first),
                    op.count.eq(active.count),
                    op.gang.eq(active.count <= config.lanes),
                    op.tokens.eq(self.current.tokens),
                    op.position.eq(self.current.position),
                ]
                with m.If(d.opcode == Opcode.END):
                    m.next = "DRAIN"
                with m.Elif(active.skip | (unit == 0)):
                    m.next = "TAKE"
                with m.Else():
                    m.d.sync += self.hold.eq(d.flags[Flag.REPLAY.value.bit_length() - 1] & active.more)
                    m.next = "START"
            with m.State("START"):
                m.d.sync += [self.starts.eq(unit), self.running.eq(1)]
                m.next = "EXECUTE"
            with m.State("EXECUTE"), m.If((self.dones & unit).any()):
                m.d.sync += [self.retire.eq(1), self.rewind.eq(self.hold), self.hold.eq(0), self.running.eq(0)]
                m.next = "TAKE"
            with m.State("DRAIN"), m.If(self.quiet):
                m.d.sync += self.finished.eq(1)
                m.next = "TAKE"
        return m
