"""Starts the operators of a program in order, as soon as nothing they depend on is running."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...descriptors import Buffers, Flag, Opcode, field_bits
from ...operators import OPERATORS, Unit
from ..active import ActiveRange, Pass
from ..data_register import data_register
from ..interfaces import ADDRESS_BITS, DescriptorLayout, Operator

__all__ = ["Retired", "Sequencer"]


def Retired(config: BuildConfig) -> wiring.Signature:
    """The operator that has ended: its unit (one bit a `Unit`), index in the program, opcode and active tokens."""
    return wiring.Signature({
        "unit": Out(len(Unit)),
        "tag": Out(field_bits()["tag"][1]),
        "opcode": Out(field_bits()["opcode"][1]),
        "count": Out(bits_for(config.chunk)),
    })


def _bit(flag: Flag | Buffers) -> int:
    return flag.value.bit_length() - 1


class Sequencer(wiring.Component):
    """Takes one descriptor after the other, skips those the pass does not need (see `ActiveRange`), and has the unit of
    its opcode execute each of the others, once the units that its row of `OPERATORS` names are idle. Units so work at the
    same time, with the results of program order. Operators start in program order.

    A unit counts as running from ``start`` until its operator has retired, two cycles after ``done`` (one later for each
    operator before it in the program that has ended but not retired: one retires a cycle). From the retirement of the
    last operator it waited for, an operator starts one cycle later, or two cycles after the operator before it, whichever
    is later: three cycles after ``done`` when it waited for nothing else.

    With REPLAY, and when another round of tokens follows, ``hold`` is 1 from ``start`` of LINEAR until its ``done``, and
    ``rewind`` is strobed in the next cycle. An opcode that is not in `Opcode` has no effect and does not retire.

    Members
    -------
    descriptors : In(stream of DescriptorLayout)
    current : In(Pass)
    write_logits, logits : In
        Passed on to the operator buses.
    ops : Out(Operator) per `Unit`
        Stable from ``start`` of one operator of the unit to that of its next.
    starts, dones : Out, In, one bit a `Unit`
    running : Out, one bit a `Unit`
        From ``start`` until the operator retires.
    hold, rewind : Out(1)
        To the ring.
    quiet : In(1)
        Nothing is in flight to or from memory and the prefetcher has reached END.
    finished : Out(1)
        Strobe: END was reached, all units are idle, and the machine is quiet.
    pause : In(1)
        Level: no operator starts, and ``finished`` does not come.
    flush : In(1)
        Strobe, only with ``pause`` and while nothing runs: what was taken from ``descriptors`` is dropped.
    tag : Out
        Of the operator that started last.
    retire : Out(1)
        Strobe: operator ``retired`` has ended.
    retired : Out(Retired)
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "descriptors": In(stream.Signature(DescriptorLayout())),
            "current": In(Pass(config)),
            "write_logits": In(1),
            "logits": In(ADDRESS_BITS),
            "ops": Out(Operator(config)).array(len(Unit)),
            "starts": Out(len(Unit)),
            "dones": In(len(Unit)),
            "running": Out(len(Unit)),
            "hold": Out(1),
            "rewind": Out(1),
            "quiet": In(1),
            "finished": Out(1),
            "pause": In(1),
            "flush": In(1),
            "tag": Out(field_bits()["tag"][1]),
            "retire": Out(1),
            "retired": Out(Retired(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = len(Unit)
        # Operators of other units that must not use the same half of a memory, and the memory's bit.
        rivals = sorted({other for row in OPERATORS.values() for other in row.halves})
        decoded, drop, meaning = self._decode(m, rivals)

        # The next operator waits here.
        ready_to_go = Signal()
        d = Signal(DescriptorLayout(), reset_less=True)
        of = {name: Signal.like(source, name=f"next_{name}") for name, source in meaning.items()}
        load = Signal()
        m.d.comb += [
            load.eq(decoded & ~drop & ~ready_to_go),
            self.descriptors.ready.eq(decoded & (drop | ~ready_to_go)),
        ]
        with m.If(load):
            m.d.sync += [ready_to_go.eq(1), d.eq(self.descriptors.p)]
            m.d.sync += [of[name].eq(source) for name, source in meaning.items()]

        # Start.
        same_half, clear, issue, over = Signal(len(rivals)), Signal(), Signal(), Signal()
        for number, other in enumerate(rivals):
            unit_of_other = OPERATORS[other].unit
            rival = self.ops[unit_of_other].descriptor
            shared = (of[other.name] & ~(d.buffers ^ rival.buffers)).any()
            m.d.comb += same_half[number].eq(self.running[unit_of_other] & (rival.opcode == other) & shared)
        m.d.comb += [
            clear.eq(~((of["waits_for"] & self.running).any() | same_half.any())),
            issue.eq(ready_to_go & clear & ~of["end"] & ~self.pause),
        ]
        m.d.sync += [self.starts.eq(of["unit"] & issue.replicate(units)), over.eq(ready_to_go & clear & of["end"])]
        with m.If(issue):
            m.d.sync += [ready_to_go.eq(0), self.tag.eq(d.tag)]
        for op, chosen in zip(self.ops, of["unit"], strict=True):
            m.d.comb += [
                op.tokens.eq(self.current.tokens),
                op.runs.eq(self.current.runs),
                op.write_logits.eq(self.write_logits),
                op.logits.eq(self.logits),
            ]
            descriptor = data_register(m, op.descriptor)
            with m.If(issue & chosen):
                m.d.sync += [
                    descriptor.eq(d), op.first.eq(of["first"]), op.count.eq(of["count"]), op.gang.eq(of["gang"]),
                ]

        # End of the program.
        m.d.sync += self.finished.eq(0)
        with m.If(over & self.quiet & ~self.pause):
            m.d.sync += [self.finished.eq(1), ready_to_go.eq(0), over.eq(0)]
        with m.If(self.flush):
            m.d.sync += [decoded.eq(0), ready_to_go.eq(0), over.eq(0)]

        self._retire(m, issue, of["unit"])

        self._replay(m, issue & of["unit"][Unit.LINEAR], of["replay"])
        return m

    def _retire(self, m: Module, issue: Signal, unit: Signal) -> None:
        """Of the operators that have ended, the one that started first."""
        units = len(Unit)
        ended, retiring = Signal(units), Signal(units)
        for u in Unit:
            earlier = []
            for v in Unit:
                if v == u:
                    continue
                before = Signal(name=f"{v.name.lower()}_before_{u.name.lower()}")
                with m.If(issue & unit[u]):
                    m.d.sync += before.eq(1)
                with m.Elif(issue & unit[v]):
                    m.d.sync += before.eq(0)
                earlier.append(before & ended[v])
            m.d.comb += retiring[u].eq(ended[u] & ~Cat(earlier).any())
        m.d.sync += [
            ended.eq((ended | (self.dones & self.running)) & ~retiring),
            self.running.eq((self.running | (unit & issue.replicate(units))) & ~retiring),
            self.retire.eq(retiring.any()),
            self.retired.unit.eq(retiring),
        ]
        for op, chosen in zip(self.ops, retiring, strict=True):
            with m.If(chosen):
                m.d.sync += [
                    self.retired.tag.eq(op.descriptor.tag),
                    self.retired.opcode.eq(op.descriptor.opcode),
                    self.retired.count.eq(op.count),
                ]

    def _replay(self, m: Module, issue: Value, replay: Signal) -> None:
        """The ring keeps what LINEAR reads, and starts over for the next round of tokens."""
        end_of_hold = self.dones[Unit.LINEAR] & self.hold
        m.d.sync += self.rewind.eq(end_of_hold)
        with m.If(issue):
            m.d.sync += self.hold.eq(replay)
        with m.Elif(end_of_hold):
            m.d.sync += self.hold.eq(0)

    def _decode(self, m: Module, rivals: list[Opcode]) -> tuple[Signal, Signal, dict[str, Value]]:
        """What the offered descriptor means, a cycle after it came: ``(decoded, drop, meaning)``."""
        config, units = self.config, len(Unit)
        offered = self.descriptors.p
        m.submodules.active = active = ActiveRange(config)
        m.d.comb += [
            active.descriptor.eq(offered),
            active.current.tokens.eq(self.current.tokens),
            active.current.runs.eq(self.current.runs),
            active.current.wanted.eq(self.current.wanted),
            *([active.current.chooses.eq(self.current.chooses)] if config.kv_budget else []),
        ]
        decoded, drop, unknown, is_end = Signal(), Signal(), Signal(), Signal()
        unit, waits_for = Signal(units), Signal(units)
        halves = {other: Signal(len(Buffers), name=f"half_{other.name.lower()}") for other in rivals}
        replay = Signal()
        m.d.comb += drop.eq((active.skip & ~is_end) | unknown)
        m.d.sync += [
            decoded.eq(self.descriptors.valid & ~self.descriptors.ready),
            unknown.eq(0),
            is_end.eq(offered.opcode == Opcode.END),
            replay.eq(offered.flags[_bit(Flag.REPLAY)]),
        ]
        with m.Switch(offered.opcode):
            for opcode, row in OPERATORS.items():
                with m.Case(opcode):
                    m.d.sync += [
                        unit.eq(1 << row.unit),
                        waits_for.eq(sum(1 << u for u in row.after)),
                        *(halves[other].eq(int(row.halves.get(other, Buffers.NONE))) for other in halves),
                    ]
            with m.Case(Opcode.END):
                m.d.sync += [unit.eq(0), waits_for.eq(sum(1 << u for u in Unit)), *(half.eq(0) for half in halves.values())]
            with m.Default():
                m.d.sync += unknown.eq(1)
        return decoded, drop, {
            "end": is_end, "unit": unit, "waits_for": waits_for, "first": active.first, "count": active.count,
            "gang": active.count <= config.lanes, "replay": replay & active.more,
            **{other.name: signal for other, signal in halves.items()},
        }
