"""Trace memory: when every operator of a pass started and ended, and how full the ring was."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...operators import Unit
from ...registers import TRACE_WORDS
from ..interfaces import index_bits
from .sequencer import Retired

__all__ = ["TraceMemory"]

WORD_BITS = 32


class TraceMemory(wiring.Component):
    """Keeps an entry for each of the first ``trace_entries`` operators of a pass, in the order in which they retire; then it
    is full and keeps what it has. The words of an entry are those of the register TRACE.

    Members
    -------
    clear : In(1)
        Strobe: the doorbell. Its cycle is number 0.
    starts : In, one bit a `Unit`
        Strobes: an operator starts.
    retire : In(1)
        Strobe: ``retired`` has ended.
    retired : In(Retired)
    level : In
        Rows in the ring.
    count : Out
        Entries written since ``clear``.
    index : In
        Word to read: ``TRACE_WORDS * entry + word``.
    word : Out(32)
        Word ``index`` of the cycle before.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "clear": In(1),
            "starts": In(len(Unit)),
            "retire": In(1),
            "retired": In(Retired(config)),
            "level": In(range(config.ring_beats // config.groups + 1)),
            "count": Out(range(config.trace_entries + 1)),
            "index": In(index_bits(TRACE_WORDS * config.trace_entries)),
            "word": Out(WORD_BITS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        cycle = Signal(WORD_BITS)
        with m.If(self.clear):
            m.d.sync += cycle.eq(1)
        with m.Else():
            m.d.sync += cycle.eq(cycle + 1)
        level = Signal(WORD_BITS // 2)
        m.d.comb += level.eq(self._beats(self.level, len(level)))

        begun = Signal(len(cycle) + len(level))
        for unit in Unit:
            start = Signal(len(begun), name=f"start_{unit.name.lower()}", reset_less=True)
            with m.If(self.starts[unit]):
                m.d.sync += start.eq(Cat(cycle, level))
            with m.If(self.retired.unit[unit]):
                m.d.comb += begun.eq(start)

        depth = config.trace_entries
        m.submodules.entries = entries = memory.Memory(
            shape=TRACE_WORDS * WORD_BITS, depth=depth, init=[], attrs={"ram_style": "block"}
        )
        write, read = entries.write_port(), entries.read_port()
        tag, opcode = Signal(16), Signal(8)
        m.d.comb += [
            tag.eq(self.retired.tag),
            opcode.eq(self.retired.opcode),
            write.en.eq(self.retire & (self.count != depth)),
            write.addr.eq(self.count),
            write.data.eq(Cat(
                begun[:WORD_BITS], cycle,
                tag, opcode, (self.retired.count | Const(0, 8))[:8],
                begun[WORD_BITS:], level,
            )),
        ]
        with m.If(self.clear):
            m.d.sync += self.count.eq(0)
        with m.Elif(write.en):
            m.d.sync += self.count.eq(self.count + 1)

        part_bits = bits_for(TRACE_WORDS - 1)
        part = Signal(part_bits)
        m.d.sync += part.eq(self.index)
        m.d.comb += [read.addr.eq(self.index[part_bits:]), self.word.eq(read.data.word_select(part, WORD_BITS))]
        return m

    def _beats(self, rows: Value, bits: int) -> Value:
        """Beats in the ring, at most what ``bits`` can tell."""
        beats, most = rows * self.config.groups, (1 << bits) - 1
        return Mux(beats > most, most, beats) if self.config.ring_beats > most else beats
