"""Number formats of the contract in numpy, and what is computed from a model in them before the machine runs: rotary rows,
LM heads, constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .numerics import E4M3_LARGEST, F32_MIN_EXPONENT, four_bit_table, four_bit_values
from .rotary import cos_and_sin
from .shape import ModelShape

__all__ = [
    "SMALLEST",
    "Float",
    "flush",
    "four_bit_codes",
    "four_bit_elements",
    "has_bf16_values",
    "identity_row",
    "is_finite",
    "pack_bf16",
    "quantised_keys",
    "quantize_head",
    "rotary_rows",
    "round_bf16",
    "score_constant",
    "ternary_head",
    "to_four_bits",
    "turned_pairs",
    "widen_bf16",
]

Float = npt.NDArray[np.float32]

#: Smallest magnitude of the machine's float32 that is not 0: 2^-125.
SMALLEST = np.float32(2.0 ** (F32_MIN_EXPONENT - 127))


#: Elements of a large array that are worked on at a time: an embedding of a billion bytes is copied once, not once an operation.
_PIECE = 1 << 22

Array = npt.NDArray[Any]


def _pieces(array: Array) -> Iterator[slice]:
    """Rows of ``array`` in pieces."""
    step = max(1, _PIECE // max(1, math.prod(array.shape[1:])))
    return (slice(first, first + step) for first in range(0, len(array), step))


def _by_pieces(work: Callable[[Array], Array], values: Array, kind: type) -> Array:
    """``work``, which keeps shapes, of a large array; of a small one or a number at once."""
    if values.ndim == 0 or values.size <= _PIECE:
        return work(values)
    out: Array = np.empty(values.shape, kind)
    for piece in _pieces(values):
        out[piece] = work(values[piece])
    return out


def _flush(array: Array) -> Array:
    array = np.asarray(array, np.float32)
    return np.where(np.abs(array) < SMALLEST, np.float32(0), array)


def _pack_bf16(array: Array) -> Array:
    bits = _flush(array).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _widen_bf16(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def flush(values: npt.ArrayLike) -> Float:
    """As float32, with magnitudes below 2^-125 as +0: the values that the machine's float32 has."""
    return _by_pieces(_flush, np.asarray(values), np.float32)


def pack_bf16(values: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """bf16 bits of finite values, flushed, rounded to nearest (ties to even)."""
    return _by_pieces(_pack_bf16, np.asarray(values), np.uint16)


def widen_bf16(bits: npt.NDArray[np.uint16]) -> Float:
    """The values of bf16 bits, in float32."""
    return _by_pieces(_widen_bf16, bits, np.float32)


def round_bf16(values: npt.ArrayLike) -> Float:
    """Nearest bfloat16 values (ties to even), held in float32, flushed; finite input only."""
    return _by_pieces(lambda part: _widen_bf16(_pack_bf16(part)), np.asarray(values), np.float32)


def has_bf16_values(values: Float) -> bool:
    """Whether :func:`round_bf16` changes nothing."""
    return all(np.array_equal(_widen_bf16(_pack_bf16(values[piece])), values[piece]) for piece in _pieces(values))


def is_finite(values: Array) -> bool:
    """Whether every element is a finite number."""
    return all(bool(np.isfinite(values[piece]).all()) for piece in _pieces(values))


def _row_by_row(work: Callable[[Float], tuple[Array, Array]], rows: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """What ``work`` makes of every piece of a head, in one pair of arrays."""
    out, bits = np.empty(rows.shape, np.int8), np.empty(len(rows), np.uint16)
    for piece in _pieces(rows):
        out[piece], bits[piece] = work(rows[piece])
    return out, bits


def quantize_head(rows: Float, largest: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """LM head in integers up to ``largest``: ``(w8 [vocab, hidden], bf16 bits of the row scales [vocab])``, of rows that are
    flushed first; each row by itself.

    scale = bf16(max |w| / largest); w8 = round(w / scale), ties to even, in -largest..largest, 0 where the scale is 0.
    """

    def work(part: Float) -> tuple[Array, Array]:
        part = flush(part)
        bits = pack_bf16(np.abs(part).max(axis=1) / np.float32(largest))
        scale = widen_bf16(bits)[:, None]
        divisor = np.where(scale == 0, np.float32(1), scale)
        return np.clip(np.rint(np.where(scale == 0, np.float32(0), part) / divisor), -largest, largest).astype(np.int8), bits

    return _row_by_row(work, rows)


def ternary_head(rows: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Ternary LM head of the short list: ``(trits [vocab, hidden], bf16 bits of the row scales [vocab])``.

    Each row by itself: scale = mean |w|, trits = round(w / scale) in -1..1; scale 0 for a row of zeros.
    """

    def work(part: Float) -> tuple[Array, Array]:
        bits = pack_bf16(np.abs(part).mean(axis=1, dtype=np.float64))
        scale = widen_bf16(bits)[:, None]
        return np.clip(np.rint(part / np.where(scale == 0, np.float32(1), scale)), -1, 1).astype(np.int8), bits

    return _row_by_row(work, rows)


def rotary_rows(shape: ModelShape, positions: npt.ArrayLike) -> Float:
    """``[positions, head_dim]``: cos(p f_j) for j < d/2, then the sines, both times ``shape.rope_scale``, in float64 and rounded
    once (`hwgen.rotary`: the same bits by every processor). ``f_j`` is `ModelShape.rotary_frequencies`, theta^(-2j/d) where
    positions are not scaled.
    """
    angle = np.asarray(positions, np.float64)[:, None] * shape.rotary_frequencies()
    return flush(np.concatenate(cos_and_sin(angle), axis=1) * shape.rope_scale)


def identity_row(head_dim: int) -> Float:
    """Rotary row ``[head_dim]`` that leaves a head as it is, bit for bit: ones, then zeros."""
    return np.repeat(np.array([1, 0], np.float32), head_dim // 2)


def to_four_bits(elements: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """int8 keys or values as they are with 4 bits: each becomes one of 16 levels (`hwgen.numerics.four_bit_table`)."""
    return np.array(four_bit_table(), np.int8)[elements.view(np.uint8)]


def four_bit_codes(levels: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """The codes, 0 to 15, of levels: sign and lower three bits."""
    bits = levels.view(np.uint8)
    codes: npt.NDArray[np.uint8] = (bits >> 4 & 8 | bits & 7).astype(np.uint8)
    return codes


def four_bit_elements(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The levels of codes 0 to 15."""
    return np.array(four_bit_values(), np.int8)[codes]


def score_constant(head_dim: int, fp8_query: bool = False, mixes: int = 0) -> float:
    """log2(e) / (127 sqrt(head_dim)) as float32: from a query's absmax to the scale of its scores. e4m3 queries, as integers,
    go up to `E4M3_LARGEST` instead of 127. Every time that queries and keys are mixed doubles their product.
    """
    largest = E4M3_LARGEST if fp8_query else 127
    return float(np.float32(math.log2(math.e) / (largest * math.sqrt(head_dim)) * 0.5**mixes))


def turned_pairs(x: Float, stride: int, cos: Float | np.float32, sin: Float | np.float32) -> Float:
    """The pairs (j, j + stride) of every 2 * stride elements of ``x [..., d]`` turned by ``cos`` and ``sin``, ``[stride]`` or one
    for all.
    """
    pairs = x.reshape(*x.shape[:-1], -1, 2, stride)
    first, second = pairs[..., 0, :], pairs[..., 1, :]
    out = np.empty_like(pairs)
    out[..., 0, :] = first * cos - second * sin
    out[..., 1, :] = second * cos + first * sin
    return out.reshape(x.shape)


def quantised_keys(keys: Float, four_bits: bool) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Keys ``[..., d]`` as the cache has them (docs/numerics.md, ROPE): int8 elements, and bf16 bits of their scales."""
    bits = pack_bf16(np.abs(keys).max(axis=-1) * np.float32(1 / 127))
    scale = widen_bf16(bits)[..., None]
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.clip(np.rint(keys * inverse), -127, 127).astype(np.int8)
    return to_four_bits(codes) if four_bits else codes, bits
