"""One token lane: the tables of one token's activations, and the accumulators of its rows."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from ...config import BuildConfig
from ...numerics import GROUP_SCALE_MAX
from ..multiply_add import MultiplyAdd, PreAddMultiplyAdd
from .accumulators import AccumulatingLane
from .activations import LoadBus, load_parts
from .schedule import BUFFERS, BuildBus, rounds_of
from .tables import ENTRY_BITS, TableBuilder, add_or_subtract
from .trits import GROUP, INDEX_BITS

__all__ = ["TernaryLane", "factor_bits"]

#: Rows that read one memory of a table: a RAM32M16 holds two bits of 32 entries with one write port and seven read ports, so that
#: an entry takes five of them for seven rows, 40 look-up tables where seven memories with one read port take 56.
SHARED_ROWS = 7


def factor_bits(config: BuildConfig) -> int:
    """Bits of what the sum of a row is multiplied by: the scale of a group, or 1, with the sign of the row."""
    return (GROUP_SCALE_MAX.bit_length() if config.has_groups else 1) + 1


class TernaryLane(AccumulatingLane):
    """Looks up the partial sums of ``rows`` rows for one token, adds them, accumulates over slices; one beat a cycle.

    ::

        cycle   0          1 .. levels     levels + 1      levels + 2         levels + 3
                look up    adder tree      row * factor    product + sum      write
                entries    (a level each)                  (own, syndrome)

    A DSP slice a row is the last level of the tree, multiplies, and adds to the accumulator.

    Members
    -------
    (those of `AccumulatingLane`, whose cycle 3 is cycle ``levels`` + 2 here)
    active : In(1)
        The lane has a token. Without it nothing is built, looked up or accumulated. Stable while any of that goes on.
    load : In(LoadBus), here : In(1)
        Activations that arrive, and that they are this lane's.
    take, build : In
        From `TableSchedule`.
    look_up : In
        Codes of a beat are at ``index`` (cycle 0), for table copy ``buffer``.
    index, negate : In
        From `TritDecoder`; ``negate`` bits of tables above 0 arrive in the cycle of their adders.
    factor : In
        Of every row, in cycle ``levels`` + 1.
    """

    #: Cycles from the last level of the adder tree to the cycle in which a beat is added.
    ADD = 2

    def __init__(self, config: BuildConfig) -> None:
        #: Levels of the adder tree over the tables of a row.
        self.levels = (config.tables - 1).bit_length()
        super().__init__(config, config.ternary_acc_bits, {
            "load": In(LoadBus(config, config.slice_inputs)),
            "here": In(1),
            "take": In(1),
            "build": In(BuildBus(config)),
            "look_up": In(1),
            "buffer": In(1),
            "index": In(data.ArrayLayout(INDEX_BITS, config.tables)).array(config.rows),
            "negate": In(config.tables).array(config.rows),
            "factor": In(signed(factor_bits(config))).array(config.rows),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config

        # valid[i]: the registers of cycle i take a new value at its end.
        valid: list[Value] = [self.look_up & self.active]
        for cycle in range(1, self.levels + 1):
            register = Signal(name=f"valid_{cycle}")
            m.d.sync += register.eq(valid[-1])
            valid.append(register)

        window = self._load(m)
        entries = self._build(m, window)
        kept = self._kept(m)
        for row in range(config.rows):
            names = [f"entry_{row}_{table}" for table in range(config.tables)]
            values = [Signal(signed(ENTRY_BITS), name=name, reset_less=True) for name in names]
            with m.If(valid[0]):
                m.d.sync += [value.eq(entry) for value, entry in zip(values, entries[row], strict=True)]
            last = self._tree(m, valid, values, row)
            add: MultiplyAdd | PreAddMultiplyAdd
            if self.levels:
                add = PreAddMultiplyAdd()
                m.d.comb += [
                    add.d.eq(last[0]), add.a.eq(last[1]), add.subtract.eq(self.negate[row][1 << self.levels - 1]),
                    add.enable.eq(valid[self.levels]),
                ]
            else:
                add = MultiplyAdd(operand_registers=False)
                m.d.comb += add.a.eq(last[0])
            m.submodules[f"multiply_add_{row}"] = add
            m.d.comb += [
                add.b.eq(self.factor[row]), add.clear.eq(~self.active), add.addend.eq(kept[row]),
                self.sum.word_select(row, self.acc_bits).eq(add.result),
            ]
        return m

    def _load(self, m: Module) -> list[Value]:
        """The activations of a slice, byte by byte. The next slice arrives in a second copy."""
        config = self.config
        parts, chunks = load_parts(config, config.slice_inputs)
        chunk_bits = 8 * config.width // parts
        window: list[Value] = []
        for number in range(chunks):
            arrived = Signal(chunk_bits, name=f"arrived_{number}", reset_less=True)
            chunk = Signal(chunk_bits, name=f"chunk_{number}", reset_less=True)
            with m.If(self.load.chunks[number] & self.here):
                m.d.sync += arrived.eq(self.load.data.word_select(number % parts, chunk_bits))
            with m.If(self.take):
                m.d.sync += chunk.eq(arrived)
            window += [chunk.word_select(i, 8) for i in range(chunk_bits // 8)]
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
                builder.begin.eq(self.build.begin),
                builder.clear.eq(self.build.clear),
            ]
        for table in range(config.tables):
            turn, number = divmod(table, config.builders)
            for j in range(GROUP):
                source = GROUP * table + j
                operand = window[source] if source < len(window) else Const(0, 8)
                m.d.comb += builders[number].operands[GROUP * turn + j].eq(operand.as_signed())
            for first in range(0, config.rows, SHARED_ROWS):
                m.submodules[f"table_{table}_{first}"] = memory = Memory(
                    shape=signed(ENTRY_BITS), depth=BUFFERS << INDEX_BITS, init=[], attrs={"ram_style": "distributed"}
                )
                port = memory.write_port()
                m.d.comb += [port.en.eq(write[turn]), port.addr.eq(address), port.data.eq(builders[number].entry)]
                for row in range(first, min(first + SHARED_ROWS, config.rows)):
                    read = memory.read_port(domain="comb")
                    m.d.comb += read.addr.eq(Cat(self.index[row][table], self.buffer))
                    entries[row].append(read.data)
        return entries

    def _tree(self, m: Module, valid: list[Value], values: list[Value], row: int) -> list[Value]:
        """Signed sums of a row, two, or one of one table; each level adds neighbours and takes one cycle."""
        for level in range(self.levels - 1):
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
        return values
