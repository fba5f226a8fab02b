"""What may follow a token: the machine's best tokens, and all logits where somebody asks for them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["Prediction"]


@cache
def _formats(count: int) -> tuple[struct.Struct, struct.Struct]:
    """So many words, and so many floats."""
    return struct.Struct(f"{count}I"), struct.Struct(f"{count}f")


class Prediction:
    """The best ``tokens`` of ``vocabulary``, best first, of equal ones that with the smaller id, and the ``bits`` of their logits
    as the machine has them. ``read`` gives every logit, ``[vocabulary]``; it is not called where the best ones are enough.
    """

    def __init__(
        self, tokens: Sequence[int], bits: Sequence[int], vocabulary: int, read: Callable[[], npt.NDArray[np.float32]]
    ) -> None:
        self.tokens, self.bits, self.vocabulary, self._read = tokens, bits, vocabulary, read
        self._logits: npt.NDArray[np.float32] | None = None

    @property
    def best(self) -> Sequence[float]:
        """Logits of the best tokens."""
        words, floats = _formats(len(self.bits))
        return floats.unpack(words.pack(*self.bits))

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Every logit. Nobody writes there, and nobody keeps them: it may be the memory of the machine."""
        if self._logits is None:
            self._logits = self._read()
        return self._logits
