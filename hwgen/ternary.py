"""Ternary matrices: what BitNet b1.58 is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .layout import pack_trits

__all__ = ["TernaryMatrix", "check_trits", "quantize_ternary"]


def check_trits(trits: npt.NDArray[np.int8], scale: float) -> None:
    """Refuse what is no int8 matrix of -1, 0 and 1, and a scale that is no float32 value."""
    if trits.dtype != np.int8 or trits.ndim != 2:
        raise ValueError(f"trits must be an int8 matrix, not {trits.dtype} {trits.shape}")
    if trits.size and np.abs(trits).max() > 1:
        raise ValueError(f"trits must be -1, 0 or 1, not {int(trits[np.abs(trits) > 1][0])}")
    if not np.isfinite(scale) or float(np.float32(scale)) != scale:
        raise ValueError(f"scale must be a finite float32 value, not {scale!r}")


@dataclass(frozen=True)
class TernaryMatrix:
    """A linear layer ``y = scale * (trits @ x)``."""

    #: Weights -1, 0 or 1, int8 ``[rows, inputs]``.
    trits: npt.NDArray[np.int8]
    #: Scale of the whole matrix, a float32 value.
    scale: float

    def __post_init__(self) -> None:
        check_trits(self.trits, self.scale)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and inputs."""
        return self.trits.shape

    @property
    def rows(self) -> int:
        return int(self.trits.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.trits.shape[1])

    def dense(self) -> npt.NDArray[np.float32]:
        """The weights ``[rows, inputs]`` in float32."""
        return self.trits * np.float32(self.scale)

    def packed(self) -> npt.NDArray[np.uint8]:
        """Rows as they lie in memory, five trits a byte ``[rows, ceil(inputs / 5)]``."""
        return pack_trits(self.trits)


def quantize_ternary(master: npt.ArrayLike) -> TernaryMatrix:
    """Absmean quantisation of a float master matrix: scale = mean |w| (at least 1e-5), trits = round(w / scale) in
    -1..1.
    """
    w = np.asarray(master, np.float32)
    scale = np.float32(max(float(np.abs(w).mean(dtype=np.float64)), 1e-5))
    return TernaryMatrix(np.clip(np.rint(w / scale), -1, 1).astype(np.int8), float(scale))
