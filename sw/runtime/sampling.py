"""Choice of the next token: greedy, temperature, top-k, top-p, min-p, penalties and biases, from a seed.

No choice sorts the vocabulary: of 128,256 tokens that would take a board longer than the pass that computed them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from .vector_tokens import as_words

__all__ = ["Sampler", "Sampling", "TokenLogprobs", "token_logprobs"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]

#: Largest temperature, repetition penalty and bias. Beyond it every token is as likely as another, or logits leave their type.
_MOST = 100.0

#: Largest presence and frequency penalty, by the OpenAI protocol.
_PENALTY = 2.0


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The default is greedy."""

    #: Divides the logits; 0 is greedy.
    temperature: float = 0.0
    #: Draw from this many best tokens only; 0 is all.
    top_k: int = 0
    #: Draw from the smallest set of best tokens whose probability reaches this.
    top_p: float = 1.0
    #: Draw only from tokens at least this many times as likely as the best; 0 is all.
    min_p: float = 0.0
    #: Positive logits of tokens seen are divided by this, negative ones multiplied; 1 is none.
    repetition_penalty: float = 1.0
    #: Taken off the logit of a token that the answer has.
    presence_penalty: float = 0.0
    #: Taken off the logit of a token for each time that the answer has it.
    frequency_penalty: float = 0.0
    #: Added to the logits of these tokens.
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    #: Of the random numbers; the same seed gives the same text on every device.
    seed: int = 0

    def __post_init__(self) -> None:
        penalty = f"-{_PENALTY:g} to {_PENALTY:g}"
        biased = all(_whole(token) and -_MOST <= value <= _MOST for token, value in self.logit_bias.items())
        for name, legal, what in (
            ("temperature", 0 <= self.temperature <= _MOST, f"0 to {_MOST:g}"),
            ("top_k", _whole(self.top_k), "a whole number, 0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            ("repetition_penalty", 1 / _MOST <= self.repetition_penalty <= _MOST, f"{1 / _MOST:g} to {_MOST:g}"),
            ("presence_penalty", abs(self.presence_penalty) <= _PENALTY, penalty),
            ("frequency_penalty", abs(self.frequency_penalty) <= _PENALTY, penalty),
            ("logit_bias", biased, f"token ids with numbers from -{_MOST:g} to {_MOST:g}"),
            ("seed", _whole(self.seed), "a whole number, 0 or more"),
        ):
            if not legal:
                raise HwgenError(
                    "usage", f"{name} must be {what}, not {getattr(self, name)!r}", f"give a {name} in this range"
                )

    @property
    def _adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return self.repetition_penalty != 1.0 or bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)

    @property
    def needs_logits(self) -> bool:
        """False where the machine's own best candidate is the answer."""
        return self.temperature > 0 or self._adjusts


class Sampler:
    """Draws tokens from logits."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._biased = np.array(list(sampling.logit_bias), np.intp)  # there may be one for every token
        self._biases = np.array(list(sampling.logit_bias.values()), np.float64)

    def choose(
        self,
        logits: npt.NDArray[np.float32],
        seen: Sequence[int],
        answer: Sequence[int] = (),
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> int:
        """Next token id. ``seen`` are the tokens of prompt and answer so far, ``answer`` those of the answer alone, ``allowed``
        says of every token whether it may be chosen.
        """
        s = self.sampling
        scores = self._adjusted(logits.astype(np.float64), seen, answer)
        if allowed is not None:
            if not allowed.any():
                raise ValueError("a token must be allowed")
            scores[~allowed] = -np.inf
        if s.temperature == 0:
            return int(scores.argmax())
        best = scores.max()
        ids = _best(scores, s.top_k) if s.top_k else np.arange(scores.size)
        if allowed is not None:
            ids = ids[allowed[ids]]
        with np.errstate(over="ignore"):  # at a temperature of nearly 0 all but the best are infinitely unlikely
            exponents = (scores[ids] - best) / s.temperature
        if s.min_p:
            likely = np.exp(exponents) >= s.min_p
            ids, exponents = ids[likely], exponents[likely]
        ranking = _Ranking(exponents)
        kept = ranking.reach(s.top_p)[1] if s.top_p < 1 else 1.0
        return int(ids[ranking.reach(self._random.random() * kept)[0]])

    def _adjusted(self, scores: Floats, seen: Sequence[int], answer: Sequence[int]) -> Floats:
        """Scores after penalties and biases, in place."""
        s = self.sampling
        if s.repetition_penalty != 1.0 and seen:
            ids = np.unique(np.asarray(as_words(seen), np.intp))
            scores[ids] = np.where(scores[ids] > 0, scores[ids] / s.repetition_penalty, scores[ids] * s.repetition_penalty)
        if (s.presence_penalty or s.frequency_penalty) and answer:
            ids, times = np.unique(np.asarray(answer), return_counts=True)
            scores[ids] -= s.presence_penalty + s.frequency_penalty * times
        scores[self._biased] += self._biases
        return scores


def _best(scores: Floats, count: int) -> Ids:
    """Indices of the ``count`` largest scores in ascending order; of equal ones those with the smaller index."""
    if count >= scores.size:
        return np.arange(scores.size)
    least = np.partition(scores, scores.size - count)[scores.size - count]
    above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.sort(np.concatenate((above, equal[: count - above.size])))


class _Ranking:
    """Tokens from likely to unlikely, sorted only where that is asked for: of equal ones the smaller index comes first.

    A histogram of the exponents says in which narrow range of them a cumulated probability is reached; that range is sorted.
    """

    #: Ranges, and where the last one begins: beyond it a token is less likely than the best by more than 10^21.
    RANGES, DEPTH = 4096, 50.0

    def __init__(self, exponents: Floats) -> None:
        self._exponents = exponents
        self._weights = np.exp(exponents)
        self._weights /= self._weights.sum()
        self._range = np.minimum(exponents * (-self.RANGES / self.DEPTH), self.RANGES - 1).astype(np.intp)
        self._sums = np.cumsum(np.bincount(self._range, self._weights, self.RANGES))

    def reach(self, probability: float) -> tuple[int, float]:
        """The index at which probabilities, summed from the largest to the smallest, reach ``probability``; the sum up to it."""
        last = int(self._range.max())  # there, where rounding leaves a rest
        number = min(int(np.searchsorted(self._sums, probability)), last)
        ids = np.flatnonzero(self._range == number)
        ids = ids[np.argsort(-self._exponents[ids], kind="stable")]
        sums = np.cumsum(self._weights[ids]) + (self._sums[number - 1] if number else 0.0)
        place = min(int(np.searchsorted(sums, probability)), ids.size - 1)
        return int(ids[place]), float(sums[place])


@dataclass(frozen=True)
class TokenLogprobs:
    """Logarithms of the model's own probabilities of a token and of the most likely ones, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs(logits: npt.NDArray[np.float32], token: int, count: int) -> TokenLogprobs:
    """Of ``token`` and of the ``count`` most likely, before temperature, penalties and biases."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    ids = _best(scores, count) if count else np.arange(0)
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    return TokenLogprobs(float(scores[token]), tuple((int(i), float(scores[i])) for i in ids))
