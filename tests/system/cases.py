"""Random builds, models and passes, each from a seed; and the lock-step run of one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwgen.config import BuildConfig, ConfigError
from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.int4 import GROUPS
from hwgen.rounding import ceil_div
from hwgen.shape import ModelShape
from hwgen.sim.dram import IDEAL, KV260, RANDOM, DramTiming
from hwgen.sw.compiler.compile import HEADS, compile_model
from hwgen.sw.devices.golden import GoldenDevice
from hwgen.sw.devices.verilator import VerilatorDevice
from hwgen.sw.verification.lock_step import LockStep, Outcome
from hwgen.weights import ModelWeights, random_weights

__all__ = ["MEMORY_BYTES", "Case", "Part", "random_cases", "random_config", "random_passes", "run_case", "run_passes"]

Part = tuple[int, int, int]
"""A run of a pass: number of a sequence, its next tokens, how many of the last ones are wanted."""

MEMORY_BYTES = 1 << 23


@dataclass(frozen=True)
class Case:
    """One model on one build: what is run on it, and how the memory behaves."""

    config: BuildConfig
    shape: ModelShape
    timing: DramTiming
    passes: tuple[tuple[Part, ...], ...]
    seed: int
    #: Kind of LM head.
    head: str
    #: What a layer computes.
    layer: DecoderLayer
    #: Number formats of a model with INT4 matrices; None for a ternary one.
    formats: dict[str, Any] | None = None
    #: Kind of the matrices of one without such formats.
    engine: str = "ternary"

    def weights(self) -> ModelWeights:
        """Random weights of the model."""
        return model_weights(self.shape, self.seed, self.layer, self.formats, self.engine)


def model_weights(
    shape: ModelShape, seed: int, layer: DecoderLayer, formats: dict[str, Any] | None, engine: str = "ternary"
) -> ModelWeights:
    return random_weights(shape, seed, layer, engine if formats is None else "int4", **(formats or {}))


def random_unrotated(rng: np.random.Generator, layers: int) -> tuple[int, ...]:
    """No layer, mostly, or any."""
    return tuple(i for i in range(layers) if rng.random() < 0.2)


def divisors(value: int) -> list[int]:
    return [d for d in range(1, value + 1) if value % d == 0]


def random_config(seed: int, engine: str = "ternary") -> BuildConfig:
    """A legal build that compiles in about a minute: narrow, with shallow memories and small maxima."""
    rng = np.random.default_rng([seed, 1])
    formats = {"int4_kv": bool(seed % 2), "fp8_query": bool(seed // 2 % 2)} if engine != "ternary" else {}

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
                scratch_vectors=pick(128, 200, 512), param_vectors=pick(64, 100, 256),
                max_inputs=width * int(rng.integers(max(1, heads * head_dim // width), 30)),
                panel_rows=step * int(rng.integers(1, max(2, 240 // step))),
                max_heads=heads, max_kv_heads=kv_heads, max_shared=pick(heads // kv_heads, heads), max_head_dim=head_dim,
                max_query=heads * head_dim,
                max_context=kv_block * pick(1, 2, 3, 5),
                trace_entries=pick(16, 512), topk=pick(1, 2, 5, 8), shortlist=pick(1, 2, 5), probe=True,
            )
        except (ConfigError, ValueError):  # slices that the INT4 engine does not have; an empty range of sizes is a ValueError
            continue
        if holds_a_head(config):
            return config


def holds_a_head(config: BuildConfig) -> bool:
    """Whether a panel has a beat of logits, and the INT4 engine the inputs of the smallest model twice."""
    inputs = 2 * max(16, config.width, config.int4_slice_inputs)
    return config.panel_rows >= (5 if config.has_ternary else 1) * config.beat_bytes // 4 and (
        not config.has_int4 or config.max_inputs >= inputs
    )


def random_formats(config: BuildConfig, rng: np.random.Generator) -> dict[str, Any]:
    """Formats of a llama model that the build has."""
    groups = [g for g in GROUPS if g % config.int4_slice_inputs == 0]
    return {
        "group": int(rng.choice(groups)),
        "symmetric": bool(rng.integers(2)),
        "kv": str(rng.choice(["int8", "int4"])) if config.int4_kv else "int8",
        "query": str(rng.choice(["int8", "e4m3"])) if config.fp8_query else "int8",
    }


def random_llama_model(config: BuildConfig, rng: np.random.Generator, layer: DecoderLayer) -> tuple[ModelShape, dict[str, Any]]:
    """A model with INT4 matrices that fits the build; inputs are whole slices."""
    step = max(16, config.int4_slice_inputs)
    while True:
        layers = int(rng.integers(1, 3))
        kv_heads = int(rng.integers(1, config.max_kv_heads + 1))
        shape = ModelShape(
            hidden=step * int(rng.integers(1, max(2, config.max_inputs // step))),
            layers=layers,
            unrotated=random_unrotated(rng, layers),
            heads=kv_heads * int(rng.integers(1, config.max_heads // kv_heads + 1)),
            kv_heads=kv_heads,
            head_dim=2 * config.width * int(rng.integers(1, config.max_head_dim // (2 * config.width) + 1)),
            ffn=step * int(rng.integers(1, max(2, config.max_inputs // step))),
            vocab=int(rng.integers(2, 120)),
            activation=str(rng.choice(["silu", "relu2"])),
            max_context=config.max_context,
            tied=bool(rng.integers(2)),
        )
        formats = random_formats(config, rng)
        try:
            compile_model(config, random_weights(shape, 0, layer, "int4", **formats))
        except (HwgenError, ValueError):  # query elements that are no whole slices
            continue
        return shape, formats


def random_model(config: BuildConfig, rng: np.random.Generator) -> tuple[ModelShape, DecoderLayer, str]:
    """A ternary model that fits the build, and the kind of its head; sizes are as odd as they come."""
    while True:
        layers = int(rng.integers(1, 3))
        head = HEADS[int(rng.integers(len(HEADS)))]
        kv_heads = int(rng.integers(1, config.max_kv_heads + 1))
        shape = ModelShape(
            hidden=int(rng.integers(1, config.max_inputs + 1)),
            layers=layers,
            unrotated=random_unrotated(rng, layers),
            heads=kv_heads * int(rng.integers(1, config.max_heads // kv_heads + 1)),
            kv_heads=kv_heads,
            head_dim=2 * config.width * int(rng.integers(1, config.max_head_dim // (2 * config.width) + 1)),
            ffn=int(rng.integers(1, config.max_inputs + 1)),
            vocab=int(rng.integers(2, 120)),
            activation=str(rng.choice(["silu", "relu2"])),
            max_context=config.max_context,
            tied=bool(rng.integers(2)),
        )
        layer = (BITNET, BITNET, LLAMA, QWEN2, QWEN3)[int(rng.integers(5))]
        try:
            compile_model(config, random_weights(shape, layer=layer), head=head)
        except HwgenError:
            continue
        return shape, layer, head


def random_passes(config: BuildConfig, chunk: int, rng: np.random.Generator) -> tuple[tuple[Part, ...], ...]:
    """Passes of up to three runs, of any length up to the chunk, until the first sequence has filled its context to the last token.
    The others end now and then; new ones take their place, and the pages that they leave.
    """
    passes: list[tuple[Part, ...]] = []
    lengths, running, limit = {0: 0}, [0], config.max_context
    while lengths[0] < limit:
        hurry = len(passes) > 8
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
        if len(running) < 3:
            running.append(len(lengths))
            lengths[len(lengths)] = 0
    return tuple(passes)


def random_cases(seed: int, count: int, config: BuildConfig | None = None) -> Iterator[Case]:
    """Models, passes and memories for one build."""
    config = config or random_config(seed)
    rng = np.random.default_rng([seed, 2])
    for number in range(count):
        formats: dict[str, Any] | None = None
        if config.has_int4 and (number % 2 or not config.has_ternary):
            layer, head = (QWEN3, QWEN2, LLAMA)[number % 3], "exact"
            shape, formats = random_llama_model(config, rng, layer)
        else:
            shape, layer, head = random_model(config, rng)
        timing = (KV260, IDEAL, RANDOM(seed + number), replace(RANDOM(seed + number), interleave=True))[number % 4]
        chunk = compile_model(config, model_weights(shape, 0, layer, formats), head=head).chunk
        yield Case(config, shape, timing, random_passes(config, chunk, rng), seed * 1000 + number, head, layer, formats)


def run_case(case: Case, verilog: str | None = None, *, noisy: bool = False) -> tuple[Outcome, VerilatorDevice]:
    """Run on RTL and golden machine in lock-step. ``noisy``: registers and memories of the RTL
    begin with noise, another one for every case, and a read that meets a write returns noise."""
    image = compile_model(case.config, case.weights(), head=case.head)
    image = replace(image, pages=3 * image.pages)
    device = VerilatorDevice(
        case.config, memory_bytes=MEMORY_BYTES, timing=case.timing, optimize=False,
        noise=case.seed + 1 if noisy else None, verilog=verilog,
    )
    step = LockStep(case.config, image, device, GoldenDevice(case.config, memory_bytes=MEMORY_BYTES))
    run_passes(step, case.passes, np.random.default_rng([case.seed, 3]))
    return step.outcome, device


def run_passes(step: LockStep, passes: Sequence[tuple[Part, ...]], rng: np.random.Generator) -> None:
    """Random tokens, in pages that are dealt in random order, up to the first mismatch. A sequence ends with its last run."""
    pages = [int(p) for p in rng.permutation(step.image.pages)]
    step.rtl_engine.pages._free, step.golden_engine.pages._free = pages[:], pages[:]
    last = {number: i for i, parts in enumerate(passes) for number, _, _ in parts}
    for i, parts in enumerate(passes):
        runs = [(number, rng.integers(0, step.image.shape.vocab, tokens).tolist(), wanted) for number, tokens, wanted in parts]
        if step.run_pass(runs) is None:
            return
        for number, _, _ in parts:
            if last[number] == i:
                for engine, session in zip((step.golden_engine, step.rtl_engine), step.sessions[number], strict=True):
                    engine.pages.close(session)
