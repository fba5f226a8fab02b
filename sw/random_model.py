"""Models of published sizes with seeded random weights, packed as they are drawn: no float master copy is ever held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..config import TRITS_PER_BYTE
from ..layout import ZERO_BYTE
from ..model import ModelShape
from ..weights import Float, LayerWeights, flush, gain_sizes, matrix_shapes

__all__ = ["RandomModel", "RandomTernary"]

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


class RandomLayers(Sequence[LayerWeights]):
    """Layers of a :class:`RandomModel`, each made when it is asked for."""

    def __init__(self, shape: ModelShape, seed: int) -> None:
        self.shape, self.seed = shape, seed

    def __len__(self) -> int:
        return self.shape.layers

    def __getitem__(self, index: int) -> LayerWeights:  # type: ignore[override]  # no slices
        if not 0 <= index < self.shape.layers:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        parts: dict[str, object] = {}
        for number, (name, (rows, inputs)) in enumerate(matrix_shapes(self.shape).items()):
            scale = np.float32(rng.uniform(0.7, 1.3) * (1.5 / inputs) ** 0.5)
            parts[name] = RandomTernary(rows, inputs, float(scale), (self.seed, index, number))
        for name, size in gain_sizes(self.shape).items():
            parts[name] = flush(rng.uniform(0.5, 1.5, size))
        return LayerWeights(**parts)  # type: ignore[arg-type]  # RandomTernary has what the compiler uses of a TernaryMatrix


class RandomModel:
    """What the compiler needs of `hwgen.weights.ModelWeights`, drawn piece by piece. Equal for equal seeds; a model
    cut down to fewer layers has the first layers of the whole one."""

    def __init__(self, shape: ModelShape, seed: int = 0, layers: int | None = None) -> None:
        self.seed = seed
        self.shape = shape if layers is None else replace(shape, layers=layers)
        self.layers = RandomLayers(self.shape, seed)
        self.norm: Float = flush(self._rng(0).uniform(0.5, 1.5, shape.hidden))

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, 1 << 20, stream))

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

    def short_head(self) -> tuple[RandomTernary, npt.NDArray[np.uint16]]:
        """A ternary head that has nothing to do with the exact one, and bf16 bits of its row scales ``[vocab]``."""
        scales = self._rng(3).integers(0x3900, 0x3A00, self.shape.vocab, dtype=np.uint16)
        return RandomTernary(self.shape.vocab, self.shape.hidden, 1.0, (self.seed, 1 << 20, 4)), scales

    def quantized_head(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]:
        """int8 rows ``[vocab, hidden]`` and bf16 bits of their scales ``[vocab]``."""
        rng = self._rng(2)
        rows = rng.integers(-127, 128, (self.shape.vocab, self.shape.hidden), dtype=np.int8)
        scales = rng.integers(0x3900, 0x3A00, self.shape.vocab, dtype=np.uint16)
        return rows, scales
