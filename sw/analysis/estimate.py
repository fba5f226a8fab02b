"""``hwgen estimate``: cycles, ring level and bytes of whole passes from configuration and model sizes, in milliseconds.

The model walks the same program that the machine runs, with the machine's rules: operators start in order, once the
units of `hwgen.hazards` are idle; a unit's time follows from sizes; readers of the ring go no faster than
beats arrive; beats arrive no faster than the ports deliver, and only where the ring has room.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from ...boards import Board
from ...config import BuildConfig
from ...descriptors import Descriptor, Fetch, Flag, Format, Opcode
from ...hazards import UNIT_OF, Unit, must_wait
from ...layout import Int4Layout, KvBlockLayout
from ...published import engine_of, published_shape
from ...shape import ModelShape
from ...sim.board_timing import USUAL, MemoryConditions, board_timing, describe_memory, memory_json
from ...sim.dram import KV260
from ...sim.port_rate import tabled_port_rate
from ..compiler.layers import plan_model
from ..models.random_model import RandomLlama, RandomModel

__all__ = ["Calibration", "Estimate", "PassEstimate", "PassModel", "describe_estimate", "estimate_json", "estimate_model"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Cycles that sizes do not give: depths of pipelines and pauses of state machines, as the RTL has them.

    ``tests/sw/analysis/test_estimate.py`` holds the result against RTL runs.
    """

    #: Beats a cycle that the ports sustain.
    port_rate: float = 0.995
    #: From the doorbell to the first beat in the ring.
    first_beat: int = 130
    #: From a row that is freed to the beat that takes its place.
    refill: int = 90
    #: From the end of an operator to the start of one that waited for it; between starts.
    start: int = 5
    issue: int = 2
    #: LINEAR: before the first beat (first tables), behind the last.
    linear_begin: int = 150
    linear_end: int = 15
    #: LINEAR of the INT4 engine, beside loading the first slice.
    int4_begin: int = 20
    #: NORM: a token, beside two passes over its vectors; once.
    norm_token: int = 38
    norm_end: int = 20
    #: DRAIN: a token beside its vectors; once.
    drain_token: int = 4
    drain_end: int = 30
    #: ROPE: a token beside two passes; once.
    rope_token: int = 16
    rope_end: int = 45
    #: ATTENTION: a key/value head beside its items; the output of a round of queries; once.
    attention_head: int = 80
    attention_output: int = 43
    attention_end: int = 100
    #: HEAD: a block beside its beats; once.
    head_block: int = 1
    head_end: int = 100
    #: RingLoader: a row; once.
    loader_row: int = 2
    loader_end: int = 6
    #: KV_WRITE: a beat, where a head's keys are rotated into their place; once.
    kv_beat: float = 6.03
    kv_end: int = 20
    #: After END: writes answered, status.
    finish: int = 40


def calibration_of(board: Board, conditions: MemoryConditions) -> Calibration:
    """The calibration with the memory of ``board``; the defaults are that of `KV260`."""
    usual, timing = Calibration(), board_timing(board, conditions)
    rate = usual.port_rate if board.platform is None else tabled_port_rate(board, conditions)
    reads = timing.command_latency + timing.read_latency - KV260.read_latency
    writes = timing.write_latency - KV260.write_latency
    return replace(
        usual, port_rate=rate, first_beat=usual.first_beat + reads, refill=usual.refill + reads, finish=usual.finish + writes
    )


class Ring:
    """Beats between the ports and their readers, in steps of ``step`` beats."""

    def __init__(self, config: BuildConfig, calibration: Calibration, step: int = 256) -> None:
        self.capacity, self.step = config.ring_beats, step
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
                self.arrived = max(self.arrived + part / self.calibration.port_rate, self._room(self.fetched))
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


@dataclass
class Estimate:
    """A prompt and decoding behind it."""

    prefill: list[PassEstimate] = field(default_factory=list)
    decode: list[PassEstimate] = field(default_factory=list)


class PassModel:
    """Passes of one model on one build."""

    def __init__(
        self,
        config: BuildConfig,
        shape: ModelShape,
        *,
        head: str = "exact",
        engine: str = "ternary",
        calibration: Calibration | None = None,
    ) -> None:
        self.config, self.shape = config, shape
        self.calibration = calibration or Calibration()
        weights: Any = RandomLlama(shape) if engine == "int4" else RandomModel(shape)  # sizes are all that is used
        self.program, self.chunk = plan_model(config, weights, head)

    def active(self, tokens: int, logits: bool) -> Iterator[tuple[Descriptor, int]]:
        """The operators of a pass and their active tokens."""
        for d in self.program:
            if d.token_start >= tokens or (Flag.LOGITS in d.flags and not logits):
                continue
            if Flag.MULTI in d.flags and tokens <= 2 * d.token_count:
                continue
            yield d, 1 if Flag.LAST in d.flags else min(d.token_count, tokens - d.token_start)

    def run(self, tokens: int, position: int, *, logits: bool = True) -> PassEstimate:
        """One pass of ``tokens`` tokens behind ``position`` cached ones."""
        c = self.calibration
        ring = Ring(self.config, c)
        running: dict[Unit, Span] = {}
        spans: list[Span] = []
        issued = float(c.first_beat) / 2
        beats = 0
        busy = 0.0
        for d, count in self.active(tokens, logits):
            unit = UNIT_OF[d.opcode]
            ready = max(
                (span.end for other, span in running.items() if other is unit or must_wait(d, span.descriptor)), default=0.0
            )
            start = max(issued + c.issue, ready + c.start)
            issued = start
            end = self._finish(d, count, tokens, position, start, ring)
            if d.opcode is Opcode.LINEAR:
                busy += self._linear_beats(d) / (self.config.groups if count <= self.config.lanes else 1)
            beats += self._stream_beats(d, count, position)
            running[unit] = Span(d, count, start, end)
            spans.append(running[unit])
        return PassEstimate(max(span.end for span in running.values()) + c.finish, spans, beats, busy)

    def _linear_beats(self, d: Descriptor) -> int:
        """Beats that LINEAR takes, fetched or held for replay."""
        return Int4Layout.of(self.config, d).beats if Format.FP8 in d.format else d.slices * d.row_blocks

    def _stream_beats(self, d: Descriptor, count: int, position: int) -> int:
        if d.fetch in (Fetch.TOKEN, Fetch.POSITION):
            return d.stream_beats * count
        if d.fetch is Fetch.CACHE:
            return d.stream_beats * d.kv_heads * ceil(position / self.config.kv_block)
        if d.fetch is Fetch.SHORTLIST:
            return d.stream_beats * d.row_blocks
        return d.stream_beats if d.fetch is Fetch.STREAM else 0

    def _finish(self, d: Descriptor, count: int, tokens: int, position: int, start: float, ring: Ring) -> float:
        """When an operator that starts at ``start`` ends."""
        c, config = self.calibration, self.config
        beats = self._stream_beats(d, count, position)
        if d.opcode is Opcode.LINEAR:
            rate = float(config.groups if count <= config.lanes else 1)
            held = Flag.REPLAY in d.flags and d.token_start + d.token_count < tokens
            total = self._linear_beats(d)
            if Format.FP8 in d.format:
                layout = Int4Layout.of(config, d)
                load = count * ceil(config.int4_slice_inputs / config.width) + 4
                cycles = d.slices * max(d.row_blocks / rate, load) + layout.groups * layout.scale_beats
                begin = start + load + c.int4_begin
            else:
                cycles = d.slices * max(d.row_blocks / rate, self.table_cycles(count))
                begin = start + c.linear_begin
            return ring.read(begin, total, total / cycles, fetch=beats > 0, free=not held) + c.linear_end
        if d.opcode is Opcode.NORM:
            return start + count * (2 * d.vectors + c.norm_token) + c.norm_end
        if d.opcode is Opcode.DRAIN:
            return start + count * (d.vectors + c.drain_token) + c.drain_end
        if d.opcode is Opcode.ROPE:
            parts = {Flag.QUERIES: d.heads, Flag.KEYS: d.kv_heads, Flag.VALUES: d.kv_heads}
            heads = sum(count for flag, count in parts.items() if flag in d.flags) * d.head_vectors
            return start + count * (2 * heads + c.rope_token) + c.rope_end
        if d.opcode in (Opcode.EMBED, Opcode.PARAM, Opcode.ROTARY):
            rows = 1 if d.opcode is Opcode.PARAM else count
            cycles = rows * (max(d.vectors, d.stream_beats) + c.loader_row)
            return ring.read(start, beats, beats / cycles, fetch=True, free=True) + c.loader_end
        if d.opcode is Opcode.ATTENTION:
            return self._attention(d, count, position, start, ring)
        if d.opcode is Opcode.HEAD:
            if d.fetch is Fetch.SHORTLIST:  # fetched when it has started
                ring.arrived = max(ring.arrived, start + c.refill)
            rate = beats / (beats + d.row_blocks * c.head_block)
            return ring.read(start, beats, rate, fetch=True, free=True) + c.head_end
        if d.opcode is Opcode.KV_WRITE:
            blocks = (position + tokens - 1) // config.kv_block - position // config.kv_block + 1
            return start + d.kv_heads * blocks * d.stream_beats * c.kv_beat + c.kv_end
        return start

    def table_cycles(self, count: int) -> int:
        """Cycles between two slices of LINEAR at least: building the tables, or loading the activations."""
        config = self.config
        tables = ceil(config.tables / config.builders) * 14
        return max(tables + 2, count * ceil(config.slice_inputs / config.width) + 4)

    def _attention(self, d: Descriptor, count: int, position: int, start: float, ring: Ring) -> float:
        c, config = self.calibration, self.config
        layout = KvBlockLayout(config, d.head_vectors * config.width, Format.INT4_KV in d.format)
        rounds = ceil(count * d.heads // d.kv_heads / config.query_lanes)
        item = max(layout.data_beats, config.kv_block)
        past = ceil(position / config.kv_block)
        now = start
        for _ in range(d.kv_heads):
            now += rounds * (item + c.attention_output) + c.attention_head
            if past:
                cycles = past * max(rounds * item, layout.beats)
                now = ring.read(now, past * layout.beats, past * layout.beats / cycles, fetch=True, free=True)
        return now + c.attention_end


def estimate_model(
    config: BuildConfig,
    shape: ModelShape,
    prompt: int,
    decode: int,
    *,
    cached: int = 0,
    head: str = "exact",
    engine: str = "ternary",
    calibration: Calibration | None = None,
) -> Estimate:
    """Every pass of a prompt of ``prompt`` tokens behind ``cached`` ones, and of ``decode`` new tokens."""
    model = PassModel(config, shape, head=head, engine=engine, calibration=calibration)
    result = Estimate()
    for first in range(0, prompt, model.chunk):
        count = min(model.chunk, prompt - first)
        result.prefill.append(model.run(count, cached + first, logits=first + count == prompt))
    for i in range(decode):
        result.decode.append(model.run(1, cached + prompt + i))
    return result


def _cycles(passes: Sequence[PassEstimate]) -> float:
    return sum(p.cycles for p in passes)


def _by_operator(passes: Sequence[PassEstimate]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for traced in passes:
        total.update({name: round(cycles) for name, cycles in traced.by_operator.items()})
    return dict(total)


def estimate_json(
    board: Board,
    shape_name: str,
    prompt: int,
    decode: int,
    *,
    cached: int = 0,
    head: str = "exact",
    layers: int | None = None,
    memory: MemoryConditions = USUAL,
) -> dict[str, Any]:
    """What ``hwgen estimate --json`` prints."""
    config, shape = board.config, published_shape(shape_name)
    if layers is not None:
        shape = replace(shape, layers=layers)
    engine = engine_of(shape_name)
    estimate = estimate_model(
        config, shape, prompt, decode, cached=cached, head=head, engine=engine, calibration=calibration_of(board, memory)
    )
    hertz = config.clock_mhz * 1e6
    first, later = _cycles(estimate.prefill), _cycles(estimate.decode)
    beats = sum(p.stream_beats for p in estimate.decode)
    macs = config.macs(engine)
    return {
        "shape": shape_name,
        "board": board.name,
        "clock_mhz": config.clock_mhz,
        "head": head,
        "memory": memory_json(board, memory),
        "estimated": True,
        "prefill": {
            "tokens": prompt,
            "cycles": round(first),
            "ttft_s": first / hertz,
            "tok_s": prompt * hertz / first if first else None,
            "mac_utilisation": prompt * shape.linear_weights / (first * macs) if first else None,
            "stream_bytes": sum(p.stream_beats for p in estimate.prefill) * config.beat_bytes,
        },
        "decode": {
            "tokens": decode,
            "context": cached + prompt,
            "cycles_per_token": later / decode if decode else None,
            "tok_s": decode * hertz / later if later else None,
            "port_utilisation": beats / later if later else None,
            "port_limit_tok_s": decode * hertz / beats if beats else None,
            "stream_bytes": beats * config.beat_bytes,
        },
        "by_operator": _by_operator([*estimate.prefill, *estimate.decode]),
    }


def describe_estimate(result: dict[str, Any]) -> list[str]:
    """The estimate for people."""
    prefill, decode = result["prefill"], result["decode"]
    at = f"estimated, {result['clock_mhz']:g} MHz"
    lines = [f"{result['shape']} on {result['board']}, {result['head']} head"]
    if prefill["cycles"]:
        lines.append(
            f"prefill  {prefill['tokens']} tokens: {prefill['cycles']:,} cycles, time to first token {prefill['ttft_s']:.4f} s, "
            f"{prefill['tok_s']:.1f} tokens/s, engine used {prefill['mac_utilisation']:.1%} ({at})"
        )
    if decode["tok_s"]:
        lines.append(
            f"decode   at context {decode['context']}: {decode['cycles_per_token']:,.0f} cycles a token, {decode['tok_s']:.2f} "
            f"tokens/s ({at}); ports {decode['port_utilisation']:.1%} busy, port limit {decode['port_limit_tok_s']:.2f} tokens/s"
        )
    ranked = sorted(result["by_operator"].items(), key=lambda item: -item[1])
    lines.append(describe_memory(result["memory"]))
    lines.append("cycles   " + ", ".join(f"{name} {cycles:,}" for name, cycles in ranked if cycles))
    return lines
