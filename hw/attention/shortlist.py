"""Blocks of vocabulary rows with the best scores of the ternary head."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ..interfaces import index_bits
from .topk import INDEX_BITS, TopK, ordered

__all__ = ["ShortList"]


class ShortList(wiring.Component):
    """Sorted list of the ``config.shortlist`` blocks of ``kv_block`` rows whose best row scores highest; of equal ones the
    smaller number comes first.

    Scores come as vectors, rows ascending. A vector is on its way to the list for ``config.shortlist`` + 8 cycles at most.

    Members
    -------
    start : In(1), first_row, rows : In(INDEX_BITS)
        Strobe: the next vector begins with row ``first_row`` of ``rows``; row 0 begins a new list. At least two cycles before
        the vector.
    valid : In(1), scores : In
        ``width`` float32 scores.
    busy : Out(1)
        A vector that came in an earlier cycle may still change the list.
    index : In, block : Out, for two readers
        Entry to read, and its block number one cycle later.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "first_row": In(INDEX_BITS),
            "rows": In(INDEX_BITS),
            "valid": In(1),
            "scores": In(32 * config.width),
            "busy": Out(1),
            "index": In(index_bits(config.shortlist)).array(2),
            "block": Out(INDEX_BITS).array(2),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        width, size = config.width, config.kv_block
        block_bits = (size - 1).bit_length()
        number_bits = INDEX_BITS - block_bits
        m.submodules.best = best = TopK(config.shortlist, number_bits)

        # Row of the vector that comes, and how many rows are left from there on.
        row, left = Signal(INDEX_BITS), Signal(INDEX_BITS)
        with m.If(self.start):
            m.d.sync += [row.eq(self.first_row), left.eq(self.rows - self.first_row)]
        with m.Elif(self.valid):
            m.d.sync += [row.eq(row + width), left.eq(Mux(left > width, left - width, 0))]

        # Maximum of the vector, a level a cycle. Rows beyond the last one take no part: 0 is below every number's order.
        level: list[Value] = []
        for lane in range(width):
            key = Signal(32, name=f"key_{lane}", reset_less=True)
            m.d.sync += key.eq(Mux(left > lane, ordered(self.scores.word_select(lane, 32)), 0))
            level.append(key)
        valid: Value = Signal(name="valid_0")
        underway: list[Value] = [valid]
        tag = Signal(number_bits + 2, name="tag_0", reset_less=True)
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

        # Maximum of the block.
        running = Signal(32, reset_less=True)
        total = Signal(32)
        m.d.comb += total.eq(Mux(tag[0] | (level[0] > running), level[0], running))
        with m.If(valid):
            m.d.sync += running.eq(total)
        m.d.sync += [
            best.clear.eq(self.start & (self.first_row == 0)),
            best.valid.eq(valid & tag[1]),
            best.index.eq(tag[2:]),
            best.key.eq(total),
        ]
        m.d.comb += self.busy.eq(Cat(underway).any() | best.valid | best.busy)
        for wanted, block in zip(self.index, self.block, strict=True):
            with m.Switch(wanted):
                for entry, index in enumerate(best.best):
                    with m.Case(entry):
                        m.d.sync += block.eq(index)
        return m
