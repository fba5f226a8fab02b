"""Ternary matrices with a scale for every group of inputs (``docs/numerics.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .formats import Float, flush
from .layout import pack_trits
from .numerics import GROUP, GROUP_SCALE_MAX
from .ternary import check_trits

__all__ = ["SCALES", "GroupedMatrix", "group_codes"]

#: Scale of every code, in units of its matrix: with two bits of exponent e above six of mantissa m, ``m`` for e = 0, else
#: ``(64 + m) 2^(e - 1)``.
SCALES = np.array([m if e == 0 else 64 + m << e - 1 for e in range(4) for m in range(64)], np.int16)


def group_codes(scale: Float) -> tuple[npt.NDArray[np.uint8], float]:
    """Codes of scales (0 or more) of any shape, and their unit: the largest gets the largest code. A scale from an eighth of the
    largest on is off by 0.8% at most, a smaller one by less than a thousandth of the largest.
    """
    unit = float(flush(scale.max(initial=0) / np.float32(GROUP_SCALE_MAX)))
    if unit == 0:
        return np.zeros(scale.shape, np.uint8), 0.0
    at = np.asarray(scale / np.float32(unit), np.float32)
    middle = (SCALES[1:] + SCALES[:-1]) / 2  # exact; a scale in the middle of two goes down
    return np.searchsorted(middle, at).astype(np.uint8), unit


@dataclass(frozen=True)
class GroupedMatrix:
    """A linear layer ``w = scale * SCALES[code of the group] * trit``, with groups of `GROUP` inputs."""

    #: Weights -1, 0 or 1, int8 ``[rows, inputs]``.
    trits: npt.NDArray[np.int8]
    #: uint8 ``[rows, inputs / GROUP]``.
    codes: npt.NDArray[np.uint8]
    #: Unit of the scales, a float32 value.
    scale: float

    def __post_init__(self) -> None:
        check_trits(self.trits, self.scale)
        if self.trits.shape[1] % GROUP:
            raise ValueError(f"inputs must be a multiple of {GROUP}, not {self.trits.shape[1]}")
        expected = self.rows, self.inputs // GROUP
        if self.codes.dtype != np.uint8 or self.codes.shape != expected:
            raise ValueError(f"codes must be uint8 {expected}, not {self.codes.dtype} {self.codes.shape}")

    @classmethod
    def of(cls, trits: npt.NDArray[np.int8], scale: Float) -> GroupedMatrix:
        """Trits as they are, float scales ``[rows, groups]``, 0 or more, rounded to codes."""
        return cls(trits, *group_codes(scale))

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

    def integers(self) -> npt.NDArray[np.int16]:
        """``SCALES[code] * trit`` ``[rows, inputs]``: the weights in units of ``scale``."""
        return np.asarray(self.trits * np.repeat(SCALES[self.codes], GROUP, axis=1), np.int16)

    def dense(self) -> Float:
        """The weights ``[rows, inputs]`` in float32."""
        return self.integers() * np.float32(self.scale)

    def packed(self) -> npt.NDArray[np.uint8]:
        """Trits of every group, five a byte ``[rows, groups, ceil(GROUP / 5)]``."""
        return pack_trits(self.trits.reshape(-1, GROUP)).reshape(self.rows, self.inputs // GROUP, -1)
