"""Products of a panel of a matrix, whatever its number format."""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ..rounding import ceil_div
from .float32 import EXACT
from .int4 import E4M3_CODES, e4m3_code_values
from .linear import integer_matmul

__all__ = ["E4m3Panel", "IntegerPanel", "Panel"]


class Panel(Protocol):
    """A panel, with ``weights [rows, inputs]`` in units of their scales: float32, or integers where there is no room."""

    weights: Tensor

    def products(self, q: Tensor) -> Tensor:
        """LINEAR: exact products, int64 ``[tokens, rows]``, of activations as they are stored, int8 ``[tokens, inputs]``."""


class IntegerPanel:
    """Of int8 activations; no product of two elements exceeds ``magnitude``."""

    def __init__(self, weights: Tensor, magnitude: int) -> None:
        self.weights, self.magnitude = weights, magnitude

    def products(self, q: Tensor) -> Tensor:
        return integer_matmul(q.float(), self.weights.float(), self.magnitude)


#: Activations of E4m3Panel are numbers of this base, with digits of either sign.
_BASE = 79
_DIGIT_MAX = _BASE // 2
_DIGITS = 3


@cache
def _digits() -> Tensor:
    """Of the value of every code, in units of 2^-9, the digits, lowest first: float32 ``[3, 256]``; NaN where it has none."""
    none = torch.tensor([code & 0x7F == 0x7F for code in range(E4M3_CODES)])
    rest, digits = e4m3_code_values().masked_fill(none, 0), []
    for _ in range(_DIGITS):
        digits.append((rest + _DIGIT_MAX) % _BASE - _DIGIT_MAX)
        rest = (rest - digits[-1]) // _BASE
    if rest.any():
        raise AssertionError(f"{_DIGITS} digits must hold every e4m3 value")
    return torch.where(none, torch.nan, torch.stack(digits).float())


class E4m3Panel:
    """Of e4m3 activations, INT4 weights times the scales of their groups.

    In float64 (:func:`hwgen.golden.int4.int4_matmul`) the weights are twice as many bytes to read, which is most of the time of
    decoding. float32 holds the products of digits of the activations, each sum of which is below 2^24 in as many parts of the
    inputs as the weights need.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self._parts = self._cut(weights)
        self._powers = torch.tensor([[float(_BASE**i) for i in range(_DIGITS)]], dtype=torch.float64)

    @staticmethod
    def _cut(weights: Tensor) -> list[slice]:
        """As few parts of the inputs as let float32 hold every sum of a digit's products."""
        magnitude, n = weights.abs(), weights.shape[1]
        for count in range(1, n + 1):
            size = ceil_div(n, count)
            parts = [slice(first, first + size) for first in range(0, n, size)]
            if all(magnitude[:, part].sum(1, dtype=torch.int64).max() * _DIGIT_MAX < EXACT for part in parts):
                return parts
        raise AssertionError("a weight must be below 2^18")

    def products(self, q: Tensor) -> Tensor:
        digits = _digits()[:, q.view(torch.uint8).to(torch.int32)]
        weights = self.weights.float()
        total: Tensor | None = None
        for part in self._parts:
            sums = self._powers @ (digits[..., part] @ weights[:, part].T).flatten(1).double()
            total = sums if total is None else total + sums
        assert total is not None
        products = total.reshape(q.shape[0], -1)
        if products[:, 0].isnan().any():
            raise ValueError("codes must be finite, not 0x7f or 0xff")
        return products.to(torch.int64)
