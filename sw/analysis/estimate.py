"""``hwgen estimate``: prompt and decoding by the model of a pass (`pass_model`), as numbers and for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...block_choice import attended_position, may_choose
from ...boards import Board
from ...config import BuildConfig
from ...decoder import DecoderLayer
from ...errors import HwgenError
from ...published import published_model
from ...rounding import align
from ...shape import ModelShape
from ...sim.board_timing import USUAL, MemoryConditions, board_timing, describe_memory, memory_json
from ...sim.dram import KV260
from ...sim.port_rate import tabled_port_rate
from ..compiler.compile import plan_image
from ..compiler.image import Image
from ..compiler.pass_model import Calibration, PassEstimate, PassModel
from ..models.random_model import sized_model
from ..runtime.kv_arrays import with_cache_tokens

__all__ = [
    "Estimate", "attended", "cache_tokens", "calibration_of", "context_text", "describe_estimate", "estimate_json",
    "estimate_model", "planned_image",
]


@dataclass
class Estimate:
    """A prompt and decoding behind it."""

    prefill: list[PassEstimate] = field(default_factory=list)
    decode: list[PassEstimate] = field(default_factory=list)


def calibration_of(board: Board, conditions: MemoryConditions) -> Calibration:
    """The calibration with the memory of ``board``; the defaults are that of `KV260`."""
    usual, timing = Calibration(), board_timing(board, conditions)
    rate = conditions.port_rate
    if rate is None:
        rate = usual.port_rate if board.platform is None else tabled_port_rate(board, conditions)
    reads = timing.command_latency + timing.read_latency - KV260.read_latency
    writes = timing.write_latency - KV260.write_latency
    return replace(
        usual, port_rate=rate, first_beat=usual.first_beat + reads, refill=usual.refill + reads, finish=usual.finish + writes
    )


def estimate_model(
    config: BuildConfig,
    shape: ModelShape,
    prompt: int,
    decode: int,
    *,
    cached: int = 0,
    sequences: int = 1,
    head: str = "exact",
    kv: str = "k8v8",
    kv_budget: int = 0,
    engine: str = "ternary",
    layer: DecoderLayer | None = None,
    calibration: Calibration | None = None,
) -> Estimate:
    """Every pass of a prompt of ``prompt`` tokens behind ``cached`` ones, and ``decode`` passes with a new token of each of
    ``sequences`` answers, which choose ``kv_budget`` blocks of their cache where that has more.
    """
    model = PassModel(config, shape, head=head, kv=kv, engine=engine, layer=layer, calibration=calibration)
    result = Estimate()
    for first in range(0, prompt, model.chunk):
        count = min(model.chunk, prompt - first)
        result.prefill.append(model.run(count, cached + first, wanted=int(first + count == prompt)))
    if sequences > model.chunk:
        raise HwgenError("usage", f"a pass has at most {model.chunk} tokens, not {sequences}", f"give --sequences {model.chunk}")
    for i in range(decode):
        runs = [(cached + prompt + i, 1)] * sequences
        result.decode.append(model.run_runs(runs, sequences, [kv_budget] * sequences))
    return result


def planned_image(
    config: BuildConfig, shape: ModelShape, engine: str, head: str = "exact", context: int | None = None,
    layer: DecoderLayer | None = None, kv: str = "k8v8",
) -> Image:
    """The image of a model of these sizes: where everything lies, and not a byte of it. ``context``: its longest, in place of that
    of ``shape``.
    """
    if context is not None:
        if context > config.max_context:
            raise HwgenError(
                "context", f"a context of {context} tokens is longer than the {config.max_context} of build {config.name!r}",
                f"build with max_context={align(context, config.kv_block)}, or give a shorter --context",
            )
        shape = replace(shape, max_context=context)
    weights: Any = sized_model(shape, engine, layer, kv)  # what compilers ask of weights
    return plan_image(config, weights, head=head)


def _cycles(passes: Sequence[PassEstimate]) -> float:
    return sum(p.cycles for p in passes)


def cache_tokens(config: BuildConfig, sequences: int, tokens: int) -> int:
    """Tokens of a cache that holds so many answers of so many: whole pages each, of summaries too."""
    blocks = config.kv_block // config.summary_rows if config.kv_budget else 1
    return sequences * align(tokens, blocks * config.kv_block)


def attended(config: BuildConfig, position: int, kv_budget: int) -> int:
    """Cached tokens that a decode step at ``position`` attends to: all of them where it has no more blocks than it may choose."""
    return attended_position(config, position, kv_budget if may_choose(config, position, kv_budget) else 0)


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
    sequences: int = 1,
    head: str = "exact",
    kv: str = "k8v8",
    kv_budget: int = 0,
    layers: int | None = None,
    memory: MemoryConditions = USUAL,
    context: int | None = None,
) -> dict[str, Any]:
    """What ``hwgen estimate --json`` prints. ``context``: tokens that the KV cache holds (if None, as many as are measured with
    this shape, or as the workload has).
    """
    config, shape, needed = board.config, published_model(shape_name).shape, cached + prompt + decode
    if context is None:
        context = max(min(shape.max_context, config.max_context), needed)
    elif context < needed:
        raise HwgenError("context", f"{needed} tokens are longer than the context of {context} tokens", f"give --context {needed}")
    if layers is not None:
        shape = replace(shape, layers=layers)
    engine, layer = published_model(shape_name).engine, published_model(shape_name).layer
    estimate = estimate_model(
        config, shape, prompt, decode, cached=cached, sequences=sequences, head=head, kv=kv, kv_budget=kv_budget, engine=engine,
        layer=layer, calibration=calibration_of(board, memory),
    )
    placed = planned_image(config, shape, engine, head, context, layer, kv)
    if sequences > 1:
        placed = with_cache_tokens(placed, max(placed.context, cache_tokens(config, sequences, needed)))
    hertz = config.clock_mhz * 1e6
    first, later, tokens = _cycles(estimate.prefill), _cycles(estimate.decode), decode * sequences
    beats = sum(p.stream_beats for p in estimate.decode)
    macs = config.macs(engine)
    return {
        "shape": shape_name,
        "board": board.name,
        "clock_mhz": config.clock_mhz,
        "head": head,
        "kv": kv,
        "kv_budget": kv_budget,
        "sequences": sequences,
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
            "tokens": tokens,
            "context": cached + prompt,
            "attended": attended(config, cached + prompt, kv_budget),
            "choosing_per_token": sum(p.choosing for p in estimate.decode) / tokens if tokens else None,
            "cycles_per_token": later / tokens if tokens else None,
            "tok_s": tokens * hertz / later if later else None,
            "tok_s_each": decode * hertz / later if later else None,
            # Both against a beat a cycle, whatever the number of ports.
            "port_utilisation": beats / later if later else None,
            "port_limit_tok_s": tokens * hertz / beats if beats else None,
            "bytes_per_token": beats * config.beat_bytes / tokens if tokens else None,
            "stream_bytes": beats * config.beat_bytes,
        },
        "by_operator": _by_operator([*estimate.prefill, *estimate.decode]),
        "context": placed.context,
        "contiguous_bytes": placed.contiguous_bytes,
        "buffers": {name: sum(sizes) for name, sizes in placed.buffers().items()},
    }


def context_text(decode: dict[str, Any]) -> str:
    """Where a token is decoded, and what it attends to, in words."""
    part = "" if decode["attended"] == decode["context"] else f", attending to {decode['attended']} tokens of it"
    return f"context {decode['context']}{part}"


def describe_estimate(result: dict[str, Any]) -> list[str]:
    """The estimate for people."""
    prefill, decode = result["prefill"], result["decode"]
    at = f"estimated, {result['clock_mhz']:g} MHz"
    budget = f", {result['kv_budget']} blocks of it chosen" if result["kv_budget"] else ""
    lines = [f"{result['shape']} on {result['board']}, {result['head']} head, {result['kv']} cache{budget}"]
    if prefill["cycles"]:
        lines.append(
            f"prefill  {prefill['tokens']} tokens: {prefill['cycles']:,} cycles, time to first token {prefill['ttft_s']:.4f} s, "
            f"{prefill['tok_s']:.1f} tokens/s, engine used {prefill['mac_utilisation']:.1%} ({at})"
        )
    if decode["tok_s"]:
        number = result["sequences"]
        shared = "" if number == 1 else f"{number} sequences, {decode['tok_s_each']:.2f} tokens/s each, "
        lines.append(
            f"decode   {shared}at {context_text(decode)}: {decode['cycles_per_token']:,.0f} cycles a token, "
            f"{decode['tok_s']:.2f} "
            f"tokens/s ({at}); a beat in {decode['port_utilisation']:.1%} of the cycles, port limit (one in every cycle) "
            f"{decode['port_limit_tok_s']:.2f} tokens/s"
        )
    ranked = sorted(result["by_operator"].items(), key=lambda item: -item[1])
    lines.append(describe_memory(result["memory"]))
    parts = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in result["buffers"].items())
    total = f"{result['contiguous_bytes'] / 1e6:,.0f} MB of contiguous memory"
    lines.append(f"buffers  {total} at context {result['context']} (MB: {parts})")
    lines.append("cycles   " + ", ".join(f"{name} {cycles:,}" for name, cycles in ranked if cycles))
    return lines
