"""Blocks of vocabulary rows with the best scores of the ternary head."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import index_bits
from .candidates import INDEX_BITS, CandidateList, ordered

__all__ = ["READ_CYCLES", "ShortList"]

#: Cycles from an entry of the second reader to its block, at most, where the first one reads once in five cycles.
READ_CYCLES = 3


class ShortList(wiring.Component):
    """For every wanted token a sorted list of the ``config.shortlist`` blocks of ``kv_block`` rows whose best row scores highest;
    of equal ones the smaller number comes first.

    Scores come as vectors, rows ascending, token after token. The best row of a block enters the token's list; a block that goes on
    in the next panel leaves its best row so far.

    ::

        IDLE - OPEN - TAKE (vectors of a token) - SETTLE -> OPEN of the next token, or IDLE

    Members
    -------
    start : In(1), first_row, rows, vectors, list, tokens : In
        Strobe: vectors of ``tokens`` tokens follow, the first one's list being ``list``, ``vectors`` of each: rows ``first_row``
        and more of ``rows``. Row 0 begins a new list. They do not change until the last vector.
    valid : In(1), scores : In
        ``width`` float32 scores; the first of a token only while not ``busy``.
    busy : Out(1)
        A list is not ready for the next token's vectors; from the cycle after ``start``, and from two cycles after a token's last
        vector.
    complete : Out(1)
        No score is on its way to a list, and none was in the cycle before. The cycle after ``start`` is the first that knows of it.
    number, index : In, block : Out, for two readers, while ``complete``
        Entry ``index`` of list ``number``, and its block: one cycle later where ``read`` was set, for the first reader; for the
        second one two cycles after one in which ``read`` was not set.
    read : In(1)
        The first reader has its turn.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "first_row": In(INDEX_BITS),
            "rows": In(INDEX_BITS),
            "vectors": In(16),
            "list": In(index_bits(config.chunk)),
            "tokens": In(bits_for(config.chunk)),
            "valid": In(1),
            "scores": In(32 * config.width),
            "busy": Out(1),
            "complete": Out(1),
            "read": In(1),
            "number": In(index_bits(config.chunk)).array(2),
            "index": In(index_bits(config.shortlist)).array(2),
            "block": Out(INDEX_BITS).array(2),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        # As many as a panel can end of one token.
        blocks = config.panel_rows // config.kv_block + 2
        m.submodules.best = best = CandidateList(
            config.shortlist, config.chunk, depth=blocks, bits=INDEX_BITS - (config.kv_block - 1).bit_length()
        )
        #: Strobe: vectors of the token ``number`` begin.
        begin, number = Signal(), Signal(len(self.list))
        key, valid, tag, underway = self._best_row(m, begin)

        # Maximum of the block, which may go on in vectors that come when others have had theirs.
        running = Signal(32, reset_less=True)
        total = Signal(32)
        m.submodules.maxima = maxima = memory.Memory(shape=32, depth=config.chunk, init=[])
        keep, recall, token = maxima.write_port(), maxima.read_port(domain="comb"), Signal(len(number))
        m.d.comb += [
            total.eq(Mux(tag[0] | (key > running), key, running)),
            keep.en.eq(~begin), keep.addr.eq(token), keep.data.eq(running), recall.addr.eq(number),
        ]
        with m.If(begin):
            m.d.sync += [running.eq(recall.data), token.eq(number)]
        with m.Elif(valid):
            m.d.sync += running.eq(total)
        m.d.sync += [
            best.valid.eq(valid & tag[1]), best.index.eq(tag[2:]), best.key.eq(total),
        ]
        m.d.comb += [
            best.list.eq(number), best.clear.eq(begin & (self.first_row == 0)), best.resume.eq(begin & (self.first_row != 0)),
        ]
        self._sequence(m, begin, number, ~(Cat(underway).any() | best.valid | best.busy))
        self._read(m, best)
        return m

    def _read(self, m: Module, best: CandidateList) -> None:
        """One port for both readers: the second one has what was read when the first one did not."""
        first, second = (number * self.config.shortlist + index for number, index in zip(self.number, self.index, strict=True))
        of_second, kept = Signal(), Signal.like(best.index_of_entry)
        m.d.comb += [best.entry.eq(Mux(self.read, first, second)), self.block[0].eq(best.index_of_entry), self.block[1].eq(kept)]
        m.d.sync += of_second.eq(~self.read)
        with m.If(of_second):
            m.d.sync += kept.eq(best.index_of_entry)

    def _best_row(self, m: Module, begin: Signal) -> tuple[Value, Value, Value, list[Value]]:
        """Maximum of a vector, a level a cycle. Returns it, whether it is there, ``(first vector of its block, last one, block)``,
        and whether there is one at each level."""
        width, block_bits = self.config.width, (self.config.kv_block - 1).bit_length()
        # Row of the vector that comes, and how many rows are left from there on.
        row, left = Signal(INDEX_BITS), Signal(INDEX_BITS)
        with m.If(begin):
            m.d.sync += [row.eq(self.first_row), left.eq(self.rows - self.first_row)]
        with m.Elif(self.valid):
            m.d.sync += [row.eq(row + width), left.eq(Mux(left > width, left - width, 0))]

        # Rows beyond the last one take no part: 0 is below every number's order.
        level: list[Value] = []
        for lane in range(width):
            key = Signal(32, name=f"key_{lane}", reset_less=True)
            m.d.sync += key.eq(Mux(left > lane, ordered(self.scores.word_select(lane, 32)), 0))
            level.append(key)
        valid: Value = Signal(name="valid_0")
        underway: list[Value] = [valid]
        tag = Signal(INDEX_BITS - block_bits + 2, name="tag_0", reset_less=True)
        begins = row[:block_bits] == 0
        ends = ((row[:block_bits] + width)[block_bits]) | (left <= width)
        m.d.sync += [valid.eq(self.valid & (left != 0)), tag.eq(Cat(begins, ends, row[block_bits:INDEX_BITS]))]
        depth = 0
        while len(level) > 1:
            depth += 1
            following: list[Value] = []
            for left_key, right_key in zip(level[0::2], level[1::2], strict=True):
                key = Signal(32, name=f"key_{depth}_{len(following)}", reset_less=True)
                m.d.sync += key.eq(Mux(left_key > right_key, left_key, right_key))
                following.append(key)
            next_valid, next_tag = Signal(name=f"valid_{depth}"), Signal(len(tag), name=f"tag_{depth}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_tag.eq(tag)]
            level, valid, tag = following, next_valid, next_tag
            underway.append(valid)
        return level[0], valid, tag, underway

    def _sequence(self, m: Module, begin: Signal, number: Signal, settled: Value) -> None:
        """Token after token: opens its list, takes its vectors, waits until they have settled."""
        tokens_left, vectors_left = Signal(len(self.tokens)), Signal(len(self.vectors))
        #: ``start``, until the list before is settled.
        waiting, opening = Signal(), Signal()
        m.d.comb += opening.eq(self.start | waiting)
        with m.If(self.start):
            m.d.sync += waiting.eq(1)
        m.d.sync += [self.busy.eq(1), self.complete.eq(0)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [self.busy.eq(opening), self.complete.eq(~opening), number.eq(self.list), tokens_left.eq(self.tokens)]
                with m.If(opening):
                    m.d.sync += waiting.eq(0)
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += begin.eq(1)
                m.d.sync += [vectors_left.eq(self.vectors), self.busy.eq(0)]
                m.next = "TAKE"
            with m.State("TAKE"):
                m.d.sync += self.busy.eq(0)
                with m.If(self.valid):
                    m.d.sync += vectors_left.eq(vectors_left - 1)
                    with m.If(vectors_left == 1):
                        m.d.sync += self.busy.eq(1)
                        m.next = "SETTLE"
            with m.State("SETTLE"), m.If(settled):
                m.d.sync += [number.eq(number + 1), tokens_left.eq(tokens_left - 1)]
                m.next = "OPEN"
                with m.If(tokens_left == 1):
                    m.next = "IDLE"
