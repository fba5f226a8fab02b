"""Weights of a llama decoder: RMSNorm, grouped-query attention, gated feed-forward, no sub-norms, no biases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .int4 import BlockMatrix, Int4Matrix, to_machine
from .layout import pack_bf16
from .rounding import ceil_div
from .shape import ModelShape
from .weights import Float, flush, matrix_shapes, quantize_head

__all__ = ["KV_KINDS", "MATRICES", "QUERY_KINDS", "LlamaLayer", "LlamaWeights", "Matrix", "dense", "random_llama"]

#: A linear layer ``[rows, inputs]``: floats, 4-bit blocks with float scales, or what the machine multiplies.
Matrix = npt.NDArray[np.float32] | BlockMatrix | Int4Matrix

#: Matrices of a layer, as in :class:`LlamaLayer`.
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")

#: Formats of keys and values in the cache.
KV_KINDS = ("int8", "int4")

#: Formats of queries.
QUERY_KINDS = ("int8", "e4m3")


def dense(matrix: Matrix) -> Float:
    """The weights as float32 ``[rows, inputs]``."""
    return matrix if isinstance(matrix, np.ndarray) else matrix.dense()


def matrix_size(matrix: Matrix) -> tuple[int, ...]:
    return matrix.shape if isinstance(matrix, np.ndarray) else matrix.codes.shape


@dataclass(frozen=True, kw_only=True)
class LlamaLayer:
    """One decoder layer; the names are Hugging Face's without ``_proj`` and ``.weight``, and so is the order of rotary pairs
    (half-split).
    """

    #: Query projection ``[heads * head_dim, hidden]``.
    q: Matrix
    #: Key projection ``[kv_heads * head_dim, hidden]``.
    k: Matrix
    #: Value projection ``[kv_heads * head_dim, hidden]``.
    v: Matrix
    #: Output projection ``[hidden, heads * head_dim]``.
    o: Matrix
    #: Gate projection ``[ffn, hidden]``.
    gate: Matrix
    #: Up projection ``[ffn, hidden]``.
    up: Matrix
    #: Down projection ``[hidden, ffn]``.
    down: Matrix
    #: Norm gain before attention ``[hidden]``.
    input_layernorm: Float
    #: Norm gain before the feed-forward layer ``[hidden]``.
    post_attention_layernorm: Float

    def with_matrices(self, matrices: dict[str, Any]) -> LlamaLayer:
        """The layer with other matrices or gains, by name."""
        return replace(self, **matrices)


@dataclass(frozen=True, kw_only=True)
class LlamaWeights:
    """All weights of a llama model and the two switches of its attention. Floats are finite float32."""

    #: Linear engine that runs it.
    engine: ClassVar[str] = "int4"

    #: Sizes and constants.
    shape: ModelShape
    #: Decoder layers, first to last.
    layers: tuple[LlamaLayer, ...]
    #: Gain of the final norm ``[hidden]``.
    norm: Float
    #: Embedding ``[vocab, hidden]``; the machine rounds it to bfloat16.
    embedding: Float
    #: LM head ``[vocab, hidden]``, or None where it shares the embedding (``shape.tied``).
    head: Float | None = None
    #: Format of cached keys and values: ``"int8"`` or ``"int4"``.
    kv: str = "int8"
    #: Format of queries: ``"int8"`` or ``"e4m3"``.
    query: str = "int8"

    def __post_init__(self) -> None:
        s = self.shape
        if self.kv not in KV_KINDS:
            raise ValueError(f"kv must be one of {', '.join(KV_KINDS)}, not {self.kv!r}")
        if self.query not in QUERY_KINDS:
            raise ValueError(f"query must be one of {', '.join(QUERY_KINDS)}, not {self.query!r}")
        if len(self.layers) != s.layers:
            raise ValueError(f"layers must be {s.layers} long, not {len(self.layers)}")
        if (self.head is None) != s.tied:
            raise ValueError(f"head must be {'None in' if s.tied else 'given for'} a model with tied={s.tied}")
        floats: dict[str, tuple[Float, tuple[int, ...]]] = {
            "norm": (self.norm, (s.hidden,)),
            "embedding": (self.embedding, (s.vocab, s.hidden)),
        }
        if self.head is not None:
            floats["head"] = (self.head, (s.vocab, s.hidden))
        for i, layer in enumerate(self.layers):
            for name, size in matrix_shapes(s).items():
                matrix: Matrix = getattr(layer, name)
                if matrix_size(matrix) != size:
                    raise ValueError(f"layer {i} {name} must be {size}, not {matrix_size(matrix)}")
                if isinstance(matrix, np.ndarray):
                    floats[f"layer {i} {name}"] = (matrix, size)
            floats[f"layer {i} input_layernorm"] = (layer.input_layernorm, (s.hidden,))
            floats[f"layer {i} post_attention_layernorm"] = (layer.post_attention_layernorm, (s.hidden,))
        for name, (array, shape) in floats.items():
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(f"{name} must be float32 {shape}, not {array.dtype} {array.shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite")

    @property
    def head_rows(self) -> Float:
        """LM head ``[vocab, hidden]``: ``head``, or the embedding where it is shared."""
        return self.embedding if self.head is None else self.head

    def embedding_bits(self) -> npt.NDArray[np.uint16]:
        """bf16 bits of the embedding ``[vocab, hidden]``."""
        return pack_bf16(self.embedding)

    def quantized_head(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
        """int8 LM head ``[vocab, hidden]`` and bf16 bits of its row scales ``[vocab]``."""
        return quantize_head(flush(self.head_rows))

    @property
    def is_int4(self) -> bool:
        """True where every matrix has 4-bit codes, so that the machine can take it."""
        return all(not isinstance(getattr(layer, name), np.ndarray) for layer in self.layers for name in MATRICES)

    def on_machine(self) -> LlamaWeights:
        """The same model with every matrix as the machine stores it (scales of blocks rounded to 8 bits)."""
        layers = []
        for i, layer in enumerate(self.layers):
            matrices = {}
            for name in MATRICES:
                matrix: Matrix = getattr(layer, name)
                if isinstance(matrix, np.ndarray):
                    raise ValueError(f"layer {i} {name} must have 4-bit codes, not floats; quantise the model first")
                matrices[name] = to_machine(matrix) if isinstance(matrix, BlockMatrix) else matrix
            layers.append(layer.with_matrices(matrices))
        return replace(self, layers=tuple(layers))


def random_llama(
    shape: ModelShape, seed: int = 0, *, group: int = 32, symmetric: bool = False, kv: str = "int8", query: str = "int8"
) -> LlamaWeights:
    """A random model as the machine stores it: every code alike often, signals of order one everywhere. Equal for equal seeds."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, inputs: int) -> Int4Matrix:
        groups = ceil_div(inputs, group)
        scales = rng.integers(60, 256, (rows, groups)).astype(np.uint8)
        midpoints = None if symmetric else rng.integers(-80, 81, (rows, groups)).astype(np.int8)
        unit = rng.uniform(0.7, 1.3, rows) / (160 * 4.6 * inputs**0.5)
        codes = rng.integers(-8, 8, (rows, inputs), dtype=np.int8)
        return Int4Matrix(codes, group, scales, midpoints, unit.astype(np.float32))

    def gain(size: int) -> Float:
        return flush(rng.uniform(0.5, 1.5, size))

    layers = tuple(
        LlamaLayer(
            **{name: matrix(*size) for name, size in matrix_shapes(shape).items()},
            input_layernorm=gain(shape.hidden), post_attention_layernorm=gain(shape.hidden),
        )
        for _ in range(shape.layers)
    )
    table = (shape.vocab, shape.hidden)
    return LlamaWeights(
        shape=shape, layers=layers, norm=gain(shape.hidden), embedding=flush(rng.normal(0, 1, table)),
        head=None if shape.tied else flush(rng.normal(0, shape.hidden**-0.5, table)), kv=kv, query=query,
    )
