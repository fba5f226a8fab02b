"""The order in which all lanes build the tables of their slices."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from ...config import BuildConfig
from ..interfaces import index_bits
from .tables import WALK
from .trits import GROUP, INDEX_BITS

__all__ = ["BUFFERS", "BuildBus", "TableSchedule", "rounds_of"]

#: Copies of every table: one in use, one being built.
BUFFERS = 2


def rounds_of(config: BuildConfig) -> int:
    """Tables that one builder fills in a slice."""
    return config.tables // config.builders


def BuildBus(config: BuildConfig) -> Signature:
    """Steps of the table builders: ``select``, ``negate``, ``enable`` and ``begin`` as `TableBuilder` takes them. One cycle
    after ``enable`` or ``clear`` the entries are complete; ``tables`` (a bit for every round, aligned with both) says whose
    entry ``entry`` of copy ``buffer`` they are."""
    return Signature({
        "select": Out(index_bits(GROUP * rounds_of(config))),
        "negate": Out(1),
        "enable": Out(1),
        "begin": Out(1),
        "clear": Out(1),
        "tables": Out(rounds_of(config)),
        "entry": Out(INDEX_BITS),
        "buffer": Out(1),
    })


class TableSchedule(wiring.Component):
    """Builds the tables of the slices of one LINEAR operator, one slice after the other.

    A slice takes ``13 * tables / builders`` cycles; the next one follows at once when it has arrived and a table copy is
    free. The first entry is written at least `RELEASE_LATENCY` cycles after ``release``. Entry 0, which no step writes, becomes 0
    in both copies in the two cycles from ``start`` on, before there can be a step.

    Members
    -------
    start : In(1)
        Strobe: begin with slice 0; all table copies are free.
    loaded : In(1)
        The activations of the next slice have arrived; falls with ``taken``.
    taken : Out(1), take : Out(1)
        Strobe: the slice is being taken over; the same one cycle later, to every lane: what has arrived becomes the slice that is
        built.
    release : In(1)
        Strobe: one table copy is free again.
    build : Out
        To every lane.
    built : Out(1)
        Strobe: the tables of one more slice are complete `WRITE_LATENCY` cycles later. Copies alternate, beginning with copy 0.
    """

    #: Cycles from the last step of a slice to the cycle in which a lane writes its entry.
    STEP_LATENCY = 3
    #: Cycles from ``built`` to the cycle in which a lane writes the last entry: as long as a beat needs to its look-ups.
    WRITE_LATENCY = 5
    #: Cycles from ``release`` to the first cycle in which a lane writes an entry.
    RELEASE_LATENCY = 5

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "loaded": In(1),
            "taken": Out(1),
            "take": Out(1),
            "release": In(1),
            "built": Out(1),
            "build": Out(BuildBus(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rounds = rounds_of(self.config)
        free = Signal(range(BUFFERS + 1))
        buffer = Signal(init=1)  # the copy being built
        step = Signal(range(len(WALK)))
        base = Signal(range(GROUP * rounds))
        turn = Signal(rounds, init=1)  # one-hot: the round
        building = Signal()
        started = Signal()  # the cycle after ``start``
        clear = Signal()

        last_step, last = Signal(), Signal()
        m.d.comb += [
            last_step.eq(step == len(WALK) - 1),
            last.eq(building & last_step & turn[-1]),
            self.built.eq(building & turn[-1] & (step == len(WALK) - 1 - (self.WRITE_LATENCY - self.STEP_LATENCY))),
            self.taken.eq(self.loaded & (free != 0) & (~building | last)),
        ]
        m.d.comb += clear.eq(self.start | started)
        m.d.sync += [started.eq(self.start), self.take.eq(self.taken), free.eq(free + self.release - self.taken)]
        with m.If(building):
            m.d.sync += step.eq(step + 1)
            with m.If(last_step):
                m.d.sync += [step.eq(0), base.eq(base + GROUP), turn.eq(turn << 1)]
        with m.If(last):
            m.d.sync += building.eq(0)
        with m.If(self.taken):
            m.d.sync += [building.eq(1), step.eq(0), base.eq(0), turn.eq(1), buffer.eq(~buffer)]
        with m.If(self.start):
            m.d.sync += [free.eq(BUFFERS), buffer.eq(1)]

        operand = Signal(range(GROUP))
        entry, negate = Signal(INDEX_BITS), Signal()
        with m.Switch(step):
            for number, action in enumerate(WALK):
                with m.Case(number):
                    m.d.comb += [operand.eq(action.operand), entry.eq(action.entry), negate.eq(action.negate)]
        m.d.sync += [self.build.select.eq(base + operand), self.build.negate.eq(negate)]
        # Everything else is due one cycle later.
        following = {
            "entry": entry & (~clear).replicate(INDEX_BITS), "enable": building, "begin": step == 0, "clear": clear,
            "tables": (turn & building.replicate(rounds)) | clear.replicate(rounds), "buffer": Mux(clear, started, buffer),
        }
        for name, value in following.items():
            output = getattr(self.build, name)
            early = Signal.like(output, name=f"early_{name}")
            m.d.sync += [early.eq(value), output.eq(early)]
        return m
