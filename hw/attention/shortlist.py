"""Blocks of vocabulary rows with the best scores of the ternary head."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ..interfaces import index_bits
from .topk import INDEX_BITS, TopK, ordered

__all__ = ["ShortList"]


class ShortList(wiring.Component):
    """For every wanted token a sorted list of the ``config.shortlist`` blocks of ``kv_block`` rows whose best row scores highest;
    of equal ones the smaller number comes first.

    Scores come as vectors, rows ascending, token after token. The lists lie in a memory; that of the token at hand is in a chain of
    cells that takes a block a cycle, where it is read again when its last vector has come, and first when its next one does.

    ::

        start -> LOAD -> TAKE (vectors of a token) -> SETTLE -> SAVE -> LOAD of the next token's list, or IDLE
        IDLE, reading -> LOAD -> shown

    Members
    -------
    start : In(1), first_row, rows, vectors, list, tokens : In
        Strobe: vectors of ``tokens`` tokens follow, the first one's list being ``list``, ``vectors`` of each: rows ``first_row``
        and more of ``rows``. Row 0 begins a new list. They do not change until the last vector.
    valid : In(1), scores : In
        ``width`` float32 scores; the first of a token only while not ``busy``.
    busy : Out(1)
        Lists are on their way between memory and chain; from the cycle after ``start``, and from two cycles after a token's last
        vector.
    reading : In(1)
        Level, never together with vectors: list ``list`` is to be read.
    shown : Out(1)
        It can be, until ``reading`` falls.
    index : In, block : Out, for two readers
        Entry to read, and its block number one cycle later.
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
            "reading": In(1),
            "shown": Out(1),
            "index": In(index_bits(config.shortlist)).array(2),
            "block": Out(INDEX_BITS).array(2),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        number_bits = INDEX_BITS - (self.config.kv_block - 1).bit_length()
        m.submodules.best = best = TopK(self.config.shortlist, number_bits)
        #: Strobe: a token's vectors begin.
        begin = Signal()
        key, valid, tag, underway = self._best_row(m, begin)

        # Maximum of the block, which may go on in vectors that come when others have had theirs.
        running = Signal(32, reset_less=True)
        total = Signal(32)
        m.d.comb += total.eq(Mux(tag[0] | (key > running), key, running))
        with m.If(valid):
            m.d.sync += running.eq(total)
        m.d.sync += [best.valid.eq(valid & tag[1]), best.index.eq(tag[2:]), best.key.eq(total)]
        settled = ~(Cat(underway).any() | best.valid | best.busy)
        self._sequence(m, begin, running, settled)

        for wanted, block in zip(self.index, self.block, strict=True):
            with m.Switch(wanted):
                for entry, index in enumerate(best.best):
                    with m.Case(entry):
                        m.d.sync += block.eq(index)
        return m

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

    def _sequence(self, m: Module, begin: Signal, running: Signal, settled: Value) -> None:
        """Loads a list, takes the vectors of its token, saves it. A list is its entries, and behind them the maximum of the block
        that is not complete."""
        config, best, size = self.config, m.submodules.best, self.config.shortlist
        m.submodules.lists = lists = memory.Memory(shape=1 + 32 + len(best.best[0]), depth=config.chunk * (size + 1), init=[])
        put, get = lists.write_port(), lists.read_port()
        base, entry = Signal(len(put.addr)), Signal(range(size + 2))
        tokens_left, vectors_left = Signal(len(self.tokens)), Signal(len(self.vectors))
        loaded, last, came = Signal(), Signal(), Signal()
        #: ``start``, until the list before is saved.
        waiting, opening = Signal(), Signal()
        m.d.comb += opening.eq(self.start | waiting)
        with m.If(self.start):
            m.d.sync += waiting.eq(1)
        m.d.comb += [
            last.eq(entry == size),
            get.addr.eq(base + entry),
            put.addr.eq(base + entry),
            put.data.eq(Cat(Const(0, 1), running)),
        ]
        for i in range(size):
            with m.If(entry == i):
                m.d.comb += put.data.eq(Cat(best.held[i], best.best_key[i], best.best[i]))
        m.d.sync += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    self.busy.eq(0), base.eq(self.list * (size + 1)), tokens_left.eq(self.tokens), entry.eq(0),
                    self.shown.eq(self.shown & self.reading),
                ]
                m.d.comb += best.clear.eq(opening | (self.reading & ~self.shown))
                with m.If(opening):
                    m.d.sync += [self.busy.eq(1), waiting.eq(0)]
                    m.next = "OPEN"
                with m.Elif(self.reading & ~self.shown):
                    m.next = "LOAD"
            with m.State("OPEN"):
                m.d.comb += begin.eq(1)
                m.d.sync += vectors_left.eq(self.vectors)
                m.next = "LOAD"
                with m.If(self.first_row == 0):
                    m.d.sync += self.busy.eq(0)
                    m.next = "TAKE"
            with m.State("LOAD"):
                # An entry is there in the cycle after its address.
                m.d.sync += [entry.eq(entry + 1), came.eq(1)]
                with m.If(came & ~loaded):
                    m.d.sync += [best.valid.eq(get.data[0]), best.key.eq(get.data[1:33]), best.index.eq(get.data[33:])]
                with m.If(came & (entry == size)):
                    m.d.sync += loaded.eq(1)
                with m.If(loaded):
                    m.d.sync += [running.eq(get.data[1:33]), entry.eq(0), came.eq(0), loaded.eq(0)]
                    m.next = "SHOW"
                    with m.If(~self.reading):
                        m.d.sync += self.busy.eq(0)
                        m.next = "TAKE"
            with m.State("SHOW"), m.If(settled):
                m.d.sync += self.shown.eq(1)
                m.next = "IDLE"
            with m.State("TAKE"):
                m.d.sync += self.busy.eq(0)
                with m.If(self.valid):
                    m.d.sync += vectors_left.eq(vectors_left - 1)
                    with m.If(vectors_left == 1):
                        m.d.sync += self.busy.eq(1)
                        m.next = "SETTLE"
            with m.State("SETTLE"), m.If(settled):
                m.next = "SAVE"
            with m.State("SAVE"):
                m.d.comb += put.en.eq(1)
                m.d.sync += entry.eq(entry + 1)
                with m.If(last):
                    m.d.sync += [entry.eq(0), base.eq(base + (size + 1)), tokens_left.eq(tokens_left - 1)]
                    m.d.comb += best.clear.eq(1)
                    m.next = "OPEN"
                    with m.If(tokens_left == 1):
                        m.next = "IDLE"
