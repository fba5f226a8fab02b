"""Blocks of the cache whose summaries score highest, for every run with a budget and every key/value head."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...numerics import SCORE_BITS
from ..choice import choice_entries
from ..interfaces import RunRead, TableRead, index_bits
from .item import AttentionSizes, ItemLayout, delayed
from .scaling import ScoreScaler

__all__ = ["BlockChoice"]

#: Cycles from the best lane of the last key of an item until its block has its place in the list.
_SETTLE = 3


class BlockChoice(wiring.Component):
    """Takes the scores of summaries item by item, and keeps a sorted list of the ``kv_budget`` best blocks of every run and head.

    ::

        scores of the lanes of the run -> maximum -> over the rounds -> over the rows of a block, if it may be chosen -> sorted
        list in registers -> memory of the lists of all runs and heads

    An item is a page of summaries: its key ``k`` is summary ``page * kv_block + k``. The scores of one item are
    taken at a time, ``kv_block`` cycles and the latency of the scaler; behind the last one of a head its list goes to the memory,
    in ``kv_budget`` cycles. A comparator an entry: a candidate takes its place in one cycle.

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
        #: The item at work; whether it is the first of its block, and the next one will be; the one that comes next, which takes
        #: its place when what was under way is over, and before its first score.
        item, first, next_first = Signal(ItemLayout(config)), Signal(), Signal(init=1)
        coming, begins_now = Signal(ItemLayout(config)), delayed(m, self.begin, ScoreScaler.latency - 3, "begins")[-1]
        #: Scores are on their way, or a list to its memory.
        working, valid_key = Signal(), Signal(block_bits)
        sizes = {"run": config.chunk, "head": config.max_kv_heads, "page": config.summary_pages}
        run, head, page = (Signal(index_bits(size), name=name) for name, size in sizes.items())
        m.d.comb += [self.runs.index.eq(run), self.output_round.eq(item.round), self.output_run.eq(run)]
        m.d.sync += self.output_read.eq(begins_now)

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
        candidate, candidate_block, enters = Signal(SCORE_BITS, reset_less=True), Signal(range(config.max_pages)), Signal()
        m.d.comb += block.eq(Cat(row_key[row_bits:], page))
        m.d.sync += [
            last.eq((self.runs.position >> block_bits) - 2), chooses.eq(self.runs.budget != 0),
            enters.eq(there & ends & chooses & (block != 0) & (block <= last)),
            candidate_block.eq(block), candidate.eq(of_block),
        ]

        # What follows the last score of an item: its way to the list, and of a head's last item the list's way to the memory.
        settling, ended, copying = Signal(range(_SETTLE + 1)), Signal(), Signal()
        opening, over = Signal(), Signal()
        blocks = self._sorted(m, opening, enters, candidate, candidate_block)
        copied = self._copy(m, blocks, copying, Cat(head, run))
        m.d.comb += [
            ended.eq(settling == 1), self.room.eq(~working),
            opening.eq(begins_now & next_first & coming.first), over.eq((ended & ~(item.last & item.release)) | copied),
        ]
        m.d.sync += self.done.eq(over & item.final)
        with m.If(self.valid):
            m.d.sync += valid_key.eq(valid_key + 1)
        with m.If(self.begin):
            m.d.sync += [coming.eq(self.item), working.eq(1)]
        # A head's last item is over when its list is in the memory. What is behind the last score of another takes fewer cycles
        # than the next one's way to its first.
        with m.Elif(copied | (self.valid & (valid_key == config.kv_block - 1) & ~(item.last & item.release))):
            m.d.sync += working.eq(0)
        with m.If(arrived):
            m.d.sync += key.eq(key + 1)
            with m.If(key == config.kv_block - 1):
                m.d.sync += settling.eq(_SETTLE)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        m.d.sync += copying.eq((copying | (ended & item.last & item.release)) & ~copied)
        with m.If(begins_now):
            m.d.sync += [item.eq(coming), first.eq(next_first), next_first.eq(coming.release)]
        with m.If(over & item.release):
            m.d.sync += page.eq(Mux(item.last, 0, page + 1))
            with m.If(item.last):
                m.d.sync += head.eq(head + 1)
            with m.If(item.ends):
                m.d.sync += [head.eq(0), run.eq(run + 1)]
        with m.If(self.start):
            m.d.sync += [run.eq(0), head.eq(0), page.eq(0), key.eq(0), valid_key.eq(0), next_first.eq(1)]
        return m

    def _sorted(self, m: Module, clear: Value, enters: Value, candidate: Value, block: Value) -> list[Signal]:
        """Blocks of the ``kv_budget`` largest candidates since ``clear``, the largest first, of equal ones the earlier. A candidate
        takes its place in a cycle: those that are smaller make room, an entry each.
        """
        size = self.config.kv_budget
        keys = [Signal(SCORE_BITS, name=f"sorted_{i}", reset_less=True) for i in range(size)]
        blocks = [Signal(len(block), name=f"block_{i}") for i in range(size)]
        filled, smaller = Signal(size), Signal(size)
        m.d.comb += smaller.eq(Cat(~filled[i] | (candidate > keys[i]) for i in range(size)))
        for i in range(size):
            with m.If(enters & smaller[i]):
                m.d.sync += [keys[i].eq(candidate), blocks[i].eq(block), filled[i].eq(1)]
                if i:
                    with m.If(smaller[i - 1]):
                        m.d.sync += [keys[i].eq(keys[i - 1]), blocks[i].eq(blocks[i - 1]), filled[i].eq(filled[i - 1])]
        with m.If(clear):
            m.d.sync += filled.eq(0)
        return blocks

    def _copy(self, m: Module, blocks: list[Signal], copying: Signal, number: Value) -> Value:
        """Writes a list to the memory of all lists while ``copying``, an entry a cycle; returns a strobe with the last."""
        size = self.config.kv_budget
        m.submodules.lists = lists = memory.Memory(
            shape=len(blocks[0]), depth=choice_entries(self.config), init=[], attrs={"ram_style": "block"}
        )
        put, get = lists.write_port(), lists.read_port()
        #: The entry that is looked at; a cycle later it is written.
        entry, base, looked = Signal(range(size)), Signal(len(put.addr)), Signal(len(put.addr))
        value, write, copied = Signal(len(blocks[0])), Signal(), Signal()
        m.d.comb += [
            put.en.eq(write), put.addr.eq(looked), put.data.eq(value), get.addr.eq(self.chosen.index),
            self.chosen.number.eq(get.data), copied.eq(copying & (entry == size - 1)),
        ]
        m.d.sync += [
            base.eq(number * size), looked.eq(base + entry), value.eq(Array(blocks)[entry]), write.eq(copying),
            entry.eq(Mux(copying & ~copied, entry + 1, 0)),
        ]
        return copied

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
