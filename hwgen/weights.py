"""Weights of a BitNet b1.58 model in plain numpy: what the loader produces and the compiler and golden models consume.

With them, everything that is computed from a model before the machine runs: rotary rows, the int8 LM head, constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .layout import pack_bf16, pack_trits
from .numerics import E4M3_LARGEST
from .shape import ModelShape

__all__ = [
    "LayerWeights",
    "ModelWeights",
    "TernaryMatrix",
    "flush",
    "gain_sizes",
    "matrix_shapes",
    "quantize_head",
    "quantize_ternary",
    "random_weights",
    "rotary_rows",
    "round_bf16",
    "score_constant",
    "ternary_head",
]

Float = npt.NDArray[np.float32]

#: Smallest magnitude of the machine's float32 that is not 0; smaller values become 0 in :class:`ModelWeights`.
_SMALLEST = np.float32(2.0**-125)


@dataclass(frozen=True)
class TernaryMatrix:
    """A linear layer ``y = scale * (trits @ x)``."""

    #: Weights -1, 0 or 1, int8 ``[rows, inputs]``.
    trits: npt.NDArray[np.int8]
    #: Scale of the whole matrix, a float32 value.
    scale: float

    def __post_init__(self) -> None:
        if self.trits.dtype != np.int8 or self.trits.ndim != 2:
            raise ValueError(f"trits must be an int8 matrix, not {self.trits.dtype} {self.trits.shape}")
        if self.trits.size and np.abs(self.trits).max() > 1:
            raise ValueError(f"trits must be -1, 0 or 1, not {int(self.trits[np.abs(self.trits) > 1][0])}")
        if not np.isfinite(self.scale) or float(np.float32(self.scale)) != self.scale:
            raise ValueError(f"scale must be a finite float32 value, not {self.scale!r}")

    @property
    def rows(self) -> int:
        return int(self.trits.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.trits.shape[1])

    def packed(self) -> npt.NDArray[np.uint8]:
        """Rows as they lie in memory, five trits a byte ``[rows, ceil(inputs / 5)]``."""
        return pack_trits(self.trits)


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One decoder layer; the names are Hugging Face's without ``_proj`` and ``.weight``."""

    #: Query projection ``[heads * head_dim, hidden]``.
    q: TernaryMatrix
    #: Key projection ``[kv_heads * head_dim, hidden]``.
    k: TernaryMatrix
    #: Value projection ``[kv_heads * head_dim, hidden]``.
    v: TernaryMatrix
    #: Output projection ``[hidden, heads * head_dim]``.
    o: TernaryMatrix
    #: Gate projection ``[ffn, hidden]``.
    gate: TernaryMatrix
    #: Up projection ``[ffn, hidden]``.
    up: TernaryMatrix
    #: Down projection ``[hidden, ffn]``.
    down: TernaryMatrix
    #: Norm gain before attention ``[hidden]``.
    input_layernorm: Float
    #: Norm gain before the output projection ``[heads * head_dim]``.
    attn_sub_norm: Float
    #: Norm gain before the feed-forward layer ``[hidden]``.
    post_attention_layernorm: Float
    #: Norm gain before the down projection ``[ffn]``.
    ffn_sub_norm: Float


@dataclass(frozen=True, kw_only=True)
class ModelWeights:
    """All weights of a model. Float arrays are float32, finite, and 0 or at least 2^-125 in magnitude."""

    #: Linear engine that runs it.
    engine: ClassVar[str] = "ternary"

    #: Sizes and constants.
    shape: ModelShape
    #: Decoder layers, first to last.
    layers: tuple[LayerWeights, ...]
    #: Gain of the final norm ``[hidden]``.
    norm: Float
    #: Embedding ``[vocab, hidden]``; every value is a bfloat16 value.
    embedding: Float
    #: LM head ``[vocab, hidden]``, or None where it shares the embedding (``shape.tied``).
    head: Float | None = None

    def __post_init__(self) -> None:
        s = self.shape
        if len(self.layers) != s.layers:
            raise ValueError(f"layers must be {s.layers} long, not {len(self.layers)}")
        if (self.head is None) != s.tied:
            raise ValueError(f"head must be {'None in' if s.tied else 'given for'} a model with tied={s.tied}")
        arrays: dict[str, tuple[Float, tuple[int, ...]]] = {
            "norm": (self.norm, (s.hidden,)),
            "embedding": (self.embedding, (s.vocab, s.hidden)),
        }
        if self.head is not None:
            arrays["head"] = (self.head, (s.vocab, s.hidden))
        for i, layer in enumerate(self.layers):
            for name, size in matrix_shapes(s).items():
                trits = getattr(layer, name).trits
                if trits.shape != size:
                    raise ValueError(f"layer {i} {name} must be {size}, not {trits.shape}")
            for name, length in gain_sizes(s).items():
                arrays[f"layer {i} {name}"] = (getattr(layer, name), (length,))
        for name, (array, shape) in arrays.items():
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(f"{name} must be float32 {shape}, not {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite")
        if not np.array_equal(round_bf16(self.embedding), self.embedding):
            raise ValueError("embedding must hold bfloat16 values; use round_bf16()")

    def embedding_bits(self) -> npt.NDArray[np.uint16]:
        """bf16 bits of the embedding ``[vocab, hidden]``."""
        return pack_bf16(self.embedding)

    def quantized_head(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
        """int8 LM head ``[vocab, hidden]`` and bf16 bits of its row scales ``[vocab]``."""
        return quantize_head(self.head_rows)

    def short_head(self) -> tuple[TernaryMatrix, npt.NDArray[np.uint16]]:
        """Ternary LM head (its matrix scale is 1) and bf16 bits of its row scales ``[vocab]``."""
        trits, scales = ternary_head(self.head_rows)
        return TernaryMatrix(trits, 1.0), scales

    @property
    def head_rows(self) -> Float:
        """LM head ``[vocab, hidden]``: ``head``, or the embedding where it is shared."""
        return self.embedding if self.head is None else self.head


def matrix_shapes(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """``{name: (rows, inputs)}`` of the ternary matrices of a layer."""
    h, q, kv, f = shape.hidden, shape.q_rows, shape.kv_rows, shape.ffn
    return {"q": (q, h), "k": (kv, h), "v": (kv, h), "o": (h, q), "gate": (f, h), "up": (f, h), "down": (h, f)}


def gain_sizes(shape: ModelShape) -> dict[str, int]:
    """``{name: elements}`` of the norm gains of a layer."""
    return {"input_layernorm": shape.hidden, "attn_sub_norm": shape.q_rows,
            "post_attention_layernorm": shape.hidden, "ffn_sub_norm": shape.ffn}


def flush(values: npt.ArrayLike) -> Float:
    """As float32, with magnitudes below 2^-125 as +0: the values that the machine's float32 has."""
    array = np.asarray(values, np.float32)
    return np.where(np.abs(array) < _SMALLEST, np.float32(0), array)


def round_bf16(values: npt.ArrayLike) -> Float:
    """Nearest bfloat16 values (ties to even), held in float32, flushed; finite input only."""
    bits = flush(values).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)) << np.uint32(16)
    return rounded.view(np.float32)


def quantize_ternary(master: npt.ArrayLike) -> TernaryMatrix:
    """Absmean quantisation of a float master matrix: scale = mean |w| (at least 1e-5), trits = round(w / scale) in
    -1..1.
    """
    w = np.asarray(master, np.float32)
    scale = np.float32(max(float(np.abs(w).mean(dtype=np.float64)), 1e-5))
    return TernaryMatrix(np.clip(np.rint(w / scale), -1, 1).astype(np.int8), float(scale))


def quantize_head(rows: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """int8 LM head: ``(w8 [vocab, hidden], bf16 bits of the row scales [vocab])``.

    scale = bf16(max |w| / 127); w8 = round(w / scale), ties to even, in -127..127, 0 where the scale is 0.
    """
    scale = round_bf16(np.abs(rows).max(axis=1) / np.float32(127))
    divisor = np.where(scale == 0, np.float32(1), scale)[:, None]
    w8 = np.clip(np.rint(np.where(scale[:, None] == 0, np.float32(0), rows) / divisor), -127, 127).astype(np.int8)
    return w8, (scale.view(np.uint32) >> 16).astype(np.uint16)


def ternary_head(rows: Float) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
    """Ternary LM head of the short list: ``(trits [vocab, hidden], bf16 bits of the row scales [vocab])``.

    Each row by itself: scale = mean |w|, trits = round(w / scale) in -1..1; scale 0 for a row of zeros.
    """
    scale = round_bf16(np.abs(rows).mean(axis=1, dtype=np.float64))
    divisor = np.where(scale == 0, np.float32(1), scale)[:, None]
    trits = np.clip(np.rint(rows / divisor), -1, 1).astype(np.int8)
    return trits, (scale.view(np.uint32) >> 16).astype(np.uint16)


def rotary_rows(shape: ModelShape, positions: npt.ArrayLike) -> Float:
    """``[positions, head_dim]``: cos(p * theta^(-2j/d)) for j < d/2, then the sines, in float64 and rounded once."""
    d = shape.head_dim
    inverse = shape.rope_theta ** (-np.arange(0, d, 2, dtype=np.float64) / d)
    angle = np.asarray(positions, np.float64)[:, None] * inverse
    return flush(np.concatenate((np.cos(angle), np.sin(angle)), axis=1))


def score_constant(head_dim: int, fp8_query: bool = False) -> float:
    """log2(e) / (127 sqrt(head_dim)) as float32: from a query's absmax to the scale of its scores. e4m3 queries, as integers,
    go up to `E4M3_LARGEST` instead of 127.
    """
    largest = E4M3_LARGEST if fp8_query else 127
    return float(np.float32(math.log2(math.e) / (largest * math.sqrt(head_dim))))


def random_weights(shape: ModelShape, seed: int = 0) -> ModelWeights:
    """A random model of this shape: trits -1, 0, 1 alike often, signals of order one everywhere. Equal for equal
    seeds.
    """
    rng = np.random.default_rng(seed)

    def matrix(rows: int, inputs: int) -> TernaryMatrix:
        scale = np.float32(rng.uniform(0.7, 1.3) * (1.5 / inputs) ** 0.5)
        return TernaryMatrix(rng.integers(-1, 2, (rows, inputs), dtype=np.int8), float(scale))

    def gain(size: int) -> Float:
        return flush(rng.uniform(0.5, 1.5, size))

    def layer() -> LayerWeights:
        parts: dict[str, Any] = {name: matrix(*size) for name, size in matrix_shapes(shape).items()}
        parts |= {name: gain(size) for name, size in gain_sizes(shape).items()}
        return LayerWeights(**parts)

    layers = tuple(layer() for _ in range(shape.layers))
    table = (shape.vocab, shape.hidden)
    return ModelWeights(
        shape=shape, layers=layers, norm=gain(shape.hidden), embedding=round_bf16(rng.normal(0, 1, table)),
        head=None if shape.tied else flush(rng.normal(0, shape.hidden**-0.5, table)),
    )
