"""One token lane: the tables of one token's activations, and the accumulators of its rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature

from ...config import BuildConfig
from ..interfaces import MemoryWrite, index_bits
from .schedule import BUFFERS, BuildBus, LoadBus, rounds_of
from .tables import ENTRY_BITS, TableBuilder, add_or_subtract
from .trits import GROUP, INDEX_BITS

__all__ = ["AccumulateBus", "TernaryLane"]


def AccumulateBus(config: BuildConfig) -> Signature:
    """Words of the accumulator memory: ``read``, and ``write`` with the row block ``write_part`` (one-hot) of it."""
    word = index_bits(config.max_rows // config.width)
    return Signature({"read": Out(word), "write": Out(word), "write_part": Out(config.vector_blocks)})


class TernaryLane(wiring.Component):
    """Looks up the partial sums of ``rows`` rows for one token, adds them, accumulates over slices; one beat a cycle.

    ::

        cycle     0          1 .. levels      levels + 1          levels + 2
                  look up    adder tree       row +- sum          write
                  entries    (a level each)   (accumulators)      accumulators

    Members:

    * ``active``: In, the lane has a token. Without it nothing is built, looked up or accumulated. Stable while any of
      that goes on.
    * ``activation``: In, writes of ``width`` int8 activations.
    * ``load``, ``build``: In, from `TableSchedule`.
    * ``look_up``: In, codes of a beat are at ``index`` (cycle 0), for table copy ``buffer``.
    * ``index``, ``negate``: In, from `TritDecoder`; ``negate`` bits arrive in the cycle of their adders.
    * ``accumulate``: In. ``read`` is due in cycle ``levels`` - 1, ``write`` and ``write_part`` in cycle ``levels`` + 2.
    * ``keep``: In, for every row block of a word: in the cycle after ``read``, put the word's block into ``blocks``;
      without it that block becomes zero. A beat keeps the one block it adds to, or none in the first slice; a reader
      keeps what it wants.
    * ``blocks[p]``: Out, the kept row blocks (``rows`` accumulators each), two cycles after ``read``.

    A row block may be used again `ACCUMULATE_CYCLES` cycles later.
    """

    #: Cycles from one beat of a row block to the next that finds its sum.
    ACCUMULATE_CYCLES = 4

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        #: Levels of the adder tree over the tables of a row.
        self.levels = (config.tables - 1).bit_length()
        super().__init__({
            "active": In(1),
            "activation": In(MemoryWrite(config.max_inputs // config.width, 8 * config.width)),
            "load": In(LoadBus(config)),
            "build": In(BuildBus(config)),
            "look_up": In(1),
            "buffer": In(1),
            "index": In(data.ArrayLayout(INDEX_BITS, config.tables)).array(config.rows),
            "negate": In(config.tables).array(config.rows),
            "accumulate": In(AccumulateBus(config)),
            "keep": In(config.vector_blocks),
            "blocks": Out(config.rows * config.acc_bits).array(config.vector_blocks),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config

        # valid[i]: the registers of cycle i take a new value at its end.
        valid: list[Value] = [self.look_up & self.active]
        for cycle in range(1, self.levels + 3):
            register = Signal(name=f"valid_{cycle}")
            m.d.sync += register.eq(valid[-1])
            valid.append(register)

        window = self._load(m)
        entries = self._build(m, window)
        sums = []
        for row in range(config.rows):
            names = [f"entry_{row}_{table}" for table in range(config.tables)]
            values = [Signal(signed(ENTRY_BITS), name=name, reset_less=True) for name in names]
            with m.If(valid[0]):
                m.d.sync += [value.eq(entry) for value, entry in zip(values, entries[row], strict=True)]
            sums.append(self._tree(m, valid, values, row))
        self._accumulate(m, valid, sums)
        return m

    def _load(self, m: Module) -> list[Value]:
        """The activations of a slice, byte by byte."""
        config = self.config
        m.submodules.activations = activations = Memory(
            shape=8 * config.width, depth=config.max_inputs // config.width, init=[], attrs={"ram_style": "block"}
        )
        write, read = activations.write_port(), activations.read_port()
        m.d.comb += [
            write.en.eq(self.activation.valid),
            write.addr.eq(self.activation.addr),
            write.data.eq(self.activation.data),
            read.addr.eq(self.load.addr),
        ]
        part = Signal(8 * config.load_bytes)
        m.d.comb += part.eq(read.data.word_select(self.load.part, len(part)))
        window: list[Value] = []
        for number in range(config.slice_inputs // config.load_bytes):
            chunk = Signal(8 * config.load_bytes, name=f"chunk_{number}", reset_less=True)
            with m.If(self.load.chunks[number] & self.active):
                m.d.sync += chunk.eq(part)
            window += [chunk.word_select(i, 8) for i in range(config.load_bytes)]
        return window

    def _build(self, m: Module, window: list[Value]) -> list[list[Value]]:
        """The tables; returns their entries for every row. Builder b fills tables b, b + builders, ..."""
        config = self.config
        rounds = rounds_of(config)
        address = Signal(INDEX_BITS + 1, reset_less=True)
        write = Signal(rounds)
        m.d.sync += [
            address.eq(Cat(self.build.entry, self.build.buffer)),
            write.eq(self.build.tables & self.active.replicate(rounds)),
        ]
        entries: list[list[Value]] = [[] for _ in range(config.rows)]
        builders = []
        for number in range(config.builders):
            m.submodules[f"builder_{number}"] = builder = TableBuilder(rounds)
            builders.append(builder)
            m.d.comb += [
                builder.select.eq(self.build.select),
                builder.enable.eq(self.build.enable & self.active),
                builder.negate.eq(self.build.negate),
                builder.clear.eq(self.build.clear),
            ]
        for table in range(config.tables):
            turn, number = divmod(table, config.builders)
            for j in range(GROUP):
                source = GROUP * table + j
                operand = window[source] if source < len(window) else Const(0, 8)
                m.d.comb += builders[number].operands[GROUP * turn + j].eq(operand.as_signed())
            m.submodules[f"table_{table}"] = memory = Memory(
                shape=signed(ENTRY_BITS), depth=BUFFERS << INDEX_BITS, init=[], attrs={"ram_style": "distributed"}
            )
            port = memory.write_port()
            m.d.comb += [port.en.eq(write[turn]), port.addr.eq(address), port.data.eq(builders[number].entry)]
            for row in range(config.rows):
                read = memory.read_port(domain="comb")
                m.d.comb += read.addr.eq(Cat(self.index[row][table], self.buffer))
                entries[row].append(read.data)
        return entries

    def _tree(self, m: Module, valid: list[Value], values: list[Value], row: int) -> Value:
        """Signed sum of a row; each level adds neighbours and takes one cycle."""
        for level in range(self.levels):
            following: list[Value] = []
            with m.If(valid[1 + level]):
                for left in range(0, len(values), 2):
                    if left + 1 < len(values):
                        right = (left + 1) << level  # first table of the right operand
                        bits = ENTRY_BITS + level + 1
                        total = add_or_subtract(values[left], values[left + 1], self.negate[row][right], bits)
                    else:
                        total = values[left]
                    node = Signal(signed(len(total)), name=f"sum_{row}_{level}_{left // 2}", reset_less=True)
                    m.d.sync += node.eq(total)
                    following.append(node)
            values = following
        return values[0]

    def _accumulate(self, m: Module, valid: list[Value], sums: list[Value]) -> None:
        config = self.config
        new = Signal(config.rows * config.acc_bits, reset_less=True)
        for part in range(config.vector_blocks):
            m.submodules[f"accumulators_{part}"] = memory = Memory(
                shape=config.rows * config.acc_bits, depth=config.max_rows // config.width, init=[],
                attrs={"ram_style": "block"},
            )  # fmt: skip
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                read.addr.eq(self.accumulate.read),
                write.addr.eq(self.accumulate.write),
                write.en.eq(valid[self.levels + 2] & self.accumulate.write_part[part]),
                write.data.eq(new),
            ]
            with m.If(self.keep[part]):
                m.d.sync += self.blocks[part].eq(read.data)
            with m.Else():
                m.d.sync += self.blocks[part].eq(0)
        # Blocks that are not kept are zero: to select is to merge.
        merged = Signal(config.rows * config.acc_bits)
        expression = self.blocks[0]
        for block in list(self.blocks)[1:]:
            expression = expression | block
        m.d.comb += merged.eq(expression)
        with m.If(valid[self.levels + 1]):
            for row in range(config.rows):
                old = merged.word_select(row, config.acc_bits).as_signed()
                total = add_or_subtract(old, sums[row], self.negate[row][0], config.acc_bits)
                m.d.sync += new.word_select(row, config.acc_bits).eq(total)
