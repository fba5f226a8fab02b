"""Operands for the float units, and the way they are streamed through a pipeline in cocotb."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from cocotb.triggers import RisingEdge
from torch import Tensor

from hwgen.numerics import F32_MAX_BITS, F32_MIN_EXPONENT
from tests.cocotb_runner import reader

LARGEST = F32_MAX_BITS
SMALLEST = F32_MIN_EXPONENT << 23

_EDGES = [
    *(SMALLEST + k for k in (0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0xC00000)),
    *(LARGEST - k for k in (0, 1, 2, 0x7FFFFF, 0x800000, 0x800001)),
    *(0x3F800000 + k for k in (-2, -1, 0, 1, 2, 0x7FFFFF, 0x400000)),  # about 1
    *(0x20000000, 0x1FFFFFFF, 0x1F800001, 0x5F800000, 0x5F7FFFFF),  # squares near the ends of the range
    *(0x4B000000, 0x4B000001, 0x4B7FFFFF, 0x4B800000, 0x33800000, 0x33800001, 0x34000000),  # 2^23, 2^24, 2^-24, 2^-23
    *(0x3F000000, 0x3F000001, 0x3EFFFFFF, 0x3FC00000, 0x40200000),  # halves: ties of integers
    *(0x42FE0000, 0x42FEFFFF, 0x42FF0000, 0x42FD0000, 0x4F000000, 0x4EFFFFFF, 0x4E800000),  # ends of integer ranges
]
#: Bits of the numbers around which something changes, of both signs.
EDGES = [0, *_EDGES, *(bits | 0x80000000 for bits in _EDGES)]


def to_bits(x: Tensor) -> list[int]:
    return [bits & 0xFFFFFFFF for bits in x.view(torch.int32).tolist()]


def to_float(bits: Sequence[int]) -> Tensor:
    return torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32)


def _mantissa(rng: random.Random) -> int:
    """Uniform, or with a long run of zeros or ones at either end, where rounding meets ties and carries."""
    mantissa = rng.getrandbits(23)
    run = rng.randrange(24)
    low = (1 << run) - 1
    match rng.randrange(6):
        case 0:
            return mantissa & ~low
        case 1:
            return mantissa | low
        case 2:
            return mantissa & low
        case 3:
            return mantissa | (0x7FFFFF & ~low)
        case _:
            return mantissa


def _number(rng: random.Random, exponent: int) -> int:
    exponent = min(max(exponent, F32_MIN_EXPONENT), 254)
    return rng.getrandbits(1) << 31 | exponent << 23 | _mantissa(rng)


def random_numbers(rng: random.Random, count: int, low: int = 2, high: int = 254) -> list[int]:
    """Bits of ``count`` numbers with exponent fields from ``low`` to ``high``."""
    return [_number(rng, rng.randint(low, high)) for _ in range(count)]


def operand_pairs(rng: random.Random, count: int, around: int) -> tuple[list[int], list[int]]:
    """Every pair of edges, then ``count`` random pairs: near each other, nearly equal, anywhere, or such that the sum
    of their exponent fields (of a and b, or of a and the mirror image of b about 127) is near 129 or 382, where a
    product (a quotient) leaves the range: ``around`` is +1 for products and -1 for quotients."""
    pairs = [(a, b) for a in EDGES for b in EDGES]
    for _ in range(count):
        a = _number(rng, rng.randint(2, 254))
        exponent = a >> 23 & 0xFF
        match rng.randrange(5):
            case 0:
                b = _number(rng, exponent + rng.randint(-3, 3))
            case 1:
                b = _number(rng, exponent + rng.randint(-28, 28))
            case 2:  # within a few units in the last place, of either sign
                b = (a ^ rng.getrandbits(1) << 31) + rng.randint(-3, 3)
                b = b if F32_MIN_EXPONENT <= (b >> 23 & 0xFF) <= 254 and b < 1 << 32 else 0
            case 3:
                total = rng.choice((129, 382)) + rng.randint(-2, 2)
                b = _number(rng, total - exponent if around > 0 else 254 - (total - exponent))
            case _:
                b = _number(rng, rng.randint(2, 254))
        pairs.append((a, b))
    return [a for a, _ in pairs], [b for _, b in pairs]


async def stream(
    dut: Any, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], latency: int
) -> list[list[int]]:
    """Give one set of inputs a cycle; returns for each output the values that belong to them, ``latency`` edges later.

    Call it just after a rising edge. A value read at an edge is the one from before the edge."""
    count = len(next(iter(inputs.values())))
    drivers = [(getattr(dut, name), values) for name, values in inputs.items()]
    ports = [reader(getattr(dut, name)) for name in outputs]
    edge = RisingEdge(dut.clk)
    results: list[list[int]] = [[] for _ in outputs]
    for cycle in range(count + latency):
        if cycle < count:
            for handle, values in drivers:
                handle.value = values[cycle]
        await edge
        if cycle >= latency:
            for values, port in zip(results, ports, strict=True):
                values.append(port())
    return results


def check(results: Sequence[int], expected: Sequence[int], **inputs: Sequence[int]) -> None:
    """Bit for bit; the message shows the first few differences with their inputs."""
    assert len(results) == len(expected)
    wrong = [i for i, (got, want) in enumerate(zip(results, expected, strict=True)) if got != want]
    shown = [
        f"{ {name: hex(values[i]) for name, values in inputs.items()} }: {results[i]:#x}, not {expected[i]:#x}"
        for i in wrong[:5]
    ]
    assert not wrong, f"{len(wrong)} of {len(results)} differ: " + "; ".join(shown)
