"""The weight ring: read-ahead memory between the ports and the operators."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import RowStream, index_bits
from .port import WordStrobe

__all__ = ["UramRing"]


def following(index: Signal, depth: int) -> Value:
    """The index after ``index`` in a circular memory of ``depth`` entries."""
    return Mux(index == depth - 1, Const(0, len(index)), index + 1)


class UramRing(wiring.Component):
    """Ring of rows of ``groups`` beats. Every port writes its own bank, so that ports may run apart; a row can be read
    when all banks hold it.

    The ring never refuses a word: each port reader knows from ``freed`` how much room is left. A row leaves three cycles
    after its last word came; one row a cycle is sustained. A row that was taken is freed at once, except while ``hold``
    is 1: then it is kept, and freed one row a cycle after ``hold`` falls, or read once more after ``rewind``.

    Members
    -------
    words : In(WordStrobe) per port
    rows : Out(RowStream)
    hold : In(1)
        Level: keep the rows that are taken.
    rewind : In(1)
        Strobe: reading starts over at the oldest kept row; ``rows`` is invalid in the cycle of the strobe.
    freed : Out(1)
        Strobe: one row was freed (the cycle after).
    level : Out
        Rows that are complete and not freed.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.depth = config.ring_beats // config.groups
        if self.depth < 2:
            raise ValueError(f"the ring must be at least 2 rows deep, not {self.depth!r}")
        super().__init__({
            "words": In(WordStrobe(config)).array(config.ports),
            "rows": Out(RowStream(config)),
            "hold": In(1),
            "rewind": In(1),
            "freed": Out(1),
            "level": Out(range(self.depth + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, depth = self.config, self.depth
        bits = index_bits(depth)
        fetch_index, free_index = Signal(bits), Signal(bits)
        fetch, take, free, complete = Signal(), Signal(), Signal(), Signal()
        #: Complete rows that were not fetched; rows taken and kept.
        unread, kept = Signal(range(depth + 1)), Signal(range(depth + 1))
        # Two stages after the memory's address: its own output register and one more, both held while the row waits.
        fetched, shown = Signal(), Signal()
        advance, show = Signal(), Signal()

        m.d.comb += [
            self.rows.valid.eq(shown & ~self.rewind),
            take.eq(self.rows.valid & self.rows.ready),
            show.eq(~shown | self.rows.ready),
            advance.eq(~fetched | show),
            fetch.eq((unread != 0) & advance & ~self.rewind),
            free.eq(~self.hold & ~self.rewind & (take | (kept != 0))),
        ]

        pending, data = [], []
        for port, words in enumerate(self.words):
            m.submodules[f"bank{port}"] = bank = memory.Memory(
                shape=config.groups * config.port_bits, depth=depth, init=[], attrs={"ram_style": config.ring_memory}
            )
            write, read = bank.write_port(), bank.read_port()
            row_ready = Signal(name=f"row_ready{port}")
            # The first words of a row wait in registers until its last one comes.
            earlier = [Signal(config.port_bits, name=f"earlier{port}_{g}", reset_less=True) for g in range(config.groups - 1)]
            part = Signal(index_bits(config.groups), name=f"part{port}")
            with m.If(words.valid):
                m.d.sync += part.eq(Mux(part == config.groups - 1, 0, part + 1))
            for number, register in enumerate(earlier):
                with m.If(words.valid & (part == number)):
                    m.d.sync += register.eq(words.data)
            m.d.comb += [
                row_ready.eq(words.valid & (part == config.groups - 1)),
                write.en.eq(row_ready),
                write.data.eq(Cat(*earlier, words.data)),
                read.en.eq(fetch),
                read.addr.eq(fetch_index),
            ]
            with m.If(row_ready):
                m.d.sync += write.addr.eq(following(write.addr, depth))
            ahead = Signal(range(depth + 1), name=f"ahead{port}")
            m.d.sync += ahead.eq(ahead + row_ready - complete)
            pending.append(ahead != 0)
            shown_word = Signal(config.groups * config.port_bits, name=f"shown{port}", reset_less=True)
            with m.If(show & fetched):
                m.d.sync += shown_word.eq(read.data)
            data.append(shown_word)
        m.d.comb += complete.eq(Cat(*pending).all())

        # A row's beats are its words of all ports, group by group.
        width = config.port_bits
        m.d.comb += self.rows.payload.eq(
            Cat(word[g * width : (g + 1) * width] for g in range(config.groups) for word in data)
        )

        m.d.sync += [self.freed.eq(free), self.level.eq(self.level + complete - free)]
        with m.If(free):
            m.d.sync += free_index.eq(following(free_index, depth))
        with m.If(self.rewind):
            m.d.sync += [
                fetch_index.eq(free_index),
                unread.eq(self.level + complete),
                kept.eq(0),
                fetched.eq(0),
                shown.eq(0),
            ]
        with m.Else():
            m.d.sync += [unread.eq(unread + complete - fetch), kept.eq(kept + take - free)]
            with m.If(fetch):
                m.d.sync += fetch_index.eq(following(fetch_index, depth))
            with m.If(advance):
                m.d.sync += fetched.eq(fetch)
            with m.If(show):
                m.d.sync += shown.eq(fetched)
        return m
