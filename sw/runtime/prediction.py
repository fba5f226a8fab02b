"""What may follow a token: the machine's best tokens, and all logits where somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Prediction"]


class Prediction:
    """The best tokens ``tokens [n]`` of ``vocabulary``, best first, of equal ones that with the smaller id, and their logits
    ``best [n]``. ``read`` gives every logit, ``[vocabulary]``; it is not called where the best ones are enough.
    """

    def __init__(
        self, tokens: npt.NDArray[np.uint32], best: npt.NDArray[np.float32], vocabulary: int,
        read: Callable[[], npt.NDArray[np.float32]],
    ) -> None:
        self.tokens, self.best, self.vocabulary, self._read = tokens, best, vocabulary, read
        self._logits: npt.NDArray[np.float32] | None = None

    @property
    def logits(self) -> npt.NDArray[np.float32]:
        """Every logit. Nobody writes there, and nobody keeps them: it may be the memory of the machine."""
        if self._logits is None:
            self._logits = self._read()
        return self._logits
