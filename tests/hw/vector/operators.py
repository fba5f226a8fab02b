"""Operators with random contents for `VectorBench`."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import product
from typing import Any

import torch

from hwgen.config import TRITS_PER_BYTE, BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Flag, Format, Opcode
from hwgen.layout import lane_strides
from tests.cocotb_runner import cocotb_parameters

from .bench import VectorBench, random_floats

MODES = (Flag.STORE, Flag.RELU2, Flag.SILU, Flag.MULTIPLY, Flag.ADD)

BUFFERS = [Buffers(bits) for bits in range(4)]


#: Cycles after which nothing of an operator is left.
TAIL = 400


def formats_of(config: BuildConfig, opcode: Opcode) -> list[Format]:
    """The number formats that an operator may have in this build."""
    match opcode:
        case Opcode.NORM:
            return [a | b for a in [Format.NONE, Format.FP8][: 1 + config.has_int4] for b in (Format.NONE, Format.PLAIN)]
        case Opcode.DRAIN:
            return [Format.NONE] * config.has_ternary + [Format.FP8] * config.has_int4
        case _:
            queries = [Format.NONE, Format.FP8_QUERY] if config.fp8_query else [Format.NONE]
            kinds = (Format.NONE, Format.INT4_VALUES, Format.INT4_KEYS | Format.INT4_VALUES)
            keys = list(kinds) if config.int4_kv else [Format.NONE]
            return [query | key for query, key in product(queries, keys)]


def random_format(bench: VectorBench, opcode: Opcode) -> Format:
    """One of them, with bits that this build must ignore."""
    ignored = Format(bench.rng.getrandbits(7)) & ~bench.formats
    return bench.rng.choice(formats_of(bench.config, opcode)) | ignored


async def started(dut: Any, seed: int) -> VectorBench:
    bench = VectorBench(dut, BuildConfig.from_dict(cocotb_parameters()["config"]), seed)
    await bench.reset()
    return bench


def fill(bench: VectorBench, memory: torch.Tensor, base: int, vectors: int, style: str) -> None:
    memory[base : base + vectors] = random_floats(bench.rng, vectors * bench.config.width, style).view(vectors, -1)


def random_epsilon(rng: random.Random) -> float:
    """None, what models have, or any up to a hundredth, with every bit of a float32."""
    return rng.choice((1e-5, 1e-6, 0.0, torch.tensor(rng.random() / 100).item()))


def norm(
    bench: VectorBench, vectors: int, tokens: int, style: str, flags: Flag = Flag.NONE, format: Format | None = None
) -> Descriptor:
    """NORM of tokens 0 to ``tokens - 1`` with new contents; every second run has gains near 1."""
    rng = bench.rng
    if format is None:
        format = Format.NONE if flags & Flag.TO_QUERY else random_format(bench, Opcode.NORM)
    stride = vectors + rng.randrange(3)
    plain = Format.PLAIN in format
    d = Descriptor(
        opcode=Opcode.NORM,
        flags=flags,
        format=format,
        buffers=rng.choice(BUFFERS),
        vectors=vectors,
        src=rng.randrange(40),
        dst=0 if flags & Flag.TO_QUERY else rng.randrange(3),
        src_stride=stride,
        param=rng.randrange(40),
        heads=2,
        kv_heads=1,
        head_vectors=2,
        scalar0=0.0 if plain else 1.0 / (vectors * bench.config.width),
        scalar1=1.0 if plain else random_epsilon(rng),
    )
    for t in range(tokens):
        fill(bench, bench.scratch, d.src + t * stride, vectors, style)
    fill(bench, bench.param, d.param, vectors, rng.choice((style, "one")))
    return d


def norm_heads(bench: VectorBench, heads: int, vectors: int, tokens: int, style: str) -> Descriptor:
    """NORM of the heads of tokens 0 to ``tokens - 1``, with new contents; every second run has gains near 1."""
    rng = bench.rng
    d = Descriptor(
        opcode=Opcode.NORM, flags=Flag.STORE, format=Format(rng.getrandbits(4)) & ~bench.formats, heads=heads, vectors=vectors,
        src=rng.randrange(40), src_stride=heads * vectors + rng.randrange(3), param=rng.randrange(40),
        scalar0=1.0 / (vectors * bench.config.width), scalar1=random_epsilon(rng),
    )
    for t in range(tokens):
        fill(bench, bench.scratch, d.src + t * d.src_stride, heads * vectors, style)
    fill(bench, bench.param, d.param, vectors, rng.choice((style, "one")))
    return d


def drain(
    bench: VectorBench, flags: Flag, vectors: int, tokens: int, style: str, format: Format | None = None
) -> Descriptor:
    rng, config = bench.rng, bench.config
    if format is None:
        format = random_format(bench, Opcode.DRAIN)
    row_scaled = bool(format & bench.formats & Format.FP8)
    top = (1 << (config.int4_acc_bits if row_scaled else config.ternary_acc_bits) - 1) - 1
    bound = rng.choice((3, 300, top))
    generator = torch.Generator().manual_seed(rng.getrandbits(30))
    bench.accumulators = torch.randint(-bound, bound + 1, bench.accumulators.shape, generator=generator)
    bench.accumulators[..., ::7] = top
    bench.accumulators[..., 3::11] = -top
    d = Descriptor(
        opcode=Opcode.DRAIN,
        flags=flags,
        format=format,
        buffers=rng.choice(BUFFERS),
        vectors=vectors,
        row_blocks=rng.randrange(config.panel_vectors - vectors * (TRITS_PER_BYTE if Flag.DIGITS in flags else 1) + 1),
        src=rng.randrange(30),
        src_stride=vectors + rng.randrange(2),
        dst=config.scratch_vectors // 2 + rng.randrange(30),
        dst_stride=vectors + rng.randrange(2),
        param=rng.randrange(100),
        scalar0=1.0 if row_scaled and rng.random() < 0.5 else random_floats(rng, 1, "wide" if style == "wide" else "one").item(),
    )
    fill(bench, bench.param, d.param, vectors, "one" if style == "zero" else style)
    for t in range(tokens):
        fill(bench, bench.scratch, d.src + t * d.src_stride, vectors, style)
    return d


ALL_KINDS = Flag.QUERIES | Flag.KEYS | Flag.VALUES
KINDS = [ALL_KINDS, Flag.QUERIES, Flag.KEYS, Flag.VALUES, Flag.QUERIES | Flag.KEYS, Flag.KEYS | Flag.VALUES]


def rope(
    bench: VectorBench,
    heads: int,
    kv_heads: int,
    head_vectors: int,
    tokens: int,
    style: str,
    kinds: Flag = ALL_KINDS,
    format: Format | None = None,
) -> Descriptor:
    rng = bench.rng
    if format is None:
        format = random_format(bench, Opcode.ROPE)
    largest, mixed = 448 * 512 if format & bench.formats & Format.FP8_QUERY else 127, Format.MIX | Format.UNMIX
    vectors = (heads + 2 * kv_heads) * head_vectors
    d = Descriptor(
        opcode=Opcode.ROPE,
        flags=kinds,
        format=format,
        heads=heads,
        kv_heads=kv_heads,
        head_vectors=head_vectors,
        src=rng.randrange(30),
        src_stride=vectors + rng.randrange(2),
        param=rng.choice((0, *lane_strides(bench.config))) if format & bench.formats & mixed else rng.randrange(30),
        param_stride=head_vectors + rng.randrange(2),
        scalar0=math.log2(math.e) / (largest * math.sqrt(head_vectors * bench.config.width)),
    )
    for t in range(tokens):
        fill(bench, bench.scratch, d.src + t * d.src_stride, vectors, style)
        fill(bench, bench.param, d.param + t * d.param_stride, head_vectors, rng.choice((style, "one")))
    if Flag.ADD not in kinds:
        return d
    row = d.src + tokens * d.src_stride + rng.randrange(30)
    fill(bench, bench.scratch, row, vectors, rng.choice((style, "one")))
    return replace(d, dst=row, param=0)


async def check_scales(bench: VectorBench, first: int, count: int) -> None:
    """The scales inside, bit for bit: DRAIN of accumulators of 1 with weight scales of 1 stores them."""
    bench.accumulators[:] = 1
    param = bench.config.param_vectors - 56
    bench.param[param] = 1.0
    width = bench.config.tokens
    for start in range(first, first + count, width):
        d = Descriptor(
            opcode=Opcode.DRAIN,
            format=random_format(bench, Opcode.DRAIN),
            flags=Flag.STORE,
            vectors=1,
            dst=bench.config.scratch_vectors - 124,
            dst_stride=1,
            param=param,
            scalar0=1.0,
        )
        await bench.run(d, first=start, count=min(width, first + count - start))
