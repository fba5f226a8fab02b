"""Blocks of the cache whose summaries score highest, for every run with a budget and every key/value head."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...numerics import SCORE_BITS
from ..choice import choice_entries, choice_lists
from ..interfaces import RunRead, TableRead, index_bits
from .candidates import CandidateList
from .item import AttentionSizes, ItemLayout, delayed

__all__ = ["BlockChoice"]

#: Cycles from the last score of an item to its place in the queue of the list, and from there to where the list is seen busy.
_SETTLE = 4


class BlockChoice(wiring.Component):
    """Takes the scores of summaries item by item, and keeps a sorted list of the ``kv_budget`` best blocks of every run and head.

    ::

        scores of the lanes of the run -> maximum -> over the rounds -> over the rows of a block, if it may be chosen -> list

    An item is a page of summaries: its key ``k`` is summary ``page * kv_block + k``. One item is worked on at a time:
    from its first score ``kv_block`` cycles, one for each level of lanes, and those that its candidates take to find their places
    (`CandidateList`).

    Members
    -------
    start : In(1)
        Strobe: an operator with CHOOSE begins.
    runs : Out(RunRead)
    item : In(ItemLayout), begin : In(1)
        Of :class:`ScoreScaler`: strobe, with the item that starts.
    valid : In(1), score : In per lane
        A key: its score for every lane.
    room : Out(1)
        An item may start.
    output_round, output_run, output_read : Out;  active : In per lane
        Counterparts of :class:`SlotTable`.
    chosen : In(TableRead)
        Block by entry of the lists, see `hwgen.hw.choice.choice_lists`; only while no operator with CHOOSE runs.
    done : Out(1)
        Strobe: all lists of the operator are complete.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = sizes = AttentionSizes(config)
        lanes = config.query_lanes
        super().__init__({
            "start": In(1),
            "runs": Out(RunRead(config)),
            "item": In(ItemLayout(config)),
            "begin": In(1),
            "valid": In(1),
            "score": In(signed(SCORE_BITS)).array(lanes),
            "room": Out(1),
            "output_round": Out(index_bits(sizes.rounds)),
            "output_run": Out(index_bits(config.chunk)),
            "output_read": Out(1),
            "active": In(1).array(lanes),
            "chosen": In(TableRead(choice_entries(config))),
            "done": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        block_bits = config.kv_block.bit_length() - 1
        m.submodules.best = best = CandidateList(
            config.kv_budget, choice_lists(config), depth=config.kv_block // config.summary_rows,
            bits=index_bits(config.max_pages), key_bits=SCORE_BITS,
        )
        #: The item at work; whether it is the first of its block, and the next one will be.
        item, working, first, next_first = Signal(ItemLayout(config)), Signal(), Signal(), Signal(init=1)
        sizes = {"run": config.chunk, "head": config.max_kv_heads, "page": config.summary_pages}
        run, head, page = (Signal(index_bits(size), name=name) for name, size in sizes.items())
        m.d.comb += [
            self.runs.index.eq(run), self.output_round.eq(item.round), self.output_run.eq(run),
            best.entry.eq(self.chosen.index), self.chosen.number.eq(best.index_of_entry),
            best.list.eq(Cat(head, run)), best.reserve.eq(best.valid),
        ]
        m.d.sync += self.output_read.eq(self.begin)

        best_lane, arrived = self._best_lane(m)
        # Over the rounds of a block.
        m.submodules.kept = kept = memory.Memory(shape=SCORE_BITS, depth=config.kv_block, init=[])
        put, get = kept.write_port(), kept.read_port(domain="comb")
        key, total = Signal(block_bits), Signal(SCORE_BITS)
        m.d.comb += [
            total.eq(Mux(first | (best_lane > get.data), best_lane, get.data)),
            get.addr.eq(key), put.addr.eq(key), put.data.eq(total), put.en.eq(arrived),
        ]
        # The best row of a block.
        row_bits = config.summary_rows.bit_length() - 1
        row, row_key, there = Signal(SCORE_BITS, reset_less=True), Signal(block_bits), Signal()
        running, of_block = Signal(SCORE_BITS, reset_less=True), Signal(SCORE_BITS)
        m.d.sync += [row.eq(total), row_key.eq(key), there.eq(arrived & item.release)]
        begins, ends = (row_key[:row_bits] == 0, row_key[:row_bits].all()) if row_bits else (Const(1), Const(1))
        m.d.comb += of_block.eq(Mux(begins | (row > running), row, running))
        with m.If(there):
            m.d.sync += running.eq(of_block)
        # Blocks that may be chosen are 1 to ``last``.
        last, chooses, block = Signal(range(config.max_pages)), Signal(), Signal(block_bits - row_bits + len(page))
        m.d.comb += block.eq(Cat(row_key[row_bits:], page))
        m.d.sync += [
            last.eq((self.runs.position >> block_bits) - 2), chooses.eq(self.runs.budget != 0),
            best.valid.eq(there & ends & chooses & (block != 0) & (block <= last)),
            best.index.eq(block), best.key.eq(of_block),
        ]

        #: Cycles that the last score is on its way to the list.
        settling = Signal(range(_SETTLE + 1))
        ended = Signal()
        m.d.comb += [ended.eq(working & (settling == 1) & ~best.busy), self.room.eq(~working)]
        m.d.sync += self.done.eq(ended & item.final)
        with m.If(arrived):
            m.d.sync += key.eq(key + 1)
            with m.If(key == config.kv_block - 1):
                m.d.sync += settling.eq(_SETTLE)
        with m.Elif((settling > 1) | ended):
            m.d.sync += settling.eq(settling - 1)
        with m.If(self.begin):
            m.d.sync += [item.eq(self.item), working.eq(1), first.eq(next_first), next_first.eq(self.item.release)]
        opening = Signal()
        m.d.sync += opening.eq(self.begin & next_first & self.item.first)
        m.d.comb += best.clear.eq(opening)
        with m.If(ended):
            m.d.sync += working.eq(0)
            with m.If(item.release):
                m.d.sync += page.eq(Mux(item.last, 0, page + 1))
                with m.If(item.last):
                    m.d.sync += head.eq(head + 1)
                with m.If(item.ends):
                    m.d.sync += [head.eq(0), run.eq(run + 1)]
        with m.If(self.start):
            m.d.sync += [run.eq(0), head.eq(0), page.eq(0), key.eq(0), next_first.eq(1)]
        return m

    def _best_lane(self, m: Module) -> tuple[Value, Value]:
        """The largest score of the lanes of the run, as an unsigned number, and whether one is there: a level of lanes a cycle."""
        level: list[Value] = []
        for lane, (score, active) in enumerate(zip(self.score, self.active, strict=True)):
            key = Signal(SCORE_BITS, name=f"key_{lane}", reset_less=True)
            m.d.sync += key.eq(Mux(active, Cat(score[:-1], ~score[-1]), 0))
            level.append(key)
        depth = 0
        while len(level) > 1:
            depth += 1
            following: list[Value] = []
            for left, right in zip(level[0::2], level[1::2], strict=True):
                key = Signal(SCORE_BITS, name=f"key_{depth}_{len(following)}", reset_less=True)
                m.d.sync += key.eq(Mux(left > right, left, right))
                following.append(key)
            level = following
        return level[0], delayed(m, self.valid, depth + 1, "arriving")[-1]
