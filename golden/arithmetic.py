"""The arithmetic of :mod:`.float32` on arrays, without :func:`~.float32.flush` where no result needs it.

Operators of one token are of few elements: what takes time is the number of operations, and numpy's take a third of torch's.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from ..numerics import F32_MAX_BITS, F32_MIN_EXPONENT, SUM_COLUMNS
from ..rounding import ceil_div
from .float32 import fadd, fdiv, fmul, fsub

__all__ = ["FLUSHED", "PLAIN", "ZERO", "Array", "Flushed", "arithmetic", "column_sum", "is_contract", "largest", "scalar", "sqrt"]

Array = npt.NDArray[np.float32]

#: Added to -0 it makes +0.
ZERO = np.float32(0)

#: Of operands from the lower to below the upper of these in magnitude, or 0: a product of three is not below 2^-120 nor above 2^90,
#: unless it is 0; a product of two is a multiple of 2^-103, and so is a sum of them.
_LOW, _HIGH = 2.0**-40, 2.0**30

#: Their bits, which are in the order of magnitudes.
_LOW_BITS, _BITS_BETWEEN, _MAGNITUDE = np.uint32((127 - 40) << 23), np.uint32(70 << 23), np.uint32(0x7FFFFFFF)

_MIN_BITS = np.uint32(F32_MIN_EXPONENT << 23)
_BITS_TO_MAX = np.uint32(F32_MAX_BITS) - _MIN_BITS

#: Elements that are looked at one by one in less time.
_FEW = 4


class Flushed:
    """fadd, fsub, fmul and fdiv of arrays."""

    def add(self, a: Array, b: Array) -> Array:
        return fadd(torch.from_numpy(a), torch.from_numpy(b)).numpy()

    def sub(self, a: Array, b: Array) -> Array:
        return fsub(torch.from_numpy(a), torch.from_numpy(b)).numpy()

    def mul(self, a: Array, b: Array) -> Array:
        return fmul(torch.from_numpy(a), torch.from_numpy(b)).numpy()

    def div(self, a: Array, b: Array) -> Array:
        return fdiv(torch.from_numpy(a), torch.from_numpy(b)).numpy()


class _Plain(Flushed):
    """The same where flush would change no result, but for a -0, which stays."""

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def sub(self, a: Array, b: Array) -> Array:
        return a - b

    def mul(self, a: Array, b: Array) -> Array:
        return a * b

    def div(self, a: Array, b: Array) -> Array:
        if b.all():
            return a / b
        return np.divide(a, b, out=np.zeros(np.broadcast_shapes(a.shape, b.shape), np.float32), where=b != 0)


FLUSHED, PLAIN = Flushed(), _Plain()


def arithmetic(*operands: Array, constants: tuple[float, ...] = ()) -> Flushed:
    """:data:`PLAIN` where all operands are ordinary numbers, as nearly always, or :data:`FLUSHED`.

    Plain arithmetic is right for products of three of them, sums of products of two, and quotients of two.
    """
    ordinary = all(value == 0 or _LOW <= abs(value) < _HIGH for value in constants) and all(map(_are_ordinary, operands))
    return PLAIN if ordinary else FLUSHED


def _are_ordinary(x: Array) -> bool:
    if x.size <= _FEW:
        return all(value == 0 or _LOW <= abs(value) < _HIGH for value in x.flat)
    above = (x.view(np.uint32) & _MAGNITUDE) - _LOW_BITS  # of smaller ones nearly 2^32
    beyond = above >= _BITS_BETWEEN
    return not beyond.any() or not x[beyond].any()


def is_contract(x: Array) -> bool:
    """Whether :func:`~.float32.flush` would change nothing, but for a -0."""
    above = (x.view(np.uint32) & _MAGNITUDE) - _MIN_BITS
    beyond = above > _BITS_TO_MAX
    return not beyond.any() or not x[beyond].any()


def sqrt(a: Array) -> Array:
    """:func:`~.float32.fsqrt` of an array."""
    root: Array = np.sqrt(np.maximum(a, 0), dtype=np.float64).astype(np.float32)
    return root


def largest(y: Array) -> Array:
    """``max |y|`` of the last dimension, kept as size 1."""
    found: Array = np.maximum.reduce(np.abs(y), axis=-1, keepdims=True)
    return found


@cache
def scalar(value: float) -> Array:
    """A number as an array of one element; not to be written to."""
    return np.array([value], np.float32)


def column_sum(x: Array, f: Flushed) -> Array:
    """Sum of the last dimension in the contract's order, which hardware of any width can follow, by the additions of ``f``.

    ``S[c]``, c in 0..127, starts at 0 and takes ``x[i]`` with ``i % 128 == c`` in ascending ``i``. Then for s in 64,
    32, ..., 1: ``S[c] = S[c] + S[c + s]`` for ``c < s``. The sum is ``S[0]``.
    """
    n, rows = x.shape[-1], max(1, ceil_div(x.shape[-1], SUM_COLUMNS))
    padded = np.zeros((*x.shape[:-1], rows * SUM_COLUMNS), np.float32)  # adding +0 changes nothing
    padded[..., :n] = x
    columns = padded.reshape(*x.shape[:-1], rows, SUM_COLUMNS)
    sums = columns[..., 0, :]
    for row in range(1, rows):
        sums = f.add(sums, columns[..., row, :])
    stride = SUM_COLUMNS // 2
    while stride:
        sums = f.add(sums[..., :stride], sums[..., stride : 2 * stride])
        stride //= 2
    return sums[..., 0].copy()
