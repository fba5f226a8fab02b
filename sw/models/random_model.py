"""Models of published sizes with seeded random weights, packed as they are drawn: no float master copy is ever held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import TRITS_PER_BYTE
from ...decoder import DecoderLayer
from ...formats import Float, flush, round_bf16
from ...int4 import Int4Matrix
from ...key_centers import KeyCenters
from ...layout import ZERO_BYTE
from ...numerics import GROUP
from ...published import published_model
from ...rounding import ceil_div
from ...shape import ModelShape
from ...vocabulary import HEAD_LARGEST
from ...weights import LayerWeights, random_centers
from .families import FAMILIES

__all__ = ["RandomGrouped", "RandomInt4", "RandomModel", "RandomTernary", "random_model", "sized_model"]

#: Rows of the head and the embedding drawn at a time.
_ROWS = 4096


@dataclass(frozen=True)
class RandomTernary:
    """A ternary matrix whose packed bytes are drawn when they are needed; each of -1, 0, 1 is equally likely."""

    rows: int
    inputs: int
    scale: float
    #: Of the generator.
    seed: tuple[int, ...]

    def packed(self) -> npt.NDArray[np.uint8]:
        """Five trits a byte ``[rows, ceil(inputs / 5)]``; inputs beyond the last are zero trits."""
        whole, rest = divmod(self.inputs, TRITS_PER_BYTE)
        rng = np.random.default_rng(self.seed)
        drawn = rng.integers(0, 3**TRITS_PER_BYTE, (self.rows, whole), dtype=np.uint8)
        if not rest:
            return drawn
        padding = ZERO_BYTE // 3**rest * 3**rest  # the zero trits above the real ones
        return np.column_stack((drawn, rng.integers(0, 3**rest, self.rows, dtype=np.uint8) + np.uint8(padding)))


class RandomGrouped:
    """What the compiler uses of a `hwgen.grouped.GroupedMatrix`, drawn when it is needed."""

    def __init__(self, rows: int, inputs: int, scale: float, seed: tuple[int, ...]) -> None:
        self.rows, self.inputs, self.scale, self.seed = rows, inputs, scale, seed

    def packed(self) -> npt.NDArray[np.uint8]:
        """Trits of every group, five a byte ``[rows, groups, ceil(GROUP / 5)]``."""
        groups = self.inputs // GROUP
        return RandomTernary(self.rows * groups, GROUP, 1.0, self.seed).packed().reshape(self.rows, groups, -1)

    @cached_property
    def codes(self) -> npt.NDArray[np.uint8]:
        """Codes of scales ``[rows, groups]``, from an eighth of the largest on."""
        return np.random.default_rng((*self.seed, 1)).integers(64, 256, (self.rows, self.inputs // GROUP), dtype=np.uint8)


class RandomInt4:
    """What the compiler uses of an `hwgen.int4.Int4Matrix`, drawn when it is needed; every code is equally likely."""

    def __init__(self, rows: int, inputs: int, group: int, seed: tuple[int, ...]) -> None:
        self.rows, self.inputs, self.group, self.seed = rows, inputs, group, seed

    @cached_property
    def _drawn(self) -> Int4Matrix:
        rng = np.random.default_rng(self.seed)
        groups = ceil_div(self.inputs, self.group)
        scales = rng.integers(60, 256, (self.rows, groups), dtype=np.uint8)
        midpoints = rng.integers(-80, 81, (self.rows, groups), dtype=np.int8)
        unit = rng.uniform(0.7, 1.3, self.rows) / (160 * 4.6 * self.inputs**0.5)
        codes = rng.integers(-8, 8, (self.rows, self.inputs), dtype=np.int8)
        return Int4Matrix(codes, self.group, scales, midpoints, unit.astype(np.float32))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._drawn, name)


class RandomLayers(Sequence[LayerWeights]):
    """Layers of a :class:`RandomModel`, each made when it is asked for."""

    def __init__(self, model: RandomModel) -> None:
        self.model = model

    def __len__(self) -> int:
        return self.model.shape.layers

    def __getitem__(self, index: int) -> LayerWeights:  # type: ignore[override]  # one layer a time: compilers take no slices
        if not 0 <= index < len(self):
            raise IndexError(index)
        model = self.model
        rng = np.random.default_rng((model.seed, index))

        def matrix(rows: int, inputs: int, number: int) -> RandomTernary | RandomGrouped | RandomInt4:
            seed = model.seed, index, number
            if model.engine == "int4":
                return RandomInt4(rows, inputs, model.group, seed)
            scale = rng.uniform(0.7, 1.3) * (1.5 / inputs) ** 0.5
            if model.engine == "grouped":
                return RandomGrouped(rows, inputs, float(np.float32(scale / 150)), seed)
            return RandomTernary(rows, inputs, float(np.float32(scale)), seed)

        sizes = model.layer.matrices(model.shape).items()
        matrices: dict[str, Any] = {name: matrix(*size, number) for number, (name, size) in enumerate(sizes)}
        norms = {name: flush(rng.uniform(0.5, 1.5, size)) for name, size in model.layer.norms(model.shape).items()}
        biases = {name: round_bf16(rng.normal(0, 0.5, size)) for name, size in model.layer.biases(model.shape).items()}
        return LayerWeights(matrices=matrices, norms=norms, biases=biases)


@dataclass(frozen=True)
class RandomModel:
    """What the compiler needs of `hwgen.weights.ModelWeights`, drawn piece by piece. Equal for equal seeds; a model cut down to
    fewer layers has the first layers of the whole one.
    """

    shape: ModelShape
    layer: DecoderLayer
    engine: str
    seed: int = 0
    #: Inputs of an INT4 matrix that share a scale.
    group: int = 128
    kv: str = "k8v8"
    query: str = "int8"

    @property
    def layers(self) -> RandomLayers:
        return RandomLayers(self)

    @cached_property
    def key_centers(self) -> KeyCenters:
        return random_centers(self.shape, self._rng(6))

    @property
    def norm(self) -> Float:
        """Gain of the final norm ``[hidden]``."""
        return flush(self._rng(0).uniform(0.5, 1.5, self.shape.hidden))

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, 1 << 20, stream))

    def on_machine(self) -> RandomModel:
        return self

    def embedding_bits(self) -> npt.NDArray[np.uint16]:
        """bf16 bits of an embedding with elements from -1 to 1 ``[vocab, hidden]``."""
        rng = self._rng(1)
        table = np.empty((self.shape.vocab, self.shape.hidden), np.uint16)
        for first in range(0, len(table), _ROWS):
            part = table[first : first + _ROWS]
            # magnitudes from 2^-3 to 1: exponent field 124 to 126, any mantissa, any sign
            bits = rng.integers(0, 1 << 16, part.shape, dtype=np.uint16)
            part[:] = (bits & 0x807F) | ((124 + bits % 3) << 7).astype(np.uint16)
        return table

    @cached_property
    def grouped_head(self) -> RandomGrouped | None:
        """A head with scales of groups, in models of such matrices; it has nothing to do with the embedding."""
        if self.engine != "grouped":
            return None
        scale = float(np.float32((1.5 / self.shape.hidden) ** 0.5 / 150))
        return RandomGrouped(self.shape.vocab, self.shape.hidden, scale, (self.seed, 1 << 20, 5))

    def short_head(self) -> tuple[RandomTernary, npt.NDArray[np.uint16]]:
        """A ternary head that has nothing to do with the exact one, and bf16 bits of its row scales ``[vocab]``."""
        scales = self._rng(3).integers(0x3900, 0x3A00, self.shape.vocab, dtype=np.uint16)
        return RandomTernary(self.shape.vocab, self.shape.hidden, 1.0, (self.seed, 1 << 20, 4)), scales

    def quantized_head(self, rows: slice = slice(None)) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
        """Integers ``[vocab, hidden]`` and bf16 bits of row scales ``[vocab]``, or ``rows`` of them, drawn by themselves."""
        low, high, _ = rows.indices(self.shape.vocab)
        rng, largest = np.random.default_rng((self.seed, 1 << 20, 2, low)), HEAD_LARGEST[self.engine]
        integers = rng.integers(-largest, largest + 1, (high - low, self.shape.hidden), dtype=np.int8)
        return integers, rng.integers(0x3900, 0x3A00, high - low, dtype=np.uint16)


def random_model(
    name: str, seed: int = 0, layers: int | None = None, kv: str = "k8v8", context: int = 0
) -> RandomModel:
    """Random weights of a published model, with a context of at least ``context``."""
    model = published_model(name)
    shape = replace(model.shape, max_context=max(model.shape.max_context, context))
    if layers is not None:
        shape = replace(shape, layers=layers)
    return RandomModel(shape, model.layer, model.engine, seed, kv=kv)


def sized_model(shape: ModelShape, engine: str, layer: DecoderLayer | None = None, kv: str = "k8v8") -> RandomModel:
    """Random weights of any shape, for what depends on sizes alone; in layers of the first family whose checkpoints this engine
    runs, unless ``layer`` is given.
    """
    return RandomModel(shape, layer or next(family.layer for family in FAMILIES if family.engine == engine), engine, kv=kv)
