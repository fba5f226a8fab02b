"""Choice of the next token, from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...draw import GREEDY, Draw, draw_key, draw_scale
from ...registers import DRAW_COUNT
from .candidate_draw import CandidateDraw
from .penalties import Penalties
from .prediction import Prediction
from .random_words import RandomWords
from .sampling import Sampling

__all__ = ["Sampler"]


#: Candidates that a draw in integers is from at most.
_MOST = (1 << DRAW_COUNT.width) - 1


class Sampler:
    """Chooses tokens from what the machine predicts. The same predictions and the same seed give the same tokens: where the machine
    could draw them itself, those of the same positions, whatever was drawn before; else in the order in which they are drawn.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = RandomWords(sampling.seed)
        self._penalties = Penalties(sampling) if sampling.adjusts else None
        #: Times that positions began anew, and how the machine would draw.
        self._part, self._draw = 0, self._in_integers(0)

    def _in_integers(self, part: int) -> Draw | None:
        """What `machine_draw` gives where there are candidates enough."""
        s = self.sampling
        if self.takes_the_best:
            return GREEDY
        if s.temperature == 0 or not 0 < s.top_k <= _MOST or s.adjusts or s.min_p or s.top_p < 1:
            return None
        scale = draw_scale(s.temperature)
        return None if scale is None else Draw(s.top_k, scale, draw_key(s.seed, part))

    def begin_anew(self) -> None:
        """Positions that had their tokens come again: they are drawn from other random numbers."""
        self._part += 1
        self._draw = self._in_integers(self._part)

    def machine_draw(self, candidates: int) -> Draw | None:
        """How the machine would choose as this does, where it gives so many candidates; None where it cannot."""
        return None if self._draw is None or self._draw.count > candidates else self._draw

    @property
    def takes_the_best(self) -> bool:
        """Whether the best token of the model is the one that is chosen, as long as all are allowed."""
        return self.sampling.temperature == 0 and self._penalties is None

    def choose(
        self,
        prediction: Prediction,
        position: int,
        seen: Sequence[int] = (),
        answer: Sequence[int] = (),
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> int:
        """Token id at ``position``. ``seen`` are the tokens of prompt and answer so far, ``answer`` those of the answer alone,
        ``allowed`` says of every token whether it may be chosen. Lists that grow from call to call are counted once.
        """
        s = self.sampling
        draw = None if allowed is not None else self.machine_draw(len(prediction.tokens))
        if draw is not None:
            return prediction.tokens[draw.choose(prediction.bits, position)]
        if allowed is not None and not allowed.any():
            raise ValueError("a token must be allowed")
        if self._penalties is not None:
            self._penalties.count(seen, answer)
        chosen = CandidateDraw(prediction, s, self._random, self._penalties, allowed)
        return chosen.greedy() if s.temperature == 0 else chosen.token()
