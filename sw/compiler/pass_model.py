"""Cycles, ring level and bytes of one pass from configuration and model sizes, in milliseconds.

The model walks the same program that the machine runs, with the machine's rules: operators start in order, once the
units that `hwgen.operators` names are idle; a unit's time follows from sizes (`COSTS`); readers of the ring go no faster than
beats arrive; beats arrive no faster than the ports deliver, and only where the ring has room.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from ...block_choice import attended_position, may_choose, summary_pages
from ...config import BuildConfig
from ...decoder import DecoderLayer
from ...descriptors import Descriptor, Fetch, Flag, Format, Opcode
from ...grouped_layout import GroupedLayout
from ...layout import Int4Layout, KvBlockLayout
from ...numerics import SUM_COLUMNS
from ...operators import (
    OPERATORS,
    Unit,
    accumulator_vectors,
    active_tokens,
    all_tokens,
    check_complete,
    has_more_rounds,
    must_wait,
    rope_heads,
    segments,
    skipped,
)
from ...panels import panel_beats
from ...shape import ModelShape
from ..models.random_model import sized_model
from .compile import plan_model

__all__ = ["Calibration", "PassEstimate", "PassModel"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Cycles that sizes do not give: depths of pipelines and pauses of state machines, as the RTL has them.

    ``tests/sw/analysis/test_bench.py`` holds the result against RTL runs.
    """

    #: Beats a cycle that the ports sustain, where they have words for a beat.
    port_rate: float = 0.995
    #: From the doorbell to the first beat in the ring.
    first_beat: int = 130
    #: From a row that is freed to the beat that takes its place.
    refill: int = 90
    #: From the end of an operator to the start of one that waited for it; between starts.
    start: int = 5
    issue: int = 2
    #: LINEAR: before the first beat (first tables), behind the last.
    linear_begin: int = 152
    linear_end: int = 15
    #: LINEAR of the INT4 engine, beside loading the first slice.
    int4_begin: int = 22
    #: NORM: a token, beside two passes over its vectors; once.
    norm_token: int = 36
    norm_end: int = 23
    #: NORM with STORE: a head, beside two passes over its vectors; a halving of the ways of its column sum, and of the lanes.
    norm_head: int = 99
    norm_ways: int = 5
    norm_lanes: int = 6
    #: DRAIN, beside the vectors of its tokens.
    drain_end: int = 30
    #: ROPE: a token beside two passes; once.
    rope_token: int = 15
    rope_end: int = 54
    #: ATTENTION: a cached block, beside its beats; a block that the pass alone makes; the output of a round of queries; once.
    attention_block: int = 1
    attention_own: int = 14
    attention_output: int = 43
    attention_end: int = 300
    #: ATTENTION with CHOOSE: a page of summaries and a round of queries, beside a cycle a summary; the list of a head, beside a
    #: cycle an entry; once.
    choice_item: int = 17
    choice_list: int = 5
    choice_end: int = 100
    #: DRAIN with CANDIDATES: a token, till the last logit has found its place.
    ranking_token: int = 100
    #: HEAD: a block beside its beats; once.
    head_block: int = 1
    head_end: int = 100
    #: RingLoader: a row; once.
    loader_row: int = 2
    loader_end: int = 6
    #: KV_WRITE: a segment, beside its beats; a header beat, beside its scales and words; a beat of data at least, where answers of
    #: the memory come late; two beats of the store, from request to arrival; once.
    kv_segment: int = 20
    kv_header: int = 4
    kv_beat: int = 5
    kv_pair: int = 7
    kv_end: int = 20
    #: After END: writes answered, status.
    finish: int = 40


class Ring:
    """Beats between the ports and their readers, in steps of ``step`` beats."""

    def __init__(self, config: BuildConfig, calibration: Calibration, step: int = 256) -> None:
        self.capacity, self.step = config.ring_beats, step
        #: Beats that the ports bring in a cycle.
        self.rate = calibration.port_rate * min(1.0, config.ports * config.port_bytes / config.beat_bytes)
        self.calibration = calibration
        #: Beats fetched, and when the last of them arrived.
        self.fetched, self.arrived = 0, float(calibration.first_beat)
        #: Beats freed, and when: both ascending.
        self.freed_beats: list[int] = [0]
        self.freed_times: list[float] = [0.0]

    def _room(self, beats: int) -> float:
        """When the ring has had room for ``beats`` beats in all."""
        excess = beats - self.capacity
        if excess <= 0:
            return 0.0
        at = bisect_left(self.freed_beats, excess)
        if at == len(self.freed_beats):  # a matrix that is held for replay: freed when it is read for the last time
            return self.freed_times[-1]
        return self.freed_times[at] + self.calibration.refill

    def read(self, start: float, beats: int, rate: float, *, fetch: bool, free: bool) -> float:
        """When ``beats`` beats have been read at up to ``rate`` a cycle, beginning at ``start``."""
        now = start
        done = 0
        while done < beats:
            part = min(self.step, beats - done)
            if fetch:
                self.fetched += part
                self.arrived = max(self.arrived + part / self.rate, self._room(self.fetched))
                now = max(now, self.arrived)
            now = max(now, start) + part / rate if rate else now
            done += part
            if free:
                self.freed_beats.append(self.freed_beats[-1] + part)
                self.freed_times.append(now)
        return now


@dataclass(frozen=True)
class Span:
    """One operator in time."""

    descriptor: Descriptor
    count: int
    start: float
    end: float


@dataclass
class PassEstimate:
    """One pass."""

    cycles: float
    spans: list[Span]
    stream_beats: int
    #: Cycles in which the engine takes beats.
    engine_busy: float

    @property
    def by_operator(self) -> dict[str, float]:
        total: Counter[str] = Counter()
        for span in self.spans:
            total[span.descriptor.opcode.name.lower()] += span.end - span.start  # type: ignore[assignment]  # cycles are fractions
        return dict(total)

    @property
    def choosing(self) -> float:
        """Cycles in which blocks are chosen: those of attention have them too."""
        return sum(span.end - span.start for span in self.spans if Flag.CHOOSE in span.descriptor.flags)


@dataclass(frozen=True)
class Work:
    """One operator of a pass."""

    descriptor: Descriptor
    #: Active tokens; all that the descriptor counts.
    count: int
    tokens: int
    #: Runs of the pass: position of the first token, and tokens.
    runs: Sequence[tuple[int, int]]
    start: float
    #: Beats that are fetched for it.
    beats: int
    #: Blocks that each run chooses, 0 where it attends to all; without them no run chooses.
    budgets: Sequence[int] = ()

    @property
    def budgeted(self) -> Iterator[tuple[int, int, int]]:
        """Of every run position, tokens and budget."""
        for (position, tokens), budget in zip(self.runs, self.budgets or [0] * len(self.runs), strict=True):
            yield position, tokens, budget


class PassModel:
    """Passes of one model on one build."""

    def __init__(
        self,
        config: BuildConfig,
        shape: ModelShape,
        *,
        head: str = "exact",
        kv: str = "k8v8",
        engine: str = "ternary",
        layer: DecoderLayer | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.config = config
        self.calibration = calibration or Calibration()
        weights: Any = sized_model(shape, engine, layer, kv)
        self.program, self.chunk = plan_model(config, weights, head)
        #: Beats of the ring that are looked at together.
        self.step = 256

    @classmethod
    def of_program(cls, config: BuildConfig, program: Sequence[Descriptor], chunk: int) -> PassModel:
        """Passes of a program that is compiled already, with the usual calibration."""
        model = cls.__new__(cls)
        model.config, model.calibration, model.program, model.chunk = config, Calibration(), list(program), chunk
        model.step = max(256, config.ring_beats // 2)  # coarse, so that a board has the figure in time
        return model

    def run(self, tokens: int, position: int, *, wanted: int = 1, budget: int = 0) -> PassEstimate:
        """One pass of ``tokens`` tokens behind ``position`` cached ones, with logits of ``wanted``; ``budget`` as of `run_runs`."""
        return self.run_runs([(position, tokens)], wanted, [budget])

    def run_runs(self, runs: Sequence[tuple[int, int]], wanted: int, budgets: Sequence[int] = ()) -> PassEstimate:
        """One pass of runs ``(position, tokens)``, with logits of ``wanted`` of all their tokens. ``budgets``: blocks of the cache
        that each of them may choose, 0 is all; a run has one where it has one token, and more blocks than that.
        """
        c, config, tokens = self.calibration, self.config, sum(count for _, count in runs)
        chosen = self._chosen(runs, budgets)
        positions = [position for position, _ in runs]
        seen = {
            Fetch.CACHE: sum(ceil(attended_position(config, *of) / config.kv_block) for of in zip(positions, chosen, strict=True)),
            Fetch.SUMMARY: sum(summary_pages(config, p) if n else 1 for p, n in zip(positions, chosen, strict=True)),
        }
        ring = Ring(self.config, c, self.step)
        running: dict[Unit, Span] = {}
        spans: list[Span] = []
        issued = float(c.first_beat) / 2
        beats = 0
        busy = 0.0
        for d in self.program:
            if skipped(d, tokens, wanted, any(chosen)):
                continue
            unit, count = OPERATORS[d.opcode].unit, len(active_tokens(d, tokens, wanted))
            ready = max(
                (span.end for other, span in running.items() if other is unit or must_wait(d, span.descriptor)), default=0.0
            )
            start = max(issued + c.issue, ready + c.start)
            issued = start
            fetched = d.stream_beats * segments(d, count, seen.get(d.fetch, 0))
            end = COSTS[d.opcode](self, Work(d, count, all_tokens(d, tokens, wanted), runs, start, fetched, chosen), ring)
            if d.opcode is Opcode.LINEAR:
                busy += panel_beats(self.config, d) / (self.config.groups if count <= self.config.lanes else 1)
            beats += fetched
            running[unit] = Span(d, count, start, end)
            spans.append(running[unit])
        return PassEstimate(max(span.end for span in running.values()) + c.finish, spans, beats, busy)

    def _chosen(self, runs: Sequence[tuple[int, int]], budgets: Sequence[int]) -> list[int]:
        """Blocks that each run chooses; 0 where it attends to all."""
        budgets = budgets or [0] * len(runs)
        if max(budgets, default=0) > self.config.kv_budget:
            raise ValueError(f"a budget must be at most {self.config.kv_budget}, the kv_budget of the build, not {max(budgets)}")
        return [
            budget if tokens == 1 and may_choose(self.config, position, budget) else 0
            for (position, tokens), budget in zip(runs, budgets, strict=True)
        ]

    # ---- costs: when an operator ends ----------------------------------------------------------------------------
    def _linear(self, w: Work, ring: Ring) -> float:
        c, config, d = self.calibration, self.config, w.descriptor
        rate = float(config.groups if w.count <= config.lanes else 1)
        held = Flag.REPLAY in d.flags and has_more_rounds(d, w.tokens, w.tokens)
        total = panel_beats(config, d)
        if Format.FP8 in d.format:
            layout = Int4Layout.of(config, d)
            load = w.count * ceil(config.int4_slice_inputs / config.width) + 4
            cycles = d.slices * max(d.row_blocks / rate, load) + layout.groups * layout.scale_beats
            begin = w.start + load + c.int4_begin
        elif Format.GROUPED in d.format:  # a beat of short slices is taken for each of its row blocks
            grouped = GroupedLayout.of(config, d)
            cycles = d.slices * max(d.row_blocks / rate, self.table_cycles(w.count)) + grouped.groups * grouped.scale_beats
            begin = w.start + c.linear_begin
        else:
            cycles = d.slices * max(d.row_blocks / rate, self.table_cycles(w.count))
            begin = w.start + c.linear_begin
        return ring.read(begin, total, total / cycles, fetch=w.beats > 0, free=not held) + c.linear_end

    def table_cycles(self, count: int) -> int:
        """Cycles between two slices of LINEAR at least: building the tables, or loading the activations."""
        config = self.config
        tables = ceil(config.tables / config.builders) * 14
        return max(tables + 2, count * ceil(config.slice_inputs / config.width) + 4)

    def _norm(self, w: Work, ring: Ring) -> float:
        c, d = self.calibration, w.descriptor
        if Flag.STORE in d.flags:
            ways = min(d.vectors, SUM_COLUMNS // self.config.width)
            folds = (ways - 1).bit_length() * c.norm_ways + (self.config.width.bit_length() - 1) * c.norm_lanes
            head = 2 * d.vectors + 2 * (ways - 1) + folds + c.norm_head
            return w.start + w.count * d.heads * head + c.norm_end
        return w.start + w.count * (2 * d.vectors + c.norm_token) + c.norm_end

    def _drain(self, w: Work, ring: Ring) -> float:
        c, d = self.calibration, w.descriptor
        if Flag.CANDIDATES in d.flags:  # logits go on one by one
            steps = d.vectors * max(self.config.width, accumulator_vectors(d) // d.vectors)
            return w.start + w.count * (steps + c.ranking_token) + c.drain_end
        return w.start + w.count * accumulator_vectors(d) + c.drain_end

    def _rope(self, w: Work, ring: Ring) -> float:
        c, d = self.calibration, w.descriptor
        vectors = sum(rope_heads(d).values()) * d.head_vectors
        if Flag.STORE in d.flags:  # no second walk
            return w.start + w.count * (vectors * (2 if Flag.ADD in d.flags else 1) + 1) + c.rope_end
        return w.start + w.count * (2 * vectors + c.rope_token) + c.rope_end

    def _load(self, w: Work, ring: Ring) -> float:
        c, d = self.calibration, w.descriptor
        rows = 1 if d.opcode is Opcode.PARAM else w.count
        cycles = rows * (max(d.vectors, d.stream_beats) + c.loader_row)
        return ring.read(w.start, w.beats, w.beats / cycles, fetch=True, free=True) + c.loader_end

    def _attention(self, w: Work, ring: Ring) -> float:
        c, config, d = self.calibration, self.config, w.descriptor
        if Flag.CHOOSE in d.flags:
            return self._choose(w, ring)
        layout = KvBlockLayout(config, d.head_vectors * config.width, d.format)
        dims = d.head_vectors * config.width // config.key_bytes
        item = max(dims, config.kv_block + 3)
        now = w.start
        if any(w.budgets):
            ring.arrived = max(ring.arrived, w.start + c.refill)  # fetched when the choice is complete
        for position, tokens, budget in w.budgeted:
            position = attended_position(config, position, budget)
            rounds = ceil(tokens * d.heads // d.kv_heads / config.query_lanes)
            past, blocks = ceil(position / config.kv_block), ceil((position + tokens) / config.kv_block)
            items = rounds * (blocks * item + c.attention_output)
            # The pass's own keys and values load beside cached ones.
            cycles = max(items, 2 * dims + c.attention_own, past * (layout.beats + c.attention_block))
            for _ in range(d.kv_heads):
                if past:
                    now = ring.read(now, past * layout.beats, past * layout.beats / cycles, fetch=True, free=True)
                else:
                    now += cycles
        return now + c.attention_end

    def _choose(self, w: Work, ring: Ring) -> float:
        """A page of summaries at a time: its scores leave one a cycle, while keys of the next one are multiplied and more arrive.
        Behind a head's last page its list is copied, all entries of it. A run that chooses nothing has one page, and a list too.
        """
        c, config, d = self.calibration, self.config, w.descriptor
        rounds = ceil(d.heads // d.kv_heads / config.query_lanes)
        dims = d.head_vectors * config.width // config.key_bytes
        now = w.start
        for position, _, budget in w.budgeted:
            pages = summary_pages(config, position) if budget else 1
            scores = pages * rounds * (config.kv_block + c.choice_item) + config.kv_budget + c.choice_list
            cycles = max(scores, pages * rounds * dims, pages * (d.stream_beats + c.attention_block))
            for _ in range(d.kv_heads):
                now = ring.read(now, pages * d.stream_beats, pages * d.stream_beats / cycles, fetch=True, free=True)
        return now + c.choice_end

    def _head(self, w: Work, ring: Ring) -> float:
        c, d = self.calibration, w.descriptor
        ring.arrived = max(ring.arrived, w.start + c.refill)  # fetched when it has started
        rate = w.beats / (w.beats + d.row_blocks * c.head_block)
        return ring.read(w.start, w.beats, rate, fetch=True, free=True) + c.head_end

    def _kv_write(self, w: Work, ring: Ring) -> float:
        """Scales one by one, or one alone of a block with one token of the run, then what the store has, two beats at a time: one
        or two of memory. A beat that is written takes the time of one that is read."""
        c, d, config, block = self.calibration, w.descriptor, self.config, self.config.kv_block
        dim, words = d.head_vectors * config.width, max(self.calibration.kv_beat, config.beat_words)
        layout = KvBlockLayout(config, dim, d.format)
        header, data = layout.header_beats, sum(layout.data_beats)
        pairs = sum(max(c.kv_pair + 1, (1 if packed else 2) * words) for packed in layout.packed)
        most = max(tokens for _, tokens in w.runs)
        scales = config.beat_bytes // 2 if most > 1 else ceil(config.beat_bytes / 2 / block)
        segment = (
            c.kv_segment + header * (scales + c.kv_header + words)
            + dim / config.key_bytes / 2 * pairs + (layout.beats - header - data) * words
        )
        blocks = sum((position + tokens - 1) // block - position // block + 1 for position, tokens in w.runs)
        ring.arrived += d.kv_heads * blocks * layout.beats / ring.rate
        return w.start + d.kv_heads * blocks * segment + c.kv_end


#: When an operator that starts at its time ends.
COSTS: Mapping[Opcode, Callable[[PassModel, Work, Ring], float]] = {
    Opcode.EMBED: PassModel._load,
    Opcode.PARAM: PassModel._load,
    Opcode.ROTARY: PassModel._load,
    Opcode.NORM: PassModel._norm,
    Opcode.DRAIN: PassModel._drain,
    Opcode.ROPE: PassModel._rope,
    Opcode.LINEAR: PassModel._linear,
    Opcode.ATTENTION: PassModel._attention,
    Opcode.HEAD: PassModel._head,
    Opcode.KV_WRITE: PassModel._kv_write,
}
check_complete(COSTS, "sw/compiler/pass_model.py, COSTS")
