"""Random builds, models, memories and passes, each from a seed: what the fuzzer runs. All are legal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...block_choice import first_position
from ...config import BuildConfig, ConfigError
from ...decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from ...errors import HwgenError
from ...int4 import GROUPS
from ...numerics import GROUP
from ...registers import NUMBER_BITS
from ...rounding import ceil_div
from ...shape import ModelShape
from ...weights import random_weights
from ..compiler.compile import HEADS, compile_model
from ..compiler.placement import FRAME_BYTES
from .case import MEMORY_BYTES, Case, Part, Step
from .interrupted import Fault, Interruption

if TYPE_CHECKING:
    from ...sim.dram import DramTiming

__all__ = ["random_cases", "random_config", "random_passes", "random_steps"]

#: Sequences that run at the same time at most.
SEQUENCES = 3

#: Models that are drawn to see whether a build has room for one.
TRIES = 100


def random_unrotated(rng: np.random.Generator, layers: int) -> tuple[int, ...]:
    """No layer, mostly, or any."""
    return tuple(i for i in range(layers) if rng.random() < 0.2)


def divisors(value: int) -> list[int]:
    return [d for d in range(1, value + 1) if value % d == 0]


def random_config(seed: int, engine: str = "ternary") -> BuildConfig:
    """A legal build that compiles in about a minute: narrow, with shallow memories and small maxima."""
    rng, grouped = np.random.default_rng([seed, 1]), engine == "grouped"
    formats = {"int4_kv": bool(seed % 2), "fp8_query": bool(seed // 2 % 2)} if engine in ("int4", "both") else {}

    def pick(*values: int) -> int:
        return int(rng.choice(values))

    while True:
        ports, port_bits, beat = pick(1, 2, 3, 4), pick(32, 64, 128), pick(16, 32)
        beat_vectors = pick(1, 1, 2)
        width = beat // 4 // beat_vectors
        rows = pick(*[r for r in (1, 2, 4, 8) if r <= width])
        groups = pick(1, 2, 4)
        lanes = pick(*range(1, max(1, 4 // groups) + 1))
        step = math.lcm(width // rows, groups) * rows
        tables = ceil_div(5 * beat // rows, 3)
        if tables * groups * lanes > 120:  # what building takes grows with it
            continue
        kv_block = pick(*[beat // n for n in (1, 2, 4) if n <= width])
        chunks = [n for n in (1, 2, 4, 6, 8, 10, 14, 16) if n <= kv_block]
        burst = beat * 8 // port_bits * pick(1, 2, 4, 8)
        head_dim = 2 * width * pick(1, 1, 2)
        kv_heads = pick(1, 2, 3)
        heads = kv_heads * pick(1, 2, 3)
        if grouped:  # all inputs of a matrix are whole groups
            heads, kv_heads = GROUP // head_dim, pick(1, 2, 4)
        try:
            config = BuildConfig(
                name=f"random{seed}", engine=engine, **formats, ports=ports, port_bits=port_bits, beat_bytes=beat,
                groups=groups, lanes=lanes, rows=rows, beat_vectors=beat_vectors, builders=pick(*divisors(tables)),
                query_lanes=pick(1, 2, 4),
                kv_block=kv_block, chunk=pick(*chunks, max(chunks), max(chunks)),
                burst=burst, ring_beats=burst * port_bits // beat * pick(1, 2, 8), outstanding=pick(1, 2, 5, 8),
                descriptor_queue=pick(2, 3, 5, 16),
                ring_memory="block", scratch_memory=str(rng.choice(["block", "ultra"])),
                activation_memory=str(rng.choice(["block", "ultra"])),
                scratch_vectors=8 * GROUP // width * pick(2, 3) if grouped else pick(128, 200, 512),
                param_vectors=2 * GROUP // width * pick(2, 3) if grouped else pick(64, 100, 256),
                max_inputs=GROUP * pick(1, 2) if grouped else width * int(rng.integers(max(1, heads * head_dim // width), 30)),
                panel_rows=step * int(rng.integers(1, max(2, 240 // step))),
                max_heads=heads, max_kv_heads=kv_heads, max_shared=pick(heads // kv_heads, heads), max_head_dim=head_dim,
                max_query=heads * head_dim,
                max_context=kv_block * pick(1, 2, 3, 5),
                trace_entries=pick(16, 512), topk=pick(1, 2, 5, 8), shortlist=pick(1, 2, 5), probe=True,
            )
        except (ConfigError, ValueError):  # slices that the INT4 engine does not have; an empty range of sizes is a ValueError
            continue
        config = with_choice(config, seed)
        if holds_a_head(config) and all(fits(config, *kind) for kind in kinds_of_models(config)):
            return config


def with_choice(config: BuildConfig, seed: int) -> BuildConfig:
    """The build, and now and then one whose decode steps choose blocks of the cache, with a context in which they do."""
    rng = np.random.default_rng([seed, 2])
    if rng.random() < 0.7:
        return config
    budget, rows = int(rng.choice([2, 2, 3, 5])), 1 << int(rng.integers(config.kv_block.bit_length()))
    context = (budget + int(rng.choice([4, 5, 9]))) * config.kv_block
    return replace(config, kv_budget=budget, summary_rows=rows, max_context=context)


def holds_a_head(config: BuildConfig) -> bool:
    """Whether a panel has a beat of logits, and the INT4 engine the inputs of the smallest model twice."""
    inputs = 2 * max(16, config.width, config.int4_slice_inputs)
    return config.panel_rows >= (5 if config.has_ternary else 1) * config.beat_bytes // 4 and (
        not config.has_int4 or config.max_inputs >= inputs
    )


def kinds_of_models(config: BuildConfig) -> list[tuple[bool, bool]]:
    """Of the models that cases have in turn: whether their matrices are INT4, and whether they have scales of groups."""
    kinds = [(True, False)] if config.has_int4 else [(False, True)] if config.has_groups else []
    return [*kinds, (False, False)] if config.has_ternary else kinds


def fits(config: BuildConfig, int4: bool, grouped: bool) -> bool:
    """Whether models of a kind are found: some builds have room for none, as where the outputs of all heads are no whole slice."""
    rng = np.random.default_rng(0)
    return any(try_model(config, rng, int4, grouped) is not None for _ in range(TRIES))


def random_formats(config: BuildConfig, rng: np.random.Generator) -> dict[str, Any]:
    """Formats of a model with INT4 matrices that the build has."""
    groups = [g for g in GROUPS if g % config.int4_slice_inputs == 0]
    return {
        "group": int(rng.choice(groups)),
        "symmetric": bool(rng.integers(2)),
        "kv": str(rng.choice(["k8v8", "k8v4", "k4v4"])) if config.int4_kv else "k8v8",
        "query": str(rng.choice(["int8", "e4m3"])) if config.fp8_query else "int8",
    }


def random_shape(config: BuildConfig, rng: np.random.Generator, step: int) -> ModelShape:
    """Sizes that the build may have room for: inputs of matrices are multiples of ``step``, else as odd as they come."""
    layers = int(rng.integers(1, 3))
    kv_heads = int(rng.integers(1, config.max_kv_heads + 1))
    most = max(1, config.max_inputs // step)
    return ModelShape(
        hidden=step * int(rng.integers(1, most + 1)),
        layers=layers,
        unrotated=random_unrotated(rng, layers),
        heads=kv_heads * int(rng.integers(1, config.max_heads // kv_heads + 1)),
        kv_heads=kv_heads,
        head_dim=2 * config.width * int(rng.integers(1, config.max_head_dim // (2 * config.width) + 1)),
        ffn=step * int(rng.integers(1, most + 1)),
        vocab=int(rng.integers(2, 120)),
        activation=str(rng.choice(["silu", "relu2"])),
        max_context=config.max_context,
        tied=bool(rng.integers(2)),
    )


Model = tuple[ModelShape, DecoderLayer, str, "dict[str, Any] | None"]
"""Shape, what a layer computes, kind of its head, formats of INT4 matrices (None: ternary)."""


def try_model(config: BuildConfig, rng: np.random.Generator, int4: bool, grouped: bool) -> Model | None:
    """A model; None if it does not fit the build."""
    formats = random_formats(config, rng) if int4 else None
    shape = random_shape(config, rng, GROUP if grouped else max(16, config.int4_slice_inputs) if int4 else 1)
    layer = (LLAMA, QWEN2, QWEN3)[int(rng.integers(3))] if int4 else (BITNET, BITNET, LLAMA, QWEN2, QWEN3)[int(rng.integers(5))]
    head = "exact" if int4 or grouped else HEADS[int(rng.integers(len(HEADS)))]
    try:
        compile_model(
            config, random_weights(shape, 0, layer, "int4" if int4 else "grouped" if grouped else "ternary", **(formats or {})),
            head=head,
        )
    except (HwgenError, ValueError):  # too large, or query elements that are no whole slices
        return None
    return shape, layer, head, formats


def random_model(config: BuildConfig, rng: np.random.Generator, int4: bool, grouped: bool) -> Model:
    """A model that fits the build, which has room for some."""
    while True:
        model = try_model(config, rng, int4, grouped)
        if model is not None:
            return model


def random_memory(ports: int, seed: int, rng: np.random.Generator) -> DramTiming:
    """A memory: as on a board, ideal, or at its most awkward, with ports that are not equally far and share a link."""
    from ...sim.dram import IDEAL, KV260, RANDOM

    kind = int(rng.integers(8))
    if kind < 2:
        return (KV260, IDEAL)[kind]
    awkward = replace(RANDOM(seed), interleave=bool(kind % 2))
    if kind < 4:
        return awkward
    return replace(
        awkward,
        port_latency=tuple(int(n) for n in rng.integers(0, 120, ports)),
        port_groups=tuple(int(n) for n in rng.integers(0, 2, ports)),
        group_bytes_per_cycle=float(rng.choice([0, 4, 16])),
        cpu_bytes_per_cycle=float(rng.choice([0, 12])),
        scheduling_window=int(rng.choice([1, 6, 20])),
        read_buffer_bytes=int(rng.choice([256, 1024, 8192])),
    )


def random_passes(config: BuildConfig, chunk: int, rng: np.random.Generator) -> tuple[tuple[Part, ...], ...]:
    """Passes of up to three runs, of any length up to the chunk, until the first sequence has filled its context to the last token.
    The others end now and then; new ones take their place, and the pages that they leave. Nobody hurries where single tokens choose
    their blocks of the cache.
    """
    passes: list[tuple[Part, ...]] = []
    lengths, running, limit = {0: 0}, [0], config.max_context
    chooses_from = first_position(config, config.kv_budget) if config.kv_budget else limit
    while lengths[0] < limit:
        hurry = len(passes) > 8 and lengths[0] < chooses_from
        room, parts = chunk, []
        for number in [0] if hurry else [running[i] for i in rng.permutation(len(running))]:
            most = min(room, limit - lengths[number])
            tokens = min(most, chunk if hurry else int(rng.choice([1, 1, most, rng.integers(0, most + 1)])))
            if tokens:
                parts.append((number, tokens, int(rng.choice([0, 1, rng.integers(0, tokens + 1)]))))
                lengths[number] += tokens
                room -= tokens
        if parts:
            passes.append(tuple(parts))
        running = [n for n in running if n == 0 or (lengths[n] < limit and rng.random() < 0.8)]
        if len(running) < SEQUENCES:
            running.append(len(lengths))
            lengths[len(lengths)] = 0
    return tuple(passes)


def random_interruption(ports: int, rng: np.random.Generator) -> Interruption | None:
    """Mostly none; a stop, a failed answer, a reset or a damaged program."""
    kind, early = float(rng.random()), bool(rng.integers(2))
    cycles = int(rng.integers(300 if early else 20_000))
    if kind < 0.1:
        return Interruption(stop=cycles)
    if kind < 0.2:
        write = bool(rng.integers(4) == 0)
        port = 0 if write else int(rng.integers(ports))
        return Interruption(fault=Fault(port, write, int(rng.integers(5 if write else 2000)), int(rng.integers(2, 4))))
    if kind < 0.25:
        return Interruption(reset=cycles)
    return Interruption(damaged=int(rng.integers(1 << 30))) if kind < 0.3 else None


def random_steps(config: BuildConfig, chunk: int, rng: np.random.Generator) -> tuple[Step, ...]:
    """The passes above with what a host does around them: sequences are parked, new ones share the pages of another, and something
    happens to a pass before it runs to its end, or only some ports read for it. Sequences that ended are left alone: they would
    hold pages.
    """
    steps: list[Step] = []
    lengths: dict[int, int] = {}
    passes = random_passes(config, chunk, rng)
    last = {number: i for i, parts in enumerate(passes) for number, _, _ in parts}
    for i, parts in enumerate(passes):
        known = [number for number in lengths if last[number] >= i]
        new = [number for number, _, _ in parts if number not in lengths]
        parked = (int(rng.choice(known)),) if known and rng.random() < 0.15 else ()
        shared: tuple[int, int] | None = None
        if new and known and rng.random() < 0.5:
            of = int(rng.choice(known))
            shared = (of, new[0])
            lengths[new[0]] = lengths[of]
        interruption = random_interruption(config.ports, rng)
        ports = int(rng.integers(1 << config.ports)) if rng.random() < 0.1 else 0
        kept = []
        for number, tokens, wanted in parts:
            room = min(tokens, config.max_context - lengths.get(number, 0))
            if room:
                kept.append((number, room, min(wanted, room)))
                lengths[number] = lengths.get(number, 0) + room
        if kept:
            steps.append(Step(tuple(kept), parked, shared, interruption, ports))
    return tuple(steps)


def random_cases(seed: int, count: int, config: BuildConfig, first: int = 0) -> Iterator[Case]:
    """Cases ``first`` to ``first + count - 1`` of one build: models, memories and what is run on them."""
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, 2, number])
        kinds = kinds_of_models(config)
        int4, grouped = kinds[number % len(kinds)]
        shape, layer, head, formats = random_model(config, rng, int4, grouped)
        case = Case(
            config, shape, random_memory(config.ports, seed + number, rng), (), seed * 1000 + number, head, layer, formats,
            engine="grouped" if grouped else "ternary", base=int(rng.integers((FRAME_BYTES << NUMBER_BITS) - MEMORY_BYTES)) & -4096,
        )
        yield replace(case, steps=random_steps(config, case.image().chunk, rng))
