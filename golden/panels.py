"""Products of a panel of a matrix, whatever its number format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .int4 import e4m3_code_values

__all__ = ["E4m3Panel", "IntegerPanel", "Panel", "TernaryPanel"]

Integers = npt.NDArray[np.integer[Any]]

#: Integers beyond trits are numbers of base 2^6, of digits of either sign.
_DIGIT_BITS = 6


def _digits(values: Integers, count: int) -> npt.NDArray[np.int8]:
    """``[count, ...]``: digits of integers, the lowest first. All but the highest are -32 to 31."""
    digits, rest, half = np.empty((count, *values.shape), np.int8), values, 1 << (_DIGIT_BITS - 1)
    for place in range(count - 1):
        higher = (rest + half) >> _DIGIT_BITS
        digits[place] = rest - (higher << _DIGIT_BITS)
        rest = higher
    digits[count - 1] = rest
    return digits


def _of_bytes(values: Integers, count: int) -> npt.NDArray[np.int8]:
    """The digits of what each of 256 bytes stands for, ``[256, count]``."""
    return np.ascontiguousarray(_digits(values, count).T)


#: What an activation is by its byte: an int8, or the value of an e4m3 code in units of 2^-9 (of a code that has none anything).
_INT8 = _of_bytes(np.arange(256).astype(np.int8).astype(np.int16), 2)
_E4M3 = _of_bytes(e4m3_code_values().numpy(), 3)


class Panel(ABC):
    """A panel of integers ``[rows, inputs]``, times activations as they are stored.

    Where one of the two has more than trits, both are cut into digits; products of int8 are added in int32, which holds them for
    any number of inputs that a memory has. Weights are then one or two bytes to read, which is most of the time of decoding.
    A product is at most 127 of an int8 and a trit, and 56 * 48 of digits: where a processor has nothing better, oneDNN adds 128 to
    one factor and two products in 16 bits.
    """

    def __init__(self, weights: Integers, places: int) -> None:
        self.rows, self.inputs = weights.shape
        if self.inputs < 2:
            raise ValueError(f"a panel must have two inputs at least, not {self.inputs}: torch's products of one are wrong")
        self._places = places
        self._weights = torch.from_numpy(_digits(weights, places).reshape(-1, self.inputs))

    @abstractmethod
    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """LINEAR: exact products ``[tokens, rows]`` of activations ``[tokens, inputs]``."""

    def _times(self, q: npt.NDArray[np.int8]) -> Tensor:
        """int32 ``[places * rows, ...]`` of int8 ``[..., inputs]``."""
        return torch._int_mm(self._weights, torch.from_numpy(q).T)

    def _joined(self, q: npt.NDArray[np.int8], digits: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        """Products of activations of the ``digits [256, places]``."""
        places = digits.shape[1]
        of_places = digits[q.view(np.uint8)].transpose(0, 2, 1).reshape(-1, self.inputs)
        sums = self._times(of_places).reshape(self._places, -1, places).double() @ _powers(places)
        return (_powers(self._places) @ sums).reshape(self.rows, -1).numpy().T.astype(np.int64)  # below 2^53


@cache
def _powers(places: int) -> Tensor:
    return torch.tensor([float(1 << _DIGIT_BITS * place) for place in range(places)], dtype=torch.float64)


class TernaryPanel(Panel):
    """Trits times int8."""

    def __init__(self, weights: Integers) -> None:
        super().__init__(weights, 1)

    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        return self._times(q).numpy().T.astype(np.int64)


class IntegerPanel(Panel):
    """Integers of at most 2^12 times int8."""

    def __init__(self, weights: Integers) -> None:
        super().__init__(weights, 2)

    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        return self._joined(q, _INT8)


class E4m3Panel(Panel):
    """INT4 weights times the scales of their groups, times e4m3 codes."""

    def __init__(self, weights: Integers) -> None:
        super().__init__(weights, 2)

    def products(self, q: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
        if (q & 0x7F == 0x7F).any():
            raise ValueError("codes must be finite, not 0x7f or 0xff")
        return self._joined(q, _E4M3)
