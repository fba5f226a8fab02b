"""INT4 matrices in groups: what the quantiser writes and the machine multiplies (``docs/numerics-int4.md``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .formats import Float, flush
from .rounding import ceil_div

__all__ = [
    "CODE_MAX", "GROUPS", "MIDPOINT_STEP", "WEIGHT_MAX", "BlockMatrix", "Int4Matrix", "affine_blocks", "pack_nibbles",
    "round_to_nearest", "row_scales", "spread", "symmetric_scales", "to_machine", "unpack_nibbles",
]

#: Group sizes of the machine, in inputs.
GROUPS = (16, 32, 64, 128)

#: A midpoint code counts this many units of ``row_scale``.
MIDPOINT_STEP = 8

#: Largest positive code: the scale of a symmetric group is its absmax over this.
CODE_MAX = 7

_SCALE_MAX = 255
_MIDPOINT_MAX = 127

#: Largest magnitude of a weight in units of ``row_scale``.
WEIGHT_MAX = 8 * _SCALE_MAX + MIDPOINT_STEP * _MIDPOINT_MAX


def pack_nibbles(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Codes -8..7 two a byte along the last dimension, the even one in the low nibble."""
    nibbles = codes.astype(np.uint8) & np.uint8(15)
    return np.asarray(nibbles[..., 0::2] | (nibbles[..., 1::2] << np.uint8(4)), np.uint8)


def unpack_nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """The inverse of :func:`pack_nibbles`."""
    pair = np.stack((packed << np.uint8(4), packed & np.uint8(0xF0)), axis=-1).view(np.int8) >> 4
    codes: npt.NDArray[np.int8] = pair.reshape(*packed.shape[:-1], -1)
    return codes


def spread(values: npt.NDArray[Any], group: int, inputs: int) -> npt.NDArray[Any]:
    """One value a group ``[rows, groups]`` -> one an input ``[rows, inputs]``; the last group may be short."""
    return np.repeat(values, group, axis=1)[:, :inputs]


def _check_groups(codes: npt.NDArray[np.int8], group: int, values: npt.NDArray[Any], name: str) -> None:
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS}, not {group!r}")
    expected = (codes.shape[0], ceil_div(codes.shape[1], group))
    if values.shape != expected:
        raise ValueError(f"{name} must be {expected}, not {values.shape}")


def _check_codes(codes: npt.NDArray[np.int8]) -> None:
    if codes.dtype != np.int8 or codes.ndim != 2:
        raise ValueError(f"codes must be an int8 matrix, not {codes.dtype} {codes.shape}")
    if codes.shape[1] % min(GROUPS):
        raise ValueError(f"inputs must be a multiple of {min(GROUPS)}, not {codes.shape[1]}")
    if codes.size and (codes.min() < -8 or codes.max() > 7):
        raise ValueError(f"codes must be -8 to 7, not {int(codes.min())} to {int(codes.max())}")


@dataclass(frozen=True)
class BlockMatrix:
    """4-bit codes with float scales, as a file or a quantiser has them: ``w = scale * code + midpoint`` in every group."""

    #: -8..7, int8 ``[rows, inputs]``.
    codes: npt.NDArray[np.int8]
    #: Inputs that share one scale; the last group may be short.
    group: int
    #: float32 ``[rows, groups]``, 0 or more.
    scale: Float
    #: float32 ``[rows, groups]``, or None where every group is symmetric.
    midpoint: Float | None = None

    def __post_init__(self) -> None:
        _check_codes(self.codes)
        for name, values in (("scale", self.scale), ("midpoint", self.midpoint)):
            if values is None:
                continue
            _check_groups(self.codes, self.group, values, name)
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise ValueError(f"{name} must be finite float32, not {values.dtype}")
        if self.scale.size and self.scale.min() < 0:
            raise ValueError(f"scale must be 0 or more, not {self.scale.min()}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and inputs."""
        return self.codes.shape

    def dense(self) -> Float:
        """The weights ``[rows, inputs]``."""
        inputs = self.codes.shape[1]
        w = self.codes * spread(self.scale, self.group, inputs)
        if self.midpoint is not None:
            w = w + spread(self.midpoint, self.group, inputs)
        return np.asarray(w, np.float32)


def affine_blocks(q: npt.NDArray[np.uint8], d: Float, m: Float, group: int = 32) -> BlockMatrix:
    """``w = d q + m`` with ``q [rows, inputs]`` in 0..15, ``d`` and ``m [rows, inputs / group]``, as codes -8..7 around a midpoint.

    Where d is negative the codes are mirrored, so that every scale is positive. The values do not change.
    """
    codes = q.astype(np.int8) - np.int8(8)
    negative = d < 0
    if negative.any():
        codes = np.where(spread(negative, group, q.shape[1]), np.int8(-1) - codes, codes)
    midpoint = np.where(negative, m + 7 * d, m + 8 * d).astype(np.float32)
    return BlockMatrix(codes, group, np.abs(d).astype(np.float32), midpoint if midpoint.any() else None)


@dataclass(frozen=True)
class Int4Matrix:
    """A matrix as the machine stores it: ``w = row_scale * (scales * codes + 8 * midpoints)``."""

    #: -8..7, int8 ``[rows, inputs]``.
    codes: npt.NDArray[np.int8]
    #: Inputs that share one scale; the last group may be short.
    group: int
    #: Scale codes 0..255, uint8 ``[rows, groups]``.
    scales: npt.NDArray[np.uint8]
    #: Midpoint codes -127..127, int8 ``[rows, groups]``, or None in a symmetric matrix.
    midpoints: npt.NDArray[np.int8] | None
    #: float32 ``[rows]``.
    row_scale: Float

    def __post_init__(self) -> None:
        _check_codes(self.codes)
        _check_groups(self.codes, self.group, self.scales, "scales")
        if self.scales.dtype != np.uint8:
            raise ValueError(f"scales must be uint8, not {self.scales.dtype}")
        m = self.midpoints
        if m is not None:
            _check_groups(self.codes, self.group, m, "midpoints")
            if m.dtype != np.int8 or (m.size and m.min() < -_MIDPOINT_MAX):
                raise ValueError(f"midpoints must be int8 -127 to 127, not {m.dtype}")
        if self.row_scale.dtype != np.float32 or self.row_scale.shape != (self.rows,):
            raise ValueError(f"row_scale must be float32 ({self.rows},), not {self.row_scale.dtype} {self.row_scale.shape}")
        if not np.isfinite(self.row_scale).all():
            raise ValueError("row_scale must be finite")

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and inputs."""
        return self.codes.shape

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def inputs(self) -> int:
        return int(self.codes.shape[1])

    @property
    def symmetric(self) -> bool:
        """True where there are no midpoints."""
        return self.midpoints is None

    @property
    def stored_bytes(self) -> int:
        """Bytes in memory, padding left out."""
        groups = self.scales.size * (1 if self.symmetric else 2)
        return self.codes.size // 2 + groups + 4 * self.rows

    def regrouped(self, group: int) -> Int4Matrix:
        """The same matrix with groups of ``group`` inputs, a divisor of those that it has."""
        if self.group % group:
            raise ValueError(f"group must divide {self.group}, not {group!r}")
        parts = self.group // group, ceil_div(self.inputs, group)
        midpoints = None if self.midpoints is None else spread(self.midpoints, *parts)
        return self if parts[0] == 1 else Int4Matrix(self.codes, group, spread(self.scales, *parts), midpoints, self.row_scale)

    def integers(self) -> npt.NDArray[np.int16]:
        """``scales * codes + 8 * midpoints``, ``[rows, inputs]``: the weights in units of ``row_scale``."""
        w = self.codes * spread(self.scales.astype(np.int16), self.group, self.inputs)
        if self.midpoints is not None:
            w += MIDPOINT_STEP * spread(self.midpoints.astype(np.int16), self.group, self.inputs)
        return np.asarray(w, np.int16)

    def dense(self) -> Float:
        """The weights ``[rows, inputs]`` in float32."""
        return self.integers().astype(np.float32) * self.row_scale[:, None]


def row_scales(scale: Float, midpoint: Float | None, scale_max: int = _SCALE_MAX, midpoint_max: int = _MIDPOINT_MAX) -> Float:
    """The unit of every row: the smallest in which all its scales and midpoints are within range; 0 for a row of zeros."""
    unit = scale.max(axis=1) / np.float32(scale_max)
    if midpoint is not None:
        unit = np.maximum(unit, np.abs(midpoint).max(axis=1) / np.float32(MIDPOINT_STEP * midpoint_max))
    return flush(unit)


def code_scales(scale: Float, unit: Float) -> npt.NDArray[np.float32]:
    """Scales in whole units of their row, 0 in a row of unit 0."""
    divisor = np.where(unit == 0, np.float32(1), unit)[:, None]
    return np.where(unit[:, None] == 0, np.float32(0), np.rint(scale / divisor)).astype(np.float32)


def to_machine(matrix: BlockMatrix) -> Int4Matrix:
    """The codes as they are, scales and midpoints rounded to 8 bits."""
    unit = row_scales(matrix.scale, matrix.midpoint)
    scales = np.clip(code_scales(matrix.scale, unit), 0, _SCALE_MAX).astype(np.uint8)
    midpoints = None
    if matrix.midpoint is not None:
        coarse = code_scales(matrix.midpoint / np.float32(MIDPOINT_STEP), unit)
        midpoints = np.clip(coarse, -_MIDPOINT_MAX, _MIDPOINT_MAX).astype(np.int8)
    return Int4Matrix(matrix.codes, matrix.group, scales, midpoints, unit)


def _group_absmax(w: Float, group: int) -> Float:
    padded = np.pad(np.abs(w), ((0, 0), (0, -w.shape[1] % group)))
    return np.asarray(padded.reshape(len(w), -1, group).max(axis=2), np.float32)


def symmetric_scales(w: Float, group: int, margin: float = 1.0) -> tuple[Float, Float]:
    """Scales of groups that are symmetric around 0: ``(scale codes [rows, groups] as floats, unit [rows])`` with codes 1..255, for
    a small group may not lose its scale.
    """
    absmax = _group_absmax(w, group) / np.float32(CODE_MAX)
    unit = row_scales(absmax, None) * np.float32(margin)
    divisor = np.where(unit == 0, np.float32(1), unit)
    return np.clip(np.rint(absmax / divisor[:, None]), 1, 255).astype(np.float32), unit


def round_to_nearest(w: Float, group: int, *, midpoints: bool = False) -> Int4Matrix:
    """Codes nearest to ``w`` under the scales that are stored, that is after these were rounded.

    Symmetric: scale = absmax / 7. With ``midpoints``: scale = range / 15 around the middle of the range.
    """
    inputs = w.shape[1]
    if not midpoints:
        scales, unit = symmetric_scales(w, group)
        step = spread(scales * unit[:, None], group, inputs)
        codes = np.clip(np.rint(w / np.where(step == 0, np.float32(1), step)), -8, CODE_MAX).astype(np.int8)
        return Int4Matrix(codes, group, scales.astype(np.uint8), None, unit)
    padded = np.pad(w, ((0, 0), (0, -inputs % group)), mode="edge").reshape(len(w), -1, group)
    low, high = padded.min(axis=2), padded.max(axis=2)
    scale = np.asarray((high - low) / np.float32(15), np.float32)
    stored = to_machine(BlockMatrix(np.zeros(w.shape, np.int8), group, scale, np.asarray(low + 8 * scale, np.float32)))
    kept = np.maximum(stored.scales, 1).astype(np.uint8)
    step = spread(kept * stored.row_scale[:, None], group, inputs)
    codes = np.clip(np.rint((w - stored.dense()) / np.where(step == 0, np.float32(1), step)), -8, CODE_MAX).astype(np.int8)
    return Int4Matrix(codes, group, kept, stored.midpoints, stored.row_scale)
