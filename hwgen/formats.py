"""Number formats of the contract in numpy, and what is computed from a model in them before the machine runs: rotary rows,
LM heads, constants.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .numerics import E4M3_LARGEST, F32_MIN_EXPONENT
from .shape import ModelShape

__all__ = [
    "SMALLEST",
    "Float",
    "flush",
    "identity_row",
    "pack_bf16",
    "quantize_head",
    "rotary_rows",
    "round_bf16",
    "score_constant",
    "ternary_head",
    "widen_bf16",
]

Float = npt.NDArray[np.float32]

#: Smallest magnitude of the machine's float32 that is not 0: 2^-125.
SMALLEST = np.float32(2.0 ** (F32_MIN_EXPONENT - 127))


def flush(values: npt.ArrayLike) -> Float:
    """As float32, with magnitudes below 2^-125 as +0: the values that the machine's float32 has."""
    array = np.asarray(values, np.float32)
    return np.where(np.abs(array) < SMALLEST, np.float32(0), array)


def pack_bf16(values: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """bf16 bits of finite values, flushed, rounded to nearest (ties to even)."""
    bits = flush(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def widen_bf16(bits: npt.NDArray[np.uint16]) -> Float:
    """The values of bf16 bits, in float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_bf16(values: npt.ArrayLike) -> Float:
    """Nearest bfloat16 values (ties to even), held in float32, flushed; finite input only."""
    return widen_bf16(pack_bf16(values))


def quantize_head(rows: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """int8 LM head: ``(w8 [vocab, hidden], bf16 bits of the row scales [vocab])``.

    scale = bf16(max |w| / 127); w8 = round(w / scale), ties to even, in -127..127, 0 where the scale is 0.
    """
    bits = pack_bf16(np.abs(rows).max(axis=1) / np.float32(127))
    scale = widen_bf16(bits)[:, None]
    divisor = np.where(scale == 0, np.float32(1), scale)
    w8 = np.clip(np.rint(np.where(scale == 0, np.float32(0), rows) / divisor), -127, 127).astype(np.int8)
    return w8, bits


def ternary_head(rows: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Ternary LM head of the short list: ``(trits [vocab, hidden], bf16 bits of the row scales [vocab])``.

    Each row by itself: scale = mean |w|, trits = round(w / scale) in -1..1; scale 0 for a row of zeros.
    """
    bits = pack_bf16(np.abs(rows).mean(axis=1, dtype=np.float64))
    scale = widen_bf16(bits)[:, None]
    trits = np.clip(np.rint(rows / np.where(scale == 0, np.float32(1), scale)), -1, 1).astype(np.int8)
    return trits, bits


def rotary_rows(shape: ModelShape, positions: npt.ArrayLike) -> Float:
    """``[positions, head_dim]``: cos(p f_j) for j < d/2, then the sines, both times ``shape.rope_scale``, in float64 and rounded
    once. ``f_j`` is `ModelShape.rotary_frequencies`, theta^(-2j/d) where positions are not scaled.
    """
    angle = np.asarray(positions, np.float64)[:, None] * shape.rotary_frequencies()
    return flush(np.concatenate((np.cos(angle), np.sin(angle)), axis=1) * shape.rope_scale)


def identity_row(head_dim: int) -> Float:
    """Rotary row ``[head_dim]`` that leaves a head as it is, bit for bit: ones, then zeros."""
    return np.repeat(np.array([1, 0], np.float32), head_dim // 2)


def score_constant(head_dim: int, fp8_query: bool = False) -> float:
    """log2(e) / (127 sqrt(head_dim)) as float32: from a query's absmax to the scale of its scores. e4m3 queries, as integers,
    go up to `E4M3_LARGEST` instead of 127.
    """
    largest = E4M3_LARGEST if fp8_query else 127
    return float(np.float32(math.log2(math.e) / (largest * math.sqrt(head_dim))))
