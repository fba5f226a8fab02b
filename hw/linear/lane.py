"""One token lane: the tables of one token's activations, and the accumulators of its rows."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, Signature

from ...config import BuildConfig
from ..interfaces import index_bits
from .activations import LoadBus, load_parts
from .parity import accumulator_words
from .schedule import BUFFERS, BuildBus, rounds_of
from .tables import ENTRY_BITS, TableBuilder, add_inverted, add_or_subtract
from .trits import GROUP, INDEX_BITS

__all__ = ["AccumulateBus", "TernaryLane"]


def AccumulateBus(config: BuildConfig) -> Signature:
    """What the accumulators do, counted from the look-up of a beat in cycle 0 and with ``levels`` of the adder tree:

    * ``keep`` in cycle ``levels``: part (one-hot) of the word read one cycle before that the beat adds to; none in the
      first slice.
    * ``add`` in cycle ``levels`` + 2: add the beat.
    * ``write`` and ``write_part`` in cycle ``levels`` + 3: address and part (one-hot; none without a beat) of its sum.
    """
    return Signature({
        "keep": Out(config.vector_blocks),
        "add": Out(1),
        "write": Out(index_bits(accumulator_words(config))),
        "write_part": Out(config.vector_blocks),
    })  # fmt: skip


class TernaryLane(wiring.Component):
    """Looks up the partial sums of ``rows`` rows for one token, adds them, accumulates over slices; one beat a cycle.

    ::

        cycle   0          1 .. levels     levels + 1    levels + 2    levels + 3
                look up    adder tree      sign          row + sum     write
                entries    (a level each)                (own, syndrome)

    Members:

    * ``active``: In, the lane has a token. Without it nothing is built, looked up or accumulated. Stable while any of
      that goes on.
    * ``load``, ``here``: In, activations that arrive, and that they are this lane's.
    * ``take``, ``build``: In, from `TableSchedule`.
    * ``look_up``: In, codes of a beat are at ``index`` (cycle 0), for table copy ``buffer``.
    * ``index``, ``negate``: In, from `TritDecoder`; ``negate`` bits arrive in the cycle of their adders.
    * ``accumulate``: In, from the engine.
    * ``read``: In, address in the accumulators: the beat's in cycle ``levels`` - 1, or the one that DRAIN reads.
    * ``own``: Out, two cycles after ``read``, the kept row block; zero without a token. ``syndrome``: In, three cycles after
      ``read``, and ``repair``: In, with it: DRAIN had the port, the beat's row block is ``own ^ syndrome``.
    * ``sum``: Out, the sums in the cycle in which they are written; zero without a token.
    * ``show``: In, one cycle after ``read``: parts of the word to put into ``blocks``; the others become zero.
    * ``blocks[p]``: Out, the shown row blocks (``rows`` accumulators each), two cycles after ``read``.

    A row block may be used again `ACCUMULATE_CYCLES` cycles later.
    """

    #: Cycles from one beat of a row block to the next that finds its sum, also in the parity.
    ACCUMULATE_CYCLES = 6

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        #: Levels of the adder tree over the tables of a row.
        self.levels = (config.tables - 1).bit_length()
        block = config.rows * config.acc_bits
        super().__init__({
            "active": In(1),
            "load": In(LoadBus(config)),
            "here": In(1),
            "take": In(1),
            "build": In(BuildBus(config)),
            "look_up": In(1),
            "buffer": In(1),
            "index": In(data.ArrayLayout(INDEX_BITS, config.tables)).array(config.rows),
            "negate": In(config.tables).array(config.rows),
            "accumulate": In(AccumulateBus(config)),
            "read": In(index_bits(accumulator_words(config))),
            "own": Out(block),
            "repair": In(1),
            "syndrome": In(block),
            "sum": Out(block),
            "show": In(config.vector_blocks),
            "blocks": Out(block).array(config.vector_blocks),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config

        # valid[i]: the registers of cycle i take a new value at its end.
        valid: list[Value] = [self.look_up & self.active]
        for cycle in range(1, self.levels + 2):
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
        """The activations of a slice, byte by byte. The next slice arrives in a second copy."""
        config = self.config
        parts, chunks = load_parts(config)
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
        kept: list[Value] = []
        for part in range(config.vector_blocks):
            m.submodules[f"accumulators_{part}"] = memory = Memory(
                shape=len(self.sum), depth=accumulator_words(config), init=[], attrs={"ram_style": "block"}
            )
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                read.addr.eq(self.read),
                write.addr.eq(self.accumulate.write),
                write.en.eq(self.accumulate.write_part[part] & self.active),
                write.data.eq(self.sum),
            ]
            kept_part = Signal(len(self.sum), name=f"kept_{part}", reset_less=True)
            with m.If(self.accumulate.keep[part] & self.active):
                m.d.sync += kept_part.eq(read.data)
            with m.Else():
                m.d.sync += kept_part.eq(0)
            kept.append(kept_part)
            with m.If(self.show[part]):
                m.d.sync += self.blocks[part].eq(read.data)
            with m.Else():
                m.d.sync += self.blocks[part].eq(0)
        # Parts that are not kept are zero: to select is to merge.
        own = Signal(len(self.sum), reset_less=True)
        m.d.comb += self.own.eq(reduce(or_, kept))
        m.d.sync += own.eq(self.own)
        for row in range(config.rows):
            negate = Signal(name=f"minus_{row}", reset_less=True)
            inverted = Signal(signed(len(sums[row])), name=f"signed_{row}", reset_less=True)
            with m.If(valid[self.levels + 1]):
                m.d.sync += [
                    negate.eq(self.negate[row][0]),
                    inverted.eq(sums[row] ^ self.negate[row][0].replicate(len(inverted))),
                ]
            bits = slice(row * config.acc_bits, (row + 1) * config.acc_bits)
            old = own[bits] ^ (self.syndrome[bits] & self.repair.replicate(config.acc_bits))
            total = add_inverted(inverted, old, negate, config.acc_bits)
            with m.If(~self.active):
                m.d.sync += self.sum[bits].eq(0)
            with m.Elif(self.accumulate.add):
                m.d.sync += self.sum[bits].eq(total)
