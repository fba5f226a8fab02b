"""Logits that penalties and biases change: of the tokens of prompt and answer, and of those that have a bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .prediction import Prediction
from .ranking import LARGEST
from .sampling import Sampling

__all__ = ["Penalties"]


class Penalties:
    """What changes the logits of tokens, for lists that grow from call to call: what is new in them is counted, and no more.

    The logit of a token that was seen is divided by the repetition penalty where it is positive, else multiplied. Then the presence
    penalty, and the frequency penalty times how often the answer has the token, are taken off, and its bias is added. The result
    is the nearest float32, the largest at most.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._seen: Sequence[int] = ()
        self._answer: Sequence[int] = ()
        self._clear()
        #: Tokens whose logits are changed, the other candidates behind them, and the logits of all these then.
        self.ids, self.scores = self._ids[:0], np.zeros(0, np.float32)

    def _clear(self) -> None:
        s = self._sampling
        self._counted_seen = self._counted_answer = 0
        #: Place of every token in the arrays, and how often the answer has it.
        self._places = {token: place for place, token in enumerate(s.logit_bias)}
        self._times: dict[int, int] = {}
        room = max(16, len(self._places))
        self._ids, self._factors, self._minus = np.zeros(room, np.intp), np.ones(room), np.zeros(room)
        self._ids[: len(self._places)] = list(s.logit_bias)
        self._minus[: len(self._places)] = [-bias for bias in s.logit_bias.values()]

    def _place(self, token: int) -> int:
        place = self._places.setdefault(token, len(self._places))
        if place == self._ids.size:
            self._grow()
        self._ids[place] = token
        return place

    def _grow(self) -> None:
        self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
        self._factors = np.concatenate((self._factors, np.ones_like(self._factors)))
        self._minus = np.concatenate((self._minus, np.zeros_like(self._minus)))

    def _count(self, seen: Sequence[int], answer: Sequence[int]) -> None:
        """Vectors in place of tokens, which are negative, are passed over."""
        s = self._sampling
        grown = len(seen) >= self._counted_seen and len(answer) >= self._counted_answer
        if seen is not self._seen or answer is not self._answer or not grown:
            self._seen, self._answer = seen, answer
            self._clear()
        if s.repetition_penalty != 1.0:
            for token in seen[self._counted_seen :]:
                if token >= 0:
                    place = self._place(token)
                    self._factors[place] = s.repetition_penalty
        if s.presence_penalty or s.frequency_penalty:
            for token in answer[self._counted_answer :]:
                times, place = self._times.get(token, 0) + 1, self._place(token)
                self._times[token] = times
                self._minus[place] = s.presence_penalty + s.frequency_penalty * times - s.logit_bias.get(token, 0.0)
        self._counted_seen, self._counted_answer = len(seen), len(answer)

    def __contains__(self, token: int) -> bool:
        """Whether the logit of a token is changed."""
        return token in self._places

    def update(self, seen: Sequence[int], answer: Sequence[int], prediction: Prediction) -> None:
        """Set `ids` and `scores` by what is predicted behind a token. ``seen`` are the tokens of prompt and answer so far,
        ``answer`` those of the answer alone.
        """
        self._count(seen, answer)
        count, penalty = len(self._places), self._sampling.repetition_penalty
        others = [token for token in prediction.tokens if token not in self._places]
        end = count + len(others)
        while end > self._ids.size:
            self._grow()
        self._ids[count:end] = others  # their factors are 1, and nothing is taken off them
        self.ids, factors = self._ids[:end], self._factors[:end]
        new = prediction.logits.take(self.ids).astype(np.float64)
        if penalty != 1.0:
            new = (np.minimum if penalty > 1 else np.maximum)(new / factors, new * factors)
        new -= self._minus[:end]
        self.scores = np.minimum(np.maximum(new, -LARGEST), LARGEST).astype(np.float32)
