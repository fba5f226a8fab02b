"""The weight ring: read-ahead memory between the ports and the operators."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import RowStream, index_bits
from .following import following
from .gather import BeatWrite

__all__ = ["UramRing"]

#: Bits of an UltraRAM's word, and of a block RAM's with as many rows.
ULTRA_BITS = 72
BLOCK_BITS = 9

#: Rows that may be fetched without asking the counter of rows: as many as it takes to count.
CREDITS = 3


class BeatMemory(wiring.Component):
    """``depth`` beats, one write and one read port; ``data`` is the beat at ``index`` of the last cycle with ``enable``.

    A few bits beyond whole UltraRAMs lie in block RAM.

    Members
    -------
    write, address, beat : In
    enable, index : In
    data : Out
    """

    def __init__(self, depth: int, bits: int, ram_style: str) -> None:
        self.depth, self.bits, self.ram_style = depth, bits, ram_style
        super().__init__({
            "write": In(1), "address": In(index_bits(depth)), "beat": In(bits),
            "enable": In(1), "index": In(index_bits(depth)), "data": Out(bits),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rest = self.bits % ULTRA_BITS if self.ram_style == "ultra" else 0
        body = self.bits - rest if rest <= BLOCK_BITS else self.bits
        for name, first, end, style in (("words", 0, body, self.ram_style), ("rest", body, self.bits, "block")):
            if first == end:
                continue
            m.submodules[name] = words = memory.Memory(
                shape=end - first, depth=self.depth, init=[], attrs={"ram_style": style}
            )
            write, read = words.write_port(), words.read_port()
            m.d.comb += [
                write.en.eq(self.write), write.addr.eq(self.address), write.data.eq(self.beat[first:end]),
                read.en.eq(self.enable), read.addr.eq(self.index), self.data[first:end].eq(read.data),
            ]
        return m


class UramRing(wiring.Component):
    """Ring of rows of ``groups`` beats, written in any order.

    A row that is complete leaves five cycles later; one row a cycle is sustained. A row that was taken is freed, except while
    ``hold`` is 1: then it is kept, and freed one row a cycle after ``hold`` falls, or read once more after ``rewind``.

    Members
    -------
    write : In(BeatWrite)
        Beats of rows that are free.
    complete : In
        That many more beats, in the order of their slots, are written.
    rows : Out(RowStream)
    hold : In(1)
        Level: keep the rows that are taken.
    rewind : In(1)
        Strobe, ``hold`` being 0: reading starts over at the oldest kept row. No row may be taken in the cycle of the strobe and the
        one after it; ``rows`` is withdrawn then.
    freed : Out(1)
        Strobe: one row was freed (two cycles after it was taken).
    level : Out
        Rows that are complete and not freed.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.depth = config.ring_beats // config.groups
        if self.depth < 2:
            raise ValueError(f"the ring must be at least 2 rows deep, not {self.depth!r}")
        super().__init__({
            "write": In(BeatWrite(config)),
            "complete": In(range(config.block_beats + 1)),
            "rows": Out(RowStream(config)),
            "hold": In(1),
            "rewind": In(1),
            "freed": Out(1),
            "level": Out(range(self.depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, depth = self.config, self.depth
        # Everything that counts works one cycle late, on registers.
        took, hold, rewind = Signal(), Signal(), Signal()
        m.d.sync += [took.eq(self.rows.valid & self.rows.ready), hold.eq(self.hold), rewind.eq(self.rewind)]

        more = self._complete_rows(m, rewind)
        # Rows taken and kept.
        kept, keeps = Signal(range(depth + 1)), Signal()
        free, free_index = Signal(), Signal(index_bits(depth))
        m.d.comb += [keeps.eq(kept != 0), free.eq(~hold & ~rewind & (took | keeps))]
        m.d.sync += [self.freed.eq(free), self.level.eq(self.level + more - free)]
        with m.If(free):
            m.d.sync += free_index.eq(following(free_index, depth))
        with m.If(rewind):
            m.d.sync += kept.eq(0)
        with m.Elif(took ^ free):
            m.d.sync += kept.eq(Mux(took, kept + 1, kept - 1))

        fetch, fetch_index = Signal(), Signal(index_bits(depth))
        credit = self._give_credit(m, more, fetch, rewind)
        # Two stages after the memory's address: its own output register and one more, both held while the row waits; ``blocked``
        # while both hold one. So the memory's enable, where the longest path through a reader ends, is one look-up table.
        fetched, shown, blocked, show = Signal(), Signal(), Signal(), Signal()
        ready = self.rows.ready
        m.d.comb += [
            self.rows.valid.eq(shown),
            show.eq(~shown | ready),
            fetch.eq(credit & (~blocked | ready)),  # in the cycle of a rewind to no effect
        ]
        with m.If(rewind):
            m.d.sync += [fetch_index.eq(free_index), fetched.eq(0), shown.eq(0), blocked.eq(0)]
        with m.Else():
            with m.If(fetch):
                m.d.sync += fetch_index.eq(following(fetch_index, depth))
            fetches, shows = credit | (blocked & ~ready), fetched | (shown & ~ready)
            m.d.sync += [fetched.eq(fetches), shown.eq(shows), blocked.eq(fetches & shows)]

        group_bits = config.groups.bit_length() - 1
        data = []
        for group in range(config.groups):
            m.submodules[f"group{group}"] = beats = BeatMemory(depth, 8 * config.beat_bytes, config.ring_memory)
            beat = Signal(8 * config.beat_bytes, name=f"shown{group}", reset_less=True)
            m.d.comb += [
                beats.write.eq(self.write.valid & (self.write.slot[:group_bits] == group)),
                beats.address.eq(self.write.slot[group_bits:]),
                beats.beat.eq(self.write.data),
                beats.enable.eq(fetch),
                beats.index.eq(fetch_index),
            ]
            with m.If(show & fetched):
                m.d.sync += beat.eq(beats.data)
            data.append(beat)
        m.d.comb += self.rows.payload.eq(Cat(data))
        return m

    def _complete_rows(self, m: Module, rewind: Signal) -> Signal:
        """Rows that became complete; none in the cycle of ``rewind``, when the level is read."""
        group_bits = self.config.groups.bit_length() - 1
        partial = Signal(group_bits) if group_bits else Const(0, 1)
        total = Signal(max(len(self.complete), group_bits) + 1)  # a row may be more beats than a block
        more, waiting = Signal(len(total) - group_bits), Signal(len(total) - group_bits)
        m.d.comb += [total.eq(self.complete + partial), more.eq(Mux(rewind, 0, waiting))]
        if group_bits:
            m.d.sync += partial.eq(total[:group_bits])
        # Bursts are complete in single cycles, far apart compared with the one that a rewind takes.
        m.d.sync += waiting.eq(total[group_bits:] + Mux(rewind, waiting, 0))
        return more

    def _give_credit(self, m: Module, more: Value, fetch: Signal, rewind: Signal) -> Signal:
        """Whether a row may be fetched: a few are granted ahead, out of those that are complete and not fetched."""
        unread = Signal(range(self.depth + 1))
        granted = Signal(CREDITS)  # bit k: more than k
        grant, any_unread = Signal(), Signal()
        m.d.comb += [any_unread.eq(unread != 0), grant.eq(any_unread & ~granted[-1])]
        with m.If(rewind):
            m.d.sync += [unread.eq(self.level), granted.eq(0)]
        with m.Else():
            m.d.sync += unread.eq(unread + more - grant)
            with m.If(grant & ~fetch):
                m.d.sync += granted.eq(Cat(Const(1, 1), granted))
            with m.Elif(fetch & ~grant):
                m.d.sync += granted.eq(granted[1:])
        return granted[0]

