"""Choice of the next token, from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .candidate_draw import CandidateDraw
from .penalties import Penalties
from .prediction import Prediction
from .sampling import Sampling

__all__ = ["Sampler"]


class Sampler:
    """Chooses tokens from what the machine predicts. The same predictions and the same seed give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._penalties = Penalties(sampling) if sampling.adjusts else None

    @property
    def takes_the_best(self) -> bool:
        """Whether the best token of the model is the one that is chosen, as long as all are allowed."""
        return self.sampling.temperature == 0 and self._penalties is None

    def choose(
        self,
        prediction: Prediction,
        seen: Sequence[int] = (),
        answer: Sequence[int] = (),
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> int:
        """Next token id. ``seen`` are the tokens of prompt and answer so far, ``answer`` those of the answer alone, ``allowed``
        says of every token whether it may be chosen. Lists that grow from call to call are counted once.
        """
        s = self.sampling
        if self.takes_the_best and allowed is None:
            return int(prediction.tokens[0])
        if allowed is not None and not allowed.any():
            raise ValueError("a token must be allowed")
        if self._penalties is not None:
            self._penalties.update(seen, answer, prediction.logits)
        draw = CandidateDraw(prediction, s, self._random, self._penalties, allowed)
        return draw.greedy() if s.temperature == 0 else draw.token()
