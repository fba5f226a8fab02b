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
from .item import AttentionSizes, ItemLayout, delayed
from .query import QueryMemory
from .slots import RunRounds

__all__ = ["ScoreStage"]


class Walk:
    """Where the stage is: the present item, its run and head, the query words of its rounds, and the dimension."""

    def __init__(self, config: BuildConfig, sizes: AttentionSizes, word_bits: int) -> None:
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        #: The sums of the item before were not read yet.
        self.reserved = Signal(name="$signal")
        self.dim, self.last_dim = Signal(range(sizes.head_dims)), Signal(range(sizes.head_dims), name="last_dim")
        #: ``dim`` is ``last_dim``.
        self.at_end = Signal()
        self.present = Signal(ItemLayout(config))
        self.run = Signal(index_bits(config.chunk))
        self.rounds = Signal(RunRounds(config))
        self.head = Signal(bits_for(config.max_kv_heads))
        self.blocks_left = Signal(sizes.block_bits)
        #: Query word now, of this round's first vector, and of the head's first round; words from one round to the next.
        self.word, self.round_word, self.head_word, self.round_words = (
            Signal(word_bits, name=n) for n in ("word", "round_word", "head_word", "round_words")
        )
        #: Row of scales of the run's first round, and word and row of its last round, all of head 0.
        self.run_scale, self.tail_scale = (Signal(index_bits(sizes.query_rows), name=n) for n in ("run_scale", "tail_scale"))
        self.tail_word = Signal(word_bits)


class ScoreStage(wiring.Component):
    """Query memory, dot products and the order of items: runs, in them heads, in them blocks by ascending position, in them
    the rounds that have slots of the run.

    HEAD (``direct``) has one item for each block of vocabulary rows, for lane 0.

    Members
    -------
    op, start, direct : In
    run_index : Out;  known, run : In
        Counterparts of :class:`SlotTable`.
    write, write_scale, scale_addr, scale_read, scale
        As in :class:`QueryMemory`.
    key_buffer, key_dim, key, key_ready, key_limit, key_free, offer, take
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
        lanes, beat, buffer = config.query_lanes, 8 * config.beat_bytes, (sizes.buffers - 1).bit_length()
        super().__init__({
            "op": In(Operator(config)),
            "start": In(1),
            "direct": In(1),
            "run_index": Out(index_bits(config.chunk)),
            "known": In(1),
            "run": In(RunRounds(config)),
            "write": In(QueryWrite(config)),
            "write_scale": In(QueryScaleWrite(config)),
            "scale_addr": In(index_bits(sizes.query_rows)),
            "scale_read": In(1),
            "scale": Out(32).array(lanes),
            "key_buffer": Out(buffer),
            "key_dim": Out(index_bits(sizes.dims)),
            "key": In(beat),
            "key_ready": In(1),
            "key_limit": In(index_bits(sizes.dims)),
            "key_free": Out(1),
            "offer": In(1),
            "take": Out(1),
            **{f"scores_{lane}": Out(config.kv_block * bits) for lane, bits in enumerate(sizes.sum_bits)},
            "item": Out(ItemLayout(config)),
            "load": Out(1),
            "release": In(1),
            **({"working": Out(1)} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, sizes, command = self.config, self.sizes, self.op.descriptor
        m.submodules.query = query = QueryMemory(config)
        m.submodules.dot = DotArray(config)
        wiring.connect(m, wiring.flipped(self.write), query.write)
        wiring.connect(m, wiring.flipped(self.write_scale), query.write_scale)

        walk = Walk(config, sizes, len(query.addr))
        present = walk.present
        running, issue, finish = (Signal(name="$signal") for _ in range(3))
        dims = Signal(range(sizes.head_dims + 1))
        last_in_word, may_issue = Signal(), Signal()
        m.d.comb += [
            dims.eq(Mux(self.direct, command.vectors, command.head_vectors) << sizes.part_bits),
            last_in_word.eq((walk.dim[: sizes.part_bits] + 1)[sizes.part_bits]),
            finish.eq(issue & walk.at_end),
            # The sums of a finished item replace those of the item before: only when these were read.
            may_issue.eq(running & ~(walk.at_end & walk.reserved)),
            self.take.eq(may_issue & self.direct & self.offer),
            issue.eq(self.take | (may_issue & ~self.direct & (self.key_ready | (walk.dim < self.key_limit)))),
            # ``finish`` of ATTENTION: the last beat of a block is read when all are there
            self.key_free.eq(may_issue & walk.at_end & self.key_ready & present.release & ~self.direct),
            self.key_buffer.eq(present.buffer),
            self.key_dim.eq(walk.dim),
            query.addr.eq(walk.word),
            query.part.eq(walk.dim[: sizes.part_bits]),
            query.scale_addr.eq(self.scale_addr),
            query.scale_read.eq(self.scale_read),
            present.last.eq(walk.blocks_left == 0),
            present.whole.eq(~present.last & ((walk.blocks_left != 1) | ~walk.rounds.crossing)),
            present.second.eq(present.last & walk.rounds.crossing),
            present.release.eq(self.direct | (present.round == walk.rounds.last)),
            present.ends.eq(present.release & present.last & (self.direct | (walk.head == command.kv_heads - 1))),
            present.final.eq(present.ends & (self.direct | (walk.run + 1 == self.op.runs))),
            self.run_index.eq(walk.run),
        ]
        m.d.sync += walk.last_dim.eq(dims - 1)  # of the operator
        if config.probe:
            m.d.comb += self.working.eq(issue)
        if config.fp8_query:
            m.d.sync += query.e4m3.eq((command.format & Format.FP8_QUERY).any() & ~self.direct)
        m.d.comb += [mine.eq(theirs) for mine, theirs in zip(self.scale, query.scale, strict=True)]
        m.d.sync += walk.round_words.eq(command.kv_heads * command.head_vectors)

        with m.If(self.release):
            m.d.sync += walk.reserved.eq(0)
        with m.If(issue):
            m.d.sync += walk.dim.eq(walk.dim + 1)
            with m.If(last_in_word):
                m.d.sync += walk.word.eq(walk.word + 1)
        with m.If(issue):
            m.d.sync += walk.at_end.eq(Mux(walk.at_end, walk.last_dim == 0, walk.dim == walk.last_dim - 1))
        with m.If(finish):
            m.d.sync += [walk.dim.eq(0), self.item.eq(present), walk.reserved.eq(1)]
            with m.If(~present.release):
                self._next_round(m, walk, dims)
            with m.Else():
                self._next_block(m, walk)
            with m.If(present.release & (walk.head == 0)):
                m.d.sync += [walk.tail_word.eq(walk.round_word), walk.tail_scale.eq(present.query_scale)]

        self._sequence(m, walk, running, finish)

        self._connect_dot(m, issue, finish, walk.dim)
        return m

    def _sequence(self, m: Module, walk: Walk, running: Signal, finish: Signal) -> None:
        """Waits until the slot table knows a run, runs until its last item is finished, and so on until the final one is."""
        command, present = self.op.descriptor, walk.present
        # The last round of the run before has slots of this one.
        shared = Signal()
        word, scale = Signal(len(walk.word)), Signal(len(walk.run_scale))
        # Where it has none; the tail rests in LOOK_UP.
        next_word, next_scale = Signal.like(word, name="next_word"), Signal.like(scale, name="next_scale")
        m.d.sync += [next_word.eq(walk.tail_word + walk.round_words), next_scale.eq(walk.tail_scale + command.kv_heads)]
        m.d.comb += [
            shared.eq(walk.rounds.last == self.run.first),
            word.eq(Mux(shared, walk.tail_word, next_word)),
            scale.eq(Mux(shared, walk.tail_scale, next_scale)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [
                    present.buffer.eq(0), present.round.eq(0), present.query_scale.eq(0), present.output.eq(0),
                    present.first.eq(1), walk.run.eq(0), walk.head.eq(0), walk.word.eq(0), walk.round_word.eq(0),
                    walk.head_word.eq(0), walk.dim.eq(0),
                    walk.blocks_left.eq(command.row_blocks - 1),
                    # Round 0 is the first run's, and HEAD's.
                    walk.rounds.eq(0), walk.run_scale.eq(0), walk.tail_word.eq(0), walk.tail_scale.eq(0),
                ]
                with m.If(self.start):
                    m.next = "LOOK_UP"
            with m.State("LOOK_UP"):
                # In IDLE ``last_dim`` may still be of the operator before; behind a run this changes nothing.
                m.d.sync += walk.at_end.eq(walk.last_dim == 0)
                m.next = "KNOWN"
                with m.If(self.direct):
                    m.next = "RUN"
            with m.State("KNOWN"), m.If(self.known):
                m.d.sync += [
                    walk.rounds.eq(self.run), walk.head.eq(0), walk.blocks_left.eq(self.run.later), walk.run_scale.eq(scale),
                    present.round.eq(self.run.first), present.query_scale.eq(scale),
                    walk.word.eq(word), walk.round_word.eq(word), walk.head_word.eq(word),
                ]
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(finish & present.ends):
                    m.d.sync += walk.run.eq(walk.run + 1)
                    m.next = "LOOK_UP"
                    with m.If(present.final):
                        m.next = "IDLE"

    def _next_round(self, m: Module, walk: Walk, dims: Signal) -> None:
        """More query slots of the same head against the same block."""
        command, present = self.op.descriptor, walk.present
        following = Signal(len(walk.word))
        m.d.comb += following.eq(walk.round_word + walk.round_words)
        m.d.sync += [
            present.round.eq(present.round + 1),
            present.output.eq(present.output + dims),
            present.query_scale.eq(present.query_scale + command.kv_heads),
            walk.word.eq(following),
            walk.round_word.eq(following),
        ]

    def _next_block(self, m: Module, walk: Walk) -> None:
        """The first round of the next block, or of the next head's first one."""
        command, present = self.op.descriptor, walk.present
        m.d.sync += [
            present.buffer.eq(present.buffer + 1),
            present.round.eq(walk.rounds.first),
            present.output.eq(0),
            present.query_scale.eq(walk.run_scale + walk.head),
            present.first.eq(0),
            walk.word.eq(walk.head_word),
            walk.round_word.eq(walk.head_word),
            walk.blocks_left.eq(walk.blocks_left - 1),
        ]
        with m.If(present.last & ~self.direct):
            following_head = Signal(len(walk.word))
            m.d.comb += following_head.eq(walk.head_word + command.head_vectors)
            m.d.sync += [
                walk.head.eq(walk.head + 1),
                walk.head_word.eq(following_head),
                walk.word.eq(following_head),
                walk.round_word.eq(following_head),
                present.query_scale.eq(walk.run_scale + walk.head + 1),
                present.first.eq(1),
                walk.blocks_left.eq(walk.rounds.later),
            ]

    def _connect_dot(self, m: Module, issue: Signal, finish: Signal, dim: Signal) -> None:
        """Keys meet the query words that were read for them; ``load`` comes with the sums."""
        config, sizes, query, dot = self.config, self.sizes, m.submodules.query, m.submodules.dot
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
