"""The order in which all lanes load a slice of their activations and build its tables."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from ...config import BuildConfig
from ..interfaces import index_bits
from .tables import TABLE_ENTRIES, WALK
from .trits import GROUP, INDEX_BITS

__all__ = ["BUFFERS", "BuildBus", "LoadBus", "TableSchedule", "rounds_of"]

#: Copies of every table: one in use, one being built.
BUFFERS = 2


def rounds_of(config: BuildConfig) -> int:
    """Tables that one builder fills in a slice."""
    return config.tables // config.builders


def LoadBus(config: BuildConfig) -> Signature:
    """Read word ``addr`` of the activation memory; one cycle later keep its ``part``-th ``load_bytes`` bytes as every
    chunk of the slice whose bit of ``chunks`` is set."""
    return Signature({
        "addr": Out(index_bits(config.max_inputs // config.width)),
        "part": Out(index_bits(config.width // config.load_bytes)),
        "chunks": Out(config.slice_inputs // config.load_bytes),
    })  # fmt: skip


def BuildBus(config: BuildConfig) -> Signature:
    """Steps of the table builders: ``select``, ``enable``, ``negate`` and ``clear`` as `TableBuilder` takes them. One cycle
    after ``enable`` the entries are complete; ``tables`` (a bit for every round, aligned with ``enable``) says whose
    entry ``entry`` of copy ``buffer`` they are."""
    return Signature({
        "select": Out(index_bits(GROUP * rounds_of(config))),
        "enable": Out(1),
        "negate": Out(1),
        "clear": Out(1),
        "tables": Out(rounds_of(config)),
        "entry": Out(INDEX_BITS),
        "buffer": Out(1),
    })  # fmt: skip


class TableSchedule(wiring.Component):
    """Loads and builds the slices of one LINEAR operator, one after the other.

    Members:

    * ``start``: In, strobe: begin with slice 0; all table copies are free.
    * ``slices``: In, slices of the operator (at least 1), stable until the last ``built``.
    * ``release``: In, strobe: one table copy is free again.
    * ``load``, ``build``: Out, to every lane.
    * ``built``: Out, strobe: the tables of one more slice are complete `WRITE_LATENCY` cycles later. Copies alternate,
      beginning with copy 0.

    A slice takes ``slice_inputs / load_bytes`` + 1 cycles to load and ``14 * tables / builders`` cycles to build.
    Loading waits for no table copy; building does, and writes its first entry at least `RELEASE_LATENCY` cycles after
    ``release``.
    """

    #: Cycles from ``built`` to the cycle in which a lane writes the last entry.
    WRITE_LATENCY = 3
    #: Cycles from ``release`` to the first cycle in which a lane writes an entry.
    RELEASE_LATENCY = 5

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "slices": In(16),
            "release": In(1),
            "built": Out(1),
            "load": Out(LoadBus(config)),
            "build": Out(BuildBus(config)),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        rounds = rounds_of(config)
        chunks = config.slice_inputs // config.load_bytes
        parts = config.width // config.load_bytes

        # Slices follow each other in the activation memory without a gap: one counter runs through all of them.
        position = Signal(len(self.load.addr) + (parts - 1).bit_length())
        chunk = Signal(range(chunks))
        left = Signal(16)
        free = Signal(range(BUFFERS + 1))
        buffer = Signal()
        step = Signal(range(TABLE_ENTRIES))
        base = Signal(range(GROUP * rounds + 1))
        turn = Signal(rounds, init=1)  # one-hot: the round
        begin = Signal()

        m.d.sync += free.eq(free + self.release - begin)
        read = Signal()
        part_bits = (parts - 1).bit_length()
        m.d.comb += self.load.addr.eq(position >> part_bits)
        if parts > 1:
            m.d.sync += self.load.part.eq(position[:part_bits])
        m.d.sync += self.load.chunks.eq(Mux(read, 1 << chunk, 0))

        building = Signal()
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [position.eq(0), chunk.eq(0), buffer.eq(0), left.eq(self.slices)]
                with m.If(self.start):
                    m.d.sync += free.eq(BUFFERS)
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += read.eq(1)
                m.d.sync += [position.eq(position + 1), chunk.eq(chunk + 1)]
                with m.If(chunk == chunks - 1):
                    m.d.sync += [chunk.eq(0), left.eq(left - 1)]
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.sync += [step.eq(0), base.eq(0), turn.eq(1)]
                with m.If(free != 0):
                    m.d.comb += begin.eq(1)
                    m.next = "BUILD"
            with m.State("BUILD"):
                m.d.comb += building.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == TABLE_ENTRIES - 1):
                    m.d.sync += [step.eq(0), base.eq(base + GROUP), turn.eq(turn << 1)]
                    with m.If(turn[-1]):
                        m.d.comb += self.built.eq(1)
                        m.d.sync += buffer.eq(~buffer)
                        with m.If(left == 0):
                            m.next = "IDLE"
                        with m.Else():
                            # The last operand is selected while the first word of the next slice is read.
                            m.next = "LOAD"

        operand = Signal(range(GROUP))
        walk = {"entry": Signal(INDEX_BITS), "negate": Signal(), "clear": Signal()}
        with m.Switch(step):
            for number, action in enumerate(WALK):
                with m.Case(number):
                    m.d.comb += [
                        operand.eq(action.operand),
                        walk["entry"].eq(action.entry),
                        walk["negate"].eq(action.negate),
                        walk["clear"].eq(number == 0),
                    ]
        m.d.sync += self.build.select.eq(base + operand)
        # Everything but the selection is due one cycle later.
        following = {**walk, "enable": building, "tables": Mux(building, turn, 0), "buffer": buffer}
        for name, value in following.items():
            output = getattr(self.build, name)
            early = Signal.like(output, name=f"early_{name}")
            m.d.sync += [early.eq(value), output.eq(early)]
        return m
