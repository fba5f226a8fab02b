"""Logits that penalties and biases change: of the tokens of prompt and answer, and of those that have a bias."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .ranking import LARGEST
from .sampling import Sampling

__all__ = ["Penalties"]

_FLOAT = struct.Struct("f")


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
        #: Whether no logit becomes larger.
        self.lowers = (
            sampling.repetition_penalty >= 1 and sampling.presence_penalty >= 0 and sampling.frequency_penalty >= 0
            and all(bias <= 0 for bias in sampling.logit_bias.values())
        )

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
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._factors = np.concatenate((self._factors, np.ones_like(self._factors)))
            self._minus = np.concatenate((self._minus, np.zeros_like(self._minus)))
        self._ids[place] = token
        return place

    def count(self, seen: Sequence[int], answer: Sequence[int]) -> None:
        """``seen`` are the tokens of prompt and answer so far, ``answer`` those of the answer alone. Vectors in place of tokens,
        which are negative, are passed over.
        """
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

    def of(self, token: int, logit: float) -> float:
        """The logit of one token, of those that were counted last, where the model says ``logit``."""
        place = self._places.get(token)
        if place is None:
            return logit
        factor, minus = float(self._factors[place]), float(self._minus[place])
        new = (logit / factor if logit > 0 else logit * factor) - minus
        return float(_FLOAT.unpack(_FLOAT.pack(min(max(new, -LARGEST), LARGEST)))[0])

    def changed(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """Tokens whose logits are changed, by all ``logits``, and what they are then."""
        count = len(self._places)
        ids, factors = self._ids[:count], self._factors[:count]
        new = logits.take(ids).astype(np.float64)
        if self._sampling.repetition_penalty != 1.0:
            new = np.where(new > 0, new / factors, new * factors)
        new -= self._minus[:count]
        return ids, np.minimum(np.maximum(new, -LARGEST), LARGEST).astype(np.float32)
