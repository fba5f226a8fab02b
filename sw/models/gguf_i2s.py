"""I2_S, the ternary type of bitnet.cpp: digits 0, 1, 2 for -1, 0, 1, four a byte, and one float32 scale behind them.

Which weights share a byte depends on the machine that wrote the file, and nothing in the file says which machine that was:

=============  ================================================================================================
layout         weights in bits 7:6, 5:4, 3:2, 1:0 of a byte
=============  ================================================================================================
``x86``        p, p + 32, p + 64, p + 96 of 128 in a row, in byte p of 32: the published files
``arm``        p, p + 16, p + 32, p + 48 of 64 in a row, in byte p of 16
``rows``       one column of four rows (x86 builds without ACT_PARALLEL): a byte a column, then the next four rows
=============  ================================================================================================

The layouts hold the same digits, so each reads the files of the others without an error. What tells them apart is the rest of the
model: a channel with a large gain in the norm before a matrix has more zeros, or fewer, in its column of that matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from ...formats import Float

__all__ = ["LAYOUTS", "PUBLISHED", "find_layout", "read"]

Bytes = npt.NDArray[np.uint8]

PUBLISHED = "x86"

#: A layout counts as found where its score is this much, and this many times that of the next: chance gives about 1 a matrix.
_CLEAR, _DISTANCE = 30.0, 4.0


def _digits(packed: Bytes) -> Bytes:
    """``[..., n]`` -> ``[..., 4, n]``, the high bits first."""
    return np.stack([packed >> shift & 3 for shift in (6, 4, 2, 0)], axis=-2)


def _runs(run: int) -> Callable[[Bytes, int, int], Bytes]:
    return lambda packed, rows, inputs: _digits(packed.reshape(-1, run)).reshape(rows, inputs)


#: Bytes, rows and inputs -> digits ``[rows, inputs]``.
LAYOUTS: dict[str, Callable[[Bytes, int, int], Bytes]] = {
    PUBLISHED: _runs(32),
    "arm": _runs(16),
    "rows": lambda packed, rows, inputs: _digits(packed.reshape(rows // 4, inputs)).reshape(rows, inputs),
}


def _fits(layout: str, rows: int, inputs: int) -> bool:
    return not (rows % 4 if layout == "rows" else rows * inputs % (64 if layout == "arm" else 128))


def read(stored: Bytes, rows: int, inputs: int, layout: str) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Trits ``[rows, inputs]`` and their scale; ValueError with what is wrong."""
    if not _fits(layout, rows, inputs):
        raise ValueError(f"has {rows} rows of {inputs} inputs, which I2_S in the layout {layout!r} cannot have")
    size = rows * inputs // 4
    scale = stored[size : size + 4].view("<f4")[0]
    digits = LAYOUTS[layout](stored[:size], rows, inputs)
    if digits.max() > 2:
        raise ValueError("holds the digit 3; ternary digits are 0, 1 and 2")
    if not np.isfinite(scale) or scale <= 0:
        raise ValueError(f"has the scale {scale}, a positive number is wanted")
    return digits.astype(np.int8) - np.int8(1), np.float32(scale)


def _ranks(values: Float) -> npt.NDArray[np.float64]:
    """Ranks around 0 with variance 1."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable") - (len(values) - 1) / 2
    return np.asarray(ranks / ranks.std())


def find_layout(matrices: Iterable[tuple[Bytes, int, int, Float]]) -> str | None:
    """The layout of a file from some of its matrices (bytes, rows, inputs, gains of the norm before it ``[inputs]``), or None where
    they do not tell. Scored by the rank correlation of gains and zeros of columns: n r^2, about 1 for columns in a wrong order.
    """
    scores = dict.fromkeys(LAYOUTS, 0.0)
    for stored, rows, inputs, gains in matrices:
        for layout in list(scores):
            if not _fits(layout, rows, inputs):
                del scores[layout]
                continue
            zeros = (LAYOUTS[layout](stored[: rows * inputs // 4], rows, inputs) == 1).sum(axis=0)
            correlation = float(np.mean(_ranks(np.abs(gains)) * _ranks(zeros.astype(np.float32))))
            scores[layout] += inputs * correlation**2
    if not scores:
        return None
    best, *others = sorted(scores, key=lambda layout: -scores[layout])
    next_best = max((scores[layout] for layout in others), default=0.0)
    found = math.isfinite(scores[best]) and scores[best] > _CLEAR and scores[best] > _DISTANCE * next_best
    return best if found or not others else None
