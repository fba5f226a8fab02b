"""First stage of attention: walks heads, blocks and rounds, and forms the dot products."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ...config import BuildConfig
from ...descriptors import Format
from ..interfaces import Operator, QueryScaleWrite, QueryWrite, index_bits
from .dot import DotArray
from .item import BUFFERS, AttentionSizes, ItemLayout, delayed
from .query import QueryMemory

__all__ = ["ScoreStage"]


class ScoreStage(wiring.Component):
    """Query memory, dot products and the order of items: heads, in them blocks (own, then past), in them rounds.

    HEAD (``direct``) has one item for each block of vocabulary rows, for lane 0.

    Members
    -------
    op, start, direct : In
    slots_ready, last_round : In
        Of the slot table.
    write, write_scale, scale_addr, scale_read, scale
        As in :class:`QueryMemory`.
    key_buffer, key_dim, key, key_limit, key_free, offer, take, key_own
        Counterparts of :class:`BlockBuffer`.
    scores_0, scores_1, ... : Out for each lane, item : Out(ItemLayout), load : Out(1)
        ``load`` is a strobe; ``scores`` holds the sums in that cycle. ``item`` describes them, until ``release``.
    release : In(1)
        Strobe: the sums of the next item may come, ``score_latency`` + 1 cycles later at the earliest.
    working : Out(1)
        With ``config.probe`` only: a key beat is asked for.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        self.sizes = sizes = AttentionSizes(config)
        lanes, beat, buffer = config.query_lanes, 8 * config.beat_bytes, (BUFFERS - 1).bit_length()
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "direct": In(1),
            "slots_ready": In(1),
            "last_round": In(index_bits(sizes.rounds)),
            "write": In(QueryWrite(config)),
            "write_scale": In(QueryScaleWrite(config)),
            "scale_addr": In(index_bits(sizes.query_rows)),
            "scale_read": In(1),
            "scale": Out(32).array(lanes),
            "key_buffer": Out(buffer),
            "key_dim": Out(index_bits(sizes.dims)),
            "key": In(beat),
            "key_limit": In(bits_for(sizes.dims)),
            "key_free": Out(1),
            "offer": In(1),
            "take": Out(1),
            **({"key_own": Out(1)} if config.int4_kv else {}),
            **{f"scores_{lane}": Out(config.kv_block * bits) for lane, bits in enumerate(sizes.sum_bits)},
            "item": Out(ItemLayout(config)),
            "load": Out(1),
            "release": In(1),
            **({"working": Out(1)} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        block_bits = (config.kv_block - 1).bit_length()
        m.submodules.query = query = QueryMemory(config)
        m.submodules.dot = dot = DotArray(config)
        wiring.connect(m, wiring.flipped(self.write), query.write)
        wiring.connect(m, wiring.flipped(self.write_scale), query.write_scale)

        running, reserved, issue, finish = Signal(), Signal(), Signal(), Signal()
        dim, last_dim = Signal(range(sizes.head_dims)), Signal(range(sizes.head_dims))
        present = Signal(ItemLayout(config))
        head = Signal(bits_for(config.max_kv_heads))
        blocks_left = Signal(32)
        past = Signal(bits_for(config.max_pages))
        #: Query word now, of this round's first vector, and of round 0; words and rows from one round to the next.
        word, round_word, head_word, round_words = (
            Signal(len(query.addr), name=n) for n in ("word", "round_word", "head_word", "round_words")
        )
        dims = Signal(range(sizes.head_dims + 1))
        last_in_word = Signal()
        m.d.comb += [
            past.eq((self.op.position + (config.kv_block - 1)) >> block_bits),
            dims.eq(Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits),
            last_dim.eq(dims - 1),
            last_in_word.eq((dim[: sizes.part_bits] + 1)[sizes.part_bits]),
            finish.eq(issue & (dim == last_dim)),
            # The sums of a finished item replace those of the item before: only when these were read.
            issue.eq(running & Mux(self.direct, self.offer, dim < self.key_limit) & ~((dim == last_dim) & reserved)),
            self.take.eq(issue & self.direct),
            self.key_free.eq(finish & present.release & ~self.direct),
            self.key_buffer.eq(present.buffer),
            self.key_dim.eq(dim),
            query.addr.eq(word),
            query.part.eq(dim[: sizes.part_bits]),
            query.scale_addr.eq(self.scale_addr),
            query.scale_read.eq(self.scale_read),
            present.first.eq(present.own),
            present.last.eq(blocks_left == 0),
            present.release.eq(self.direct | (present.round == self.last_round)),
            present.final.eq(
                present.release & present.last & (self.direct | (head == command.kv_heads - 1))
            ),
            # The last past block ends at ``position``.
            present.limit.eq(Mux(
                present.last & (self.op.position[:block_bits] != 0), self.op.position[:block_bits], config.kv_block,
            )),
        ]
        if config.probe:
            m.d.comb += self.working.eq(issue)
        if config.int4_kv:
            m.d.comb += self.key_own.eq(present.own)
        if config.fp8_query:
            m.d.sync += query.e4m3.eq((command.format & Format.FP8_QUERY).any() & ~self.direct)
        m.d.comb += [mine.eq(theirs) for mine, theirs in zip(self.scale, query.scale, strict=True)]
        m.d.sync += round_words.eq(command.kv_heads * command.head_vectors)

        with m.If(self.release):
            m.d.sync += reserved.eq(0)
        with m.If(issue):
            m.d.sync += dim.eq(dim + 1)
            with m.If(last_in_word):
                m.d.sync += word.eq(word + 1)
        with m.If(finish):
            m.d.sync += [dim.eq(0), self.item.eq(present), reserved.eq(1)]
            with m.If(~present.release):
                following = Signal(len(word))
                m.d.comb += following.eq(round_word + round_words)
                m.d.sync += [
                    present.round.eq(present.round + 1),
                    present.output.eq(present.output + dims),
                    present.query_scale.eq(present.query_scale + command.kv_heads),
                    word.eq(following),
                    round_word.eq(following),
                ]
            with m.Else():
                m.d.sync += [
                    present.buffer.eq(present.buffer + 1),
                    present.round.eq(0),
                    present.output.eq(0),
                    present.query_scale.eq(head),
                    present.own.eq(0),
                    word.eq(head_word),
                    round_word.eq(head_word),
                    blocks_left.eq(blocks_left - 1),
                ]
                with m.If(present.last & ~self.direct):
                    following_head = Signal(len(word))
                    m.d.comb += following_head.eq(head_word + command.head_vectors)
                    m.d.sync += [
                        head.eq(head + 1),
                        head_word.eq(following_head),
                        word.eq(following_head),
                        round_word.eq(following_head),
                        present.query_scale.eq(head + 1),
                        present.own.eq(1),
                        blocks_left.eq(past),
                    ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    present.buffer.eq(0), present.round.eq(0), present.output.eq(0), present.query_scale.eq(0),
                    present.own.eq(~self.direct), head.eq(0), word.eq(0), round_word.eq(0), head_word.eq(0), dim.eq(0),
                    blocks_left.eq(Mux(self.direct, command.row_blocks - 1, past)),
                ]
                with m.If(self.start):
                    m.next = "SLOTS"
            with m.State("SLOTS"), m.If(self.slots_ready | self.direct):
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(finish & present.final):
                    m.next = "IDLE"

        arriving = delayed(m, issue, sizes.query_latency, "arriving")
        opening = delayed(m, dim == 0, sizes.query_latency, "opening")
        finished = delayed(m, finish, sizes.score_latency, "finished")
        keys = [self.key]
        for i in range(1, sizes.query_latency):
            key = Signal(8 * config.beat_bytes, name="key" if i == 1 else f"key_{i}", reset_less=True)
            with m.If(arriving[i]):
                m.d.sync += key.eq(keys[-1])
            keys.append(key)
        m.d.comb += [dot.key.eq(keys[-1]), dot.valid.eq(arriving[-1]), dot.first.eq(opening[-1]), self.load.eq(finished[-1])]
        for lane in range(config.query_lanes):
            m.d.comb += [
                dot.query[lane].eq(query.data[lane]),
                getattr(self, f"scores_{lane}").eq(getattr(dot, f"scores_{lane}")),
            ]
        return m
