"""Products of a panel of a matrix, whatever its number format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .float32 import EXACT
from .int4 import e4m3_code_values

__all__ = ["E4m3Panel", "IntegerPanel", "Panel", "TernaryPanel"]

Integers = npt.NDArray[np.signedinteger[Any]]

#: Weights that are made floats at a time: with their floats they stay in a core's cache.
_BLOCK = 1 << 18

#: The value of every e4m3 code in units of 2^-9; of a code that has none anything.
_E4M3 = e4m3_code_values().numpy().astype(np.float64)


class Panel(ABC):
    """A panel of integers ``[rows, inputs]``, times activations as they are stored.

    Weights are one or two bytes to read, which is most of the time of decoding. Products and their sums are of floats: of float32
    where it holds every sum, else of float64. Products of bytes take many times as long where a processor has no instruction for
    them, and where it has one they are not much faster than these.
    """

    def __init__(self, weights: npt.NDArray[Any]) -> None:
        self.rows, self.inputs = weights.shape
        self._weights = torch.from_numpy(np.ascontiguousarray(weights))

    @abstractmethod
    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """LINEAR: exact products ``[tokens, rows]`` of activations ``[tokens, inputs]``."""

    def _times(self, q: Tensor, first: int = 0) -> npt.NDArray[np.int64]:
        """``[tokens, rows]`` of the inputs from ``first`` on, ``q [tokens, inputs]``; its type holds every sum."""
        weights = self._weights[:, first : first + q.shape[1]]
        products = torch.empty((self.rows, q.shape[0]), dtype=q.dtype)
        step = max(1, _BLOCK // q.shape[1])
        for row in range(0, self.rows, step):
            torch.mm(weights[row : row + step].to(q.dtype), q.T, out=products[row : row + step])
        return products.numpy().T.astype(np.int64)


class TernaryPanel(Panel):
    """Trits times int8."""

    #: As many inputs as float32 adds up: each is at most 128.
    _SLICE = EXACT // 128

    def __init__(self, weights: Integers) -> None:
        super().__init__(weights.astype(np.int8))

    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        parts = [self._times(torch.from_numpy(q[:, i : i + self._SLICE]).float(), i) for i in range(0, self.inputs, self._SLICE)]
        return sum(parts[1:], parts[0])


class IntegerPanel(Panel):
    """Integers of at most 2^12 times int8."""

    def __init__(self, weights: Integers) -> None:
        super().__init__(weights.astype(np.int16))

    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        return self._times(torch.from_numpy(q).double())


class E4m3Panel(Panel):
    """INT4 weights times the scales of their groups, times e4m3 codes."""

    def __init__(self, weights: Integers) -> None:
        super().__init__(weights.astype(np.int16))

    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        if (q & 0x7F == 0x7F).any():
            raise ValueError("codes must be finite, not 0x7f or 0xff")
        return self._times(torch.from_numpy(_E4M3[q.view(np.uint8)]))
