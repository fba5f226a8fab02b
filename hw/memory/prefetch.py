"""Turns descriptors into the segments that fill the ring."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...config import BuildConfig
from ...descriptors import Fetch, Opcode
from ...registers import NUMBER_BITS
from ..active import ActiveRange, Pass
from ..choice import choice_entries, seen_position
from ..interfaces import ADDRESS_BITS, DescriptorLayout, RunRead, Segment, TableRead, index_bits

__all__ = ["Prefetcher"]


class Walk:
    """The descriptor at hand, and where its segments are."""

    def __init__(self, prefetcher: Prefetcher) -> None:
        config, runs = prefetcher.config, prefetcher.runs
        self.descriptor = Signal(DescriptorLayout(), reset_less=True, name="d")
        #: Entry of the token or page table, of the short list, or token of the run; the last one; heads still to come, with
        #: this one.
        self.index = Signal(range(max(config.chunk, config.max_pages, config.shortlist) + 1))
        self.last = Signal.like(self.index, name="last")
        self.heads = Signal.like(self.descriptor.kv_heads, name="heads")
        #: Address of the head, and bytes from one number to the next.
        self.base, self.stride = Signal(ADDRESS_BITS), Signal(32)
        #: The run; where its positions and its pages begin.
        self.run = Signal.like(runs.index, name="run")
        self.position, self.pages = Signal.like(runs.position, name="position"), Signal.like(runs.pages, name="pages")
        #: What is added to ``pages``; not in builds with a budget the same as ``index``.
        self.entry: Value = self.index
        self.budget: Value = Const(0)
        if config.kv_budget:
            #: Budget of the run, whole blocks less those that it attends to, and position by which its segments count.
            self.budget = Signal.like(runs.budget, name="budget")
            self.skipped = Signal(range(config.max_pages + 1))
            self.seen = Signal.like(runs.position, name="seen")
            #: The descriptor chooses; a block that was chosen; head of the run, and the first entry of its choice.
            self.choosing, self.block = Signal(name="choosing"), Signal(range(config.max_pages))
            self.head = Signal(index_bits(config.max_kv_heads))
            #: The run attends to blocks that it has chosen.
            self.chosen = Signal(name="chosen")
            self.choice = Signal(index_bits(choice_entries(config)), name="choice")
            self.entry = Signal(len(prefetcher.pages.index), name="entry")
            #: A choice was asked for that is not made.
            self.pending = Signal(name="pending")


class Prefetcher(wiring.Component):
    """Walks the descriptors ahead of the sequencer and emits their segments in the order in which operators use them.

    Descriptors that the pass skips (see `ActiveRange`) emit nothing. A segment of a STREAM leaves three cycles after its
    descriptor was taken, those of TOKEN, POSITION, CACHE and SHORTLIST one every five cycles; a run takes two more. In
    builds with a budget a run takes three more, and a block of one that chooses two more.

    Members
    -------
    descriptors : In(stream of DescriptorLayout)
    current : In(Pass)
    tokens, pages : Out(TableRead)
        Token ids by index in the pass; page numbers by entry.
    runs : Out(RunRead)
    choice : Out(TableRead), choice_done : In(1)
        In builds with a budget: block by entry of the choices (`choice_entries`), of head ``h`` of run ``r`` the best one at
        ``(r * heads + h) * kv_budget``, heads being ``max_kv_heads`` up to a power of two; and a strobe when ATTENTION with CHOOSE
        has ended, which CACHE waits for.
    shortlist : Out(TableRead), shortlist_number : Out, shortlist_read : Out(1)
        Block by entry of the short list of that wanted token. ``shortlist_read``: its number is taken in the next cycle.
    shortlist_complete : In(1)
        An operator that reads a short list has started, and no score is on its way to any of them: the lists of a pass are complete
        before the first of these operators. The segments wait for that.
    segments : Out(Segment)
    idle : Out(1)
        1 in reset, and from END of a program until the next descriptor comes.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "descriptors": In(stream.Signature(DescriptorLayout())),
            "current": In(Pass(config)),
            "tokens": Out(TableRead(config.chunk)),
            "pages": Out(TableRead(config.page_entries)),
            "runs": Out(RunRead(config)),
            **({"choice": Out(TableRead(choice_entries(config))), "choice_done": In(1)} if config.kv_budget else {}),
            "shortlist": Out(TableRead(config.shortlist)),
            "shortlist_number": Out(index_bits(config.chunk)),
            "shortlist_read": Out(1),
            "shortlist_complete": In(1),
            "segments": Out(Segment()),
            "idle": Out(1, init=1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.active = active = ActiveRange(self.config)
        m.d.comb += [
            active.descriptor.eq(self.descriptors.p),  # as `d` will have it, with what follows from it
            active.current.tokens.eq(self.current.tokens),
            active.current.runs.eq(self.current.runs),
            active.current.wanted.eq(self.current.wanted),
            *([active.current.chooses.eq(self.current.chooses)] if self.config.kv_budget else []),
        ]

        walk = Walk(self)
        d, segment = walk.descriptor, self.segments
        m.d.comb += [
            self.runs.index.eq(walk.run),
            self.tokens.index.eq(walk.index),
            self.pages.index.eq((walk.pages + walk.entry)[: len(self.pages.index)]),
            self.shortlist.index.eq(walk.index),
            self.shortlist_number.eq(d.token_start),
            segment.p.beats.eq(d.stream_beats),
        ]

        if self.config.kv_budget:
            self._look_into_choice(m, walk)
        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptors.ready.eq(1)
                with m.If(self.descriptors.valid):
                    m.d.sync += [d.eq(self.descriptors.p), self.idle.eq(0)]
                    m.next = "DECODE"
            with m.State("DECODE"):
                self._decode(m, walk, active)
            self._open_run(m, walk)
            with m.State("HOLD"), m.If(self.shortlist_complete):
                m.next = "LOOK_UP"
            self._find_address(m, walk)
            with m.State("EMIT"), m.If(segment.ready):
                m.d.sync += [segment.valid.eq(0), walk.index.eq(walk.index + 1)]
                with m.If(walk.index != walk.last):
                    m.next = "LOOK_UP"
                with m.Elif(walk.heads != 1):
                    m.d.sync += [walk.index.eq(0), walk.heads.eq(walk.heads - 1), walk.base.eq(walk.base + d.head_stride)]
                    if self.config.kv_budget:
                        m.d.sync += walk.head.eq(walk.head + 1)
                    m.next = "LOOK_UP"
                with m.Elif(self._of_runs(d)):
                    self._next_run(m, walk)
                with m.Else():
                    m.next = "TAKE"
        return m

    def _of_runs(self, d: data.View[data.StructLayout]) -> Value:
        """Whether the segments are those of one run after the other."""
        of_runs = (d.fetch == Fetch.POSITION) | (d.fetch == Fetch.CACHE)
        return of_runs | (d.fetch == Fetch.SUMMARY) if self.config.kv_budget else of_runs

    def _decode(self, m: Module, walk: Walk, active: ActiveRange) -> None:
        """What the descriptor wants, a cycle after it came."""
        d, segment = walk.descriptor, self.segments
        m.d.sync += [
            walk.base.eq(d.stream_address),
            walk.index.eq(active.first),
            walk.last.eq(active.first + active.count - 1),
            walk.heads.eq(1),
            walk.stride.eq(d.stride),
            walk.run.eq(0),
        ]
        with m.If(d.opcode == Opcode.END):
            m.d.sync += self.idle.eq(1)
            m.next = "TAKE"
        with m.Elif(active.skip | (d.stream_beats == 0)):
            m.next = "TAKE"
        with m.Else(), m.Switch(d.fetch):
            with m.Case(Fetch.STREAM):
                m.d.sync += [segment.valid.eq(1), segment.p.address.eq(d.stream_address), walk.last.eq(active.first)]
                m.next = "EMIT"
            with m.Case(Fetch.TOKEN):
                m.next = "LOOK_UP"
            with m.Case(Fetch.POSITION, *(() if self.config.kv_budget else (Fetch.CACHE,))):
                m.next = "RUN"
            if self.config.kv_budget:
                with m.Case(Fetch.CACHE):
                    m.next = "CHOICE"
                with m.Case(Fetch.SUMMARY):
                    m.d.sync += walk.pending.eq(1)
                    m.next = "RUN"
            with m.Case(Fetch.SHORTLIST):
                m.d.sync += [walk.index.eq(0), walk.last.eq(d.row_blocks - 1), walk.stride.eq(d.head_stride)]
                m.next = "HOLD"
            with m.Default():
                m.next = "TAKE"

    def _open_run(self, m: Module, walk: Walk) -> None:
        """States that find out about a run. One without cached blocks has no segments of CACHE."""
        config, d, runs = self.config, walk.descriptor, self.runs
        of_cache, blocks = d.fetch == Fetch.CACHE, Signal(range(config.max_pages + 1))
        seen = walk.seen if config.kv_budget else runs.position
        m.d.comb += blocks.eq((seen + (config.kv_block - 1)) >> (config.kv_block.bit_length() - 1))
        if config.kv_budget:
            of_cache |= d.fetch == Fetch.SUMMARY
            self._choose(m, walk)
        with m.State("RUN"):
            m.next = "SEEN" if config.kv_budget else "BEGIN"
        with m.State("BEGIN"):
            m.d.sync += [
                walk.position.eq(runs.position),
                walk.pages.eq(runs.pages),
                walk.base.eq(d.stream_address),
                walk.index.eq(0),
                walk.last.eq(Mux(of_cache, blocks, runs.tokens) - 1),
                walk.heads.eq(Mux(of_cache, d.kv_heads, 1)),
            ]
            m.next = "LOOK_UP"
            with m.If(of_cache & ((blocks == 0) | (d.kv_heads == 0))):
                self._next_run(m, walk)

    def _look_into_choice(self, m: Module, walk: Walk) -> None:
        """Builds with a budget: which entry of the page table an index means."""
        d = walk.descriptor
        m.d.sync += [
            walk.choosing.eq(d.fetch == Fetch.SUMMARY),
            # Settled when the first block that was chosen is looked up.
            walk.choice.eq(((walk.run << len(walk.head)) + walk.head) * self.config.kv_budget),
        ]
        with m.If(self.choice_done):
            m.d.sync += walk.pending.eq(0)
        m.d.comb += [
            self.choice.index.eq((walk.choice + walk.index - 1)[: len(self.choice.index)]),
            walk.chosen.eq((walk.budget != 0) & (d.fetch == Fetch.CACHE)),
            walk.entry.eq(Mux(walk.choosing & (walk.budget != 0), -1 - walk.index, Mux(walk.chosen, walk.block, walk.index))),
        ]

    def _choose(self, m: Module, walk: Walk) -> None:
        """States of builds with a budget: the choice is waited for, and what a run attends to, or chooses from, found out."""
        config, runs = self.config, self.runs
        within = (walk.index != 0) & (walk.index <= walk.budget)
        with m.State("CHOICE"), m.If(~walk.pending):
            m.next = "RUN"
        with m.State("SEEN"):
            m.d.sync += [
                walk.seen.eq(seen_position(config, runs, walk.choosing)),
                walk.budget.eq(runs.budget),
                walk.skipped.eq((runs.position >> (config.kv_block.bit_length() - 1)) - runs.budget - 2),
                walk.head.eq(0),
            ]
            with m.If(walk.choosing & (runs.budget == 0)):
                m.d.sync += walk.seen.eq(1)  # a block
            m.next = "BEGIN"
        with m.State("BLOCK"):
            m.d.sync += walk.block.eq(Mux(within, self.choice.number, Mux(walk.index == 0, 0, walk.index + walk.skipped)))
            m.next = "PAGE"
        with m.State("PAGE"):
            m.next = "NUMBER"

    def _next_run(self, m: Module, walk: Walk) -> None:
        """The next run follows, or the next descriptor behind the last one."""
        m.d.sync += walk.run.eq(walk.run + 1)
        m.next = "RUN"
        with m.If(walk.run + 1 == self.current.runs):
            m.next = "TAKE"

    def _find_address(self, m: Module, walk: Walk) -> None:
        """States from an index to the segment's address: its number in the table, times the stride, plus the base."""
        d, segment, stride = walk.descriptor, self.segments, walk.stride
        # "$signal" is Amaranth's name for a signal without one; given where the Verilog has it.
        number = Signal(NUMBER_BITS, name="$signal")
        low, high = Signal(NUMBER_BITS + 16), Signal(NUMBER_BITS + 16)
        with m.State("LOOK_UP"):
            m.d.comb += self.shortlist_read.eq(1)
            m.next = "NUMBER"
            if self.config.kv_budget:
                with m.If(walk.chosen):
                    m.next = "BLOCK"
        with m.State("NUMBER"):
            with m.Switch(d.fetch):
                with m.Case(Fetch.TOKEN):
                    m.d.sync += number.eq(self.tokens.number)
                with m.Case(Fetch.POSITION):
                    m.d.sync += number.eq(walk.position + walk.index)
                with m.Case(Fetch.SHORTLIST):
                    m.d.sync += number.eq(self.shortlist.number)
                with m.Default():
                    m.d.sync += number.eq(self.pages.number)
            m.next = "MULTIPLY"
        with m.State("MULTIPLY"):
            m.d.sync += [low.eq(number * stride[:16]), high.eq(number * stride[16:])]
            m.next = "ADD"
        with m.State("ADD"):
            m.d.sync += [segment.valid.eq(1), segment.p.address.eq(walk.base + low + (high << 16))]
            m.next = "EMIT"
