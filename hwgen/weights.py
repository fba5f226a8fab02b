"""Weights of a decoder in plain numpy: what loaders produce and the compiler and golden models consume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .decoder import BITNET, DecoderLayer
from .descriptors import Format
from .formats import Float, flush, has_bf16_values, is_finite, pack_bf16, quantize_head, round_bf16, ternary_head
from .grouped import GroupedMatrix
from .int4 import BlockMatrix, Int4Matrix, to_machine
from .key_centers import KeyCenters
from .layout import KV_FORMATS
from .numerics import GROUP
from .rounding import ceil_div
from .shape import ModelShape
from .ternary import TernaryMatrix
from .vocabulary import HEAD_LARGEST

__all__ = [
    "KV_KINDS", "QUERY_KINDS", "LayerWeights", "Matrix", "ModelWeights", "dense", "engine_of", "random_centers", "random_weights",
    "scale_rows",
]

#: A linear layer ``[rows, inputs]``: trits with one scale or with scales of groups, floats, 4-bit blocks with float scales, or what
#: the INT4 engine multiplies.
Matrix = TernaryMatrix | GroupedMatrix | npt.NDArray[np.float32] | BlockMatrix | Int4Matrix

#: Formats of keys and values in the cache.
KV_KINDS = tuple(KV_FORMATS)

#: Formats of queries.
QUERY_KINDS = ("int8", "e4m3")


def dense(matrix: Matrix) -> Float:
    """The weights as float32 ``[rows, inputs]``."""
    return matrix if isinstance(matrix, np.ndarray) else matrix.dense()


def scale_rows(matrix: Matrix, factors: Float) -> Matrix:
    """The matrix, no ternary one, with its rows times ``factors [rows]``: codes stay as they are; what is rounded, once, is a
    float32 scale, or the floats themselves.
    """
    if isinstance(matrix, (TernaryMatrix, GroupedMatrix)):
        raise TypeError("a ternary matrix has one scale for all rows")
    if isinstance(matrix, Int4Matrix):
        return replace(matrix, row_scale=np.asarray(matrix.row_scale * factors, np.float32))
    by = factors[:, None]
    if isinstance(matrix, np.ndarray):
        return np.asarray(matrix * by, np.float32)
    midpoint = None if matrix.midpoint is None else matrix.midpoint * by
    return replace(matrix, scale=matrix.scale * by, midpoint=midpoint)


#: Linear engines of matrices that are not for the INT4 engine.
_ENGINES: dict[type, str] = {TernaryMatrix: "ternary", GroupedMatrix: "grouped"}


def engine_of(matrices: Sequence[Matrix]) -> str:
    """Linear engine for these matrices: "ternary", "grouped", or "int4" (which floats need, too: once they are quantised)."""
    kinds = {_ENGINES.get(type(matrix), "int4") for matrix in matrices}
    if len(kinds) != 1:
        raise ValueError("matrices must be all ternary or all not, and all with scales of groups or none")
    return kinds.pop()


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One decoder layer, by the names of its :class:`DecoderLayer`. Rotary pairs are in half-split order."""

    #: A :data:`Matrix` ``[rows, inputs]`` each; who reads one knows its format.
    matrices: Mapping[str, Any]
    #: Gains ``[elements]``.
    norms: Mapping[str, Float]
    #: ``[rows]`` each.
    biases: Mapping[str, Float] = field(default_factory=dict)

    def with_matrices(self, matrices: Mapping[str, Any]) -> LayerWeights:
        """The layer with other matrices, by name."""
        return replace(self, matrices={**self.matrices, **matrices})


def _check_names(where: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if found.keys() != expected.keys():
        raise ValueError(f"{where} must be {', '.join(expected) or 'none'}, not {', '.join(found) or 'none'}")


@dataclass(frozen=True, kw_only=True)
class ModelWeights:
    """All weights of a model, and the two switches of its attention. Float arrays are finite float32; those of a ternary model
    are also 0 or at least 2^-125 in magnitude.
    """

    #: Sizes and constants.
    shape: ModelShape
    #: What a layer computes.
    layer: DecoderLayer = BITNET
    #: Decoder layers, first to last.
    layers: tuple[LayerWeights, ...]
    #: Gain of the final norm ``[hidden]``.
    norm: Float
    #: Embedding ``[vocab, hidden]``, which the machine has in bfloat16; a ternary model has bfloat16 values.
    embedding: Float
    #: LM head ``[vocab, hidden]``, or None where it shares the embedding (``shape.tied``).
    head: Float | None = None
    #: The head as ternary rows with scales of groups, which then stand in for `head_rows` on the machine; or None.
    grouped_head: GroupedMatrix | None = None
    #: Format of cached keys and values, of `KV_KINDS`.
    kv: str = "k8v8"
    #: Format of queries: ``"int8"`` or ``"e4m3"``.
    query: str = "int8"
    #: What keys have in common, which is left out of those of 4 bits; None where that is not known.
    key_centers: KeyCenters | None = None

    def __post_init__(self) -> None:
        s = self.shape
        for name, value, kinds in (("kv", self.kv, KV_KINDS), ("query", self.query, QUERY_KINDS)):
            if value not in kinds:
                raise ValueError(f"{name} must be one of {', '.join(kinds)}, not {value!r}")
        if len(self.layers) != s.layers:
            raise ValueError(f"layers must be {s.layers} long, not {len(self.layers)}")
        if (self.head is None) != s.tied:
            raise ValueError(f"head must be {'None in' if s.tied else 'given for'} a model with tied={s.tied}")
        if self.grouped_head is not None and (self.engine != "grouped" or self.grouped_head.shape != (s.vocab, s.hidden)):
            wanted = f"{(s.vocab, s.hidden)} in a model of such matrices"
            raise ValueError(f"grouped_head must be {wanted}, not {self.grouped_head.shape} in one for {self.engine!r}")
        floats: dict[str, tuple[Float, tuple[int, ...]]] = {
            "norm": (self.norm, (s.hidden,)),
            "embedding": (self.embedding, (s.vocab, s.hidden)),
        }
        if self.head is not None:
            floats["head"] = (self.head, (s.vocab, s.hidden))
        for i, layer in enumerate(self.layers):
            floats |= self._check_layer(f"layer {i}", layer)
        for name, (array, shape) in floats.items():
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(f"{name} must be float32 {shape}, not {array.dtype} {array.shape}")
            if not is_finite(array):
                raise ValueError(f"{name} must be finite")
        if self.key_centers is not None:
            self.key_centers.check(s.layers, s.kv_rows)
        engine_of([matrix for layer in self.layers for matrix in layer.matrices.values()])
        if self.engine != "int4" and not has_bf16_values(self.embedding):
            raise ValueError("embedding must hold bfloat16 values; use round_bf16()")

    def _check_layer(self, where: str, layer: LayerWeights) -> dict[str, tuple[Float, tuple[int, ...]]]:
        """Names and sizes of the matrices of a layer; its float arrays with their sizes, to be checked."""
        floats: dict[str, tuple[Float, tuple[int, ...]]] = {}
        sizes = self.layer.matrices(self.shape)
        _check_names(f"{where} matrices", layer.matrices, sizes)
        for name, size in sizes.items():
            matrix = layer.matrices[name]
            if matrix.shape != size:
                raise ValueError(f"{where} {name} must be {size}, not {matrix.shape}")
            if isinstance(matrix, np.ndarray):
                floats[f"{where} {name}"] = matrix, size
        vectors = ("norms", layer.norms, self.layer.norms(self.shape)), ("biases", layer.biases, self.layer.biases(self.shape))
        for what, values, lengths in vectors:
            _check_names(f"{where} {what}", values, lengths)
            floats |= {f"{where} {name}": (values[name], (length,)) for name, length in lengths.items()}
        return floats

    @property
    def engine(self) -> str:
        """Linear engine that runs it: "ternary", "grouped" or "int4"."""
        return engine_of(list(self.layers[0].matrices.values()))

    @property
    def head_rows(self) -> Float:
        """LM head ``[vocab, hidden]``: ``head``, or the embedding where it is shared."""
        return self.embedding if self.head is None else self.head

    def embedding_bits(self) -> npt.NDArray[np.uint16]:
        """bf16 bits of the embedding ``[vocab, hidden]``."""
        return pack_bf16(self.embedding)

    def quantized_head(self, rows: slice = slice(None)) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
        """int8 LM head ``[vocab, hidden]`` and bf16 bits of its row scales ``[vocab]``, or ``rows`` of them."""
        return quantize_head(self.head_rows[rows], HEAD_LARGEST[self.engine])

    def short_head(self) -> tuple[TernaryMatrix, npt.NDArray[np.uint16]]:
        """Ternary LM head (its matrix scale is 1) and bf16 bits of its row scales ``[vocab]``."""
        trits, scales = ternary_head(self.head_rows)
        return TernaryMatrix(trits, 1.0), scales

    @property
    def is_quantized(self) -> bool:
        """True where no matrix has floats, so that the machine can take it."""
        return not any(isinstance(m, np.ndarray) for layer in self.layers for m in layer.matrices.values())

    def on_machine(self) -> ModelWeights:
        """The same model with every matrix as the machine stores it (scales of blocks rounded to 8 bits); INT4 matrices all with
        the smallest group that one has, since matrices that are multiplied together share theirs.
        """

        def stored(where: str, matrix: Matrix) -> Matrix:
            if isinstance(matrix, np.ndarray):
                raise ValueError(f"{where} must have 4-bit codes, not floats; quantise the model first")
            return to_machine(matrix) if isinstance(matrix, BlockMatrix) else matrix

        layers = [
            {name: stored(f"layer {i} {name}", matrix) for name, matrix in layer.matrices.items()}
            for i, layer in enumerate(self.layers)
        ]
        group = min((m.group for layer in layers for m in layer.values() if isinstance(m, Int4Matrix)), default=0)
        return replace(self, layers=tuple(
            layer.with_matrices({n: m.regrouped(group) if isinstance(m, Int4Matrix) else m for n, m in matrices.items()})
            for layer, matrices in zip(self.layers, layers, strict=True)
        ))


def random_centers(shape: ModelShape, rng: np.random.Generator) -> KeyCenters:
    """Of half the size of random keys, and first keys of theirs."""
    size = shape.layers, shape.kv_rows
    return KeyCenters(flush(rng.normal(0, 0.5, size)), flush(rng.normal(0, 1, size)))


def random_weights(
    shape: ModelShape, seed: int = 0, layer: DecoderLayer = BITNET, engine: str = "ternary", *,
    group: int = 32, symmetric: bool = False, kv: str = "k8v8", query: str = "int8",
) -> ModelWeights:
    """A random model as the machine stores it: every trit or 4-bit code alike often, signals of order one everywhere. Equal for
    equal seeds. ``group`` and ``symmetric`` are those of INT4 matrices. With centers of keys where these have 4 bits.
    """
    rng = np.random.default_rng(seed)

    def ternary(rows: int, inputs: int) -> Matrix:
        scale = np.float32(rng.uniform(0.7, 1.3) * (1.5 / inputs) ** 0.5)
        return TernaryMatrix(rng.integers(-1, 2, (rows, inputs), dtype=np.int8), float(scale))

    def grouped(rows: int, inputs: int) -> Matrix:
        codes = rng.integers(64, 256, (rows, inputs // GROUP)).astype(np.uint8)
        scale = np.float32(rng.uniform(0.7, 1.3) * (1.5 / inputs) ** 0.5 / 150)
        return GroupedMatrix(rng.integers(-1, 2, (rows, inputs), dtype=np.int8), codes, float(scale))

    def int4(rows: int, inputs: int) -> Matrix:
        groups = ceil_div(inputs, group)
        scales = rng.integers(60, 256, (rows, groups)).astype(np.uint8)
        midpoints = None if symmetric else rng.integers(-80, 81, (rows, groups)).astype(np.int8)
        unit = rng.uniform(0.7, 1.3, rows) / (160 * 4.6 * inputs**0.5)
        codes = rng.integers(-8, 8, (rows, inputs), dtype=np.int8)
        return Int4Matrix(codes, group, scales, midpoints, unit.astype(np.float32))

    def gain(size: int) -> Float:
        return flush(rng.uniform(0.5, 1.5, size))

    matrix: Callable[[int, int], Matrix] = {"ternary": ternary, "grouped": grouped, "int4": int4}[engine]
    layers = tuple(
        LayerWeights(
            matrices={name: matrix(*size) for name, size in layer.matrices(shape).items()},
            norms={name: gain(size) for name, size in layer.norms(shape).items()},
            biases={name: round_bf16(rng.normal(0, 0.5, size)) for name, size in layer.biases(shape).items()},
        )
        for _ in range(shape.layers)
    )
    norm, table = gain(shape.hidden), (shape.vocab, shape.hidden)
    embedding: npt.NDArray[np.floating[Any]] = rng.normal(0, 1, table)
    grouped_head = None
    if engine == "grouped":
        scale = flush(rng.uniform(0.5, 1.5, (table[0], table[1] // GROUP)))
        grouped_head = GroupedMatrix.of(rng.integers(-1, 2, table, dtype=np.int8), scale)
        embedding = grouped_head.dense()
    return ModelWeights(
        shape=shape, layer=layer, layers=layers, norm=norm,
        embedding=flush(embedding) if engine == "int4" else round_bf16(embedding),
        head=None if shape.tied else flush(rng.normal(0, shape.hidden**-0.5, table)), kv=kv, query=query,
        grouped_head=grouped_head if shape.tied else None,
        key_centers=random_centers(shape, rng) if Format.INT4_KEYS in KV_FORMATS.get(kv, Format.NONE) else None,
    )
