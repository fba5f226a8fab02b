"""Choice of the next token: greedy, temperature, top-k, top-p, min-p, penalties and biases, from a seed.

No choice sorts the vocabulary, or takes an exponential of each of its tokens: of 128,256 that would take a board longer than the
pass that computed them. The few tokens near the best one are ranked. A draw among all the others is a draw of one of them with
equal chances, taken as often as its probability says (rejection), so that tokens are drawn with exactly their probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError

__all__ = ["Sampler", "Sampling", "TokenLogprobs", "token_logprobs"]

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]
Logits = npt.NDArray[np.float32]

#: The largest float32.
_LARGEST = float(np.finfo(np.float32).max)

#: Largest temperature, repetition penalty and bias. Beyond it every token is as likely as another, or logits leave their type.
_MOST = 100.0

#: Tokens less likely than the best by more than this power of e are not ranked, but drawn by rejection.
NEAR = 12.0

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

    def needs_logits(self, candidates: int) -> bool:
        """False where the best ``candidates`` tokens, which the machine finds itself, decide."""
        return self._adjusts or (self.temperature > 0 and not 0 < self.top_k <= candidates)


class _Tally:
    """How often a list that grows has each token: what is new is counted, and no more."""

    def __init__(self) -> None:
        self._tokens: Sequence[int] = ()
        self._counted = 0
        #: Place of a token in the arrays.
        self._places: dict[int, int] = {}
        self._ids, self._times = np.zeros(16, np.intp), np.zeros(16)

    def of(self, tokens: Sequence[int]) -> tuple[Ids, Floats]:
        """Tokens that ``tokens`` has, and how often; vectors in place of tokens, which are negative, are passed over."""
        if tokens is not self._tokens or len(tokens) < self._counted:
            self._tokens, self._counted = tokens, 0
            self._places.clear()
            self._times[:] = 0
        for token in tokens[self._counted :]:
            if token < 0:
                continue
            place = self._places.setdefault(token, len(self._places))
            if place == self._ids.size:
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._times = np.concatenate((self._times, np.zeros_like(self._times)))
            self._ids[place] = token
            self._times[place] += 1
        self._counted = len(tokens)
        return self._ids[: len(self._places)], self._times[: len(self._places)]


class Sampler:
    """Draws tokens from logits."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._biased = np.array(list(sampling.logit_bias), np.intp)  # there may be one for every token
        self._biases = np.array(list(sampling.logit_bias.values()), np.float64)
        self._seen, self._answer = _Tally(), _Tally()

    def choose(
        self,
        logits: Logits,
        seen: Sequence[int],
        answer: Sequence[int] = (),
        allowed: npt.NDArray[np.bool_] | None = None,
        best: float | None = None,
    ) -> int:
        """Next token id. ``seen`` are the tokens of prompt and answer so far, ``answer`` those of the answer alone, ``allowed``
        says of every token whether it may be chosen, ``best`` is the largest logit where that is known. Lists that grow from call
        to call are counted once.
        """
        s = self.sampling
        scores = self._adjusted(logits, seen, answer)
        if allowed is not None:
            if not allowed.any():
                raise ValueError("a token must be allowed")
            scores = np.where(allowed, scores, np.float32(-np.inf))
        if s.temperature == 0:
            return int(scores.argmax())
        if best is None or scores is not logits:
            best = float(scores.max())
        return _Draw(scores, s, self._random, best).token()

    def choose_candidate(self, tokens: Sequence[int], logits: Logits) -> int:
        """Next token id from the best tokens, best first, where :meth:`Sampling.needs_logits` says that they decide: the one that
        :meth:`choose` would draw.
        """
        s = self.sampling
        if s.temperature == 0:
            return tokens[0]
        order = sorted(range(s.top_k), key=tokens.__getitem__)  # as they stand among all
        scores = np.array([logits[i] for i in order], np.float32)
        return tokens[order[_Draw(scores, s, self._random, float(logits[0])).token()]]

    def _adjusted(self, logits: Logits, seen: Sequence[int], answer: Sequence[int]) -> Logits:
        """Logits after penalties and biases; the same array where there are none."""
        s = self.sampling
        if not s._adjusts:
            return logits
        scores = logits.copy()

        def change(ids: Ids, new: Floats) -> None:
            scores[ids] = np.clip(new, -_LARGEST, _LARGEST)

        if s.repetition_penalty != 1.0 and seen:
            ids, _ = self._seen.of(seen)
            old = scores[ids].astype(np.float64)
            change(ids, np.where(old > 0, old / s.repetition_penalty, old * s.repetition_penalty))
        if (s.presence_penalty or s.frequency_penalty) and answer:
            ids, times = self._answer.of(answer)
            change(ids, scores[ids] - (s.presence_penalty + s.frequency_penalty * times))
        if self._biased.size:
            change(self._biased, scores[self._biased] + self._biases)
        return scores


class _Draw:
    """One draw from all logits, ``scores [vocab]``, of which ``best`` is the largest; what may not be drawn has minus infinity."""

    def __init__(self, scores: Logits, sampling: Sampling, random: np.random.Generator, best: float) -> None:
        self._scores, self._sampling, self._random, self._best = scores, sampling, random, best
        self._rank(self._near())

    def _near(self) -> Ids | None:
        """Tokens that are ranked, ascending; None is all."""
        s = self._sampling
        if 0 < s.min_p < math.exp(-NEAR):
            return None
        with np.errstate(over="ignore"):
            self._least = np.float32(self._best - NEAR * s.temperature)
        near = _where(self._scores >= self._least)
        return None if near.size < min(s.top_k, self._scores.size) else near

    def _rank(self, ids: Ids | None) -> None:
        """Rank ``ids``, and bound what the others weigh."""
        s, size = self._sampling, self._scores.size
        everything = ids is None or ids.size == size
        ids = np.arange(size) if ids is None else ids
        scores = self._scores[ids].astype(np.float64)
        #: Bound of the probability of all tokens that are not ranked, where those that are have 1 together.
        self._rest = 0.0 if everything else size * math.exp(-NEAR)
        if s.top_k:
            best = _best(scores, s.top_k)
            ids, scores, self._rest = ids[best], scores[best], 0.0
        with np.errstate(over="ignore"):  # at a temperature of nearly 0 all but the best are infinitely unlikely
            exponents = (scores - self._best) / s.temperature
        if s.min_p:
            likely = np.exp(exponents) >= s.min_p
            ids, exponents, self._rest = ids[likely], exponents[likely], 0.0
        possible = exponents > -np.inf  # none of those that may not be drawn
        self._ids, self._ranking = ids[possible], _Ranking(exponents[possible])
        self._rest /= self._ranking.total

    def token(self) -> int:
        """Of the tokens left by top-k, min-p and top-p, by their probabilities."""
        p = self._sampling.top_p
        while self._rest:
            most = p * (1 + self._rest)  # of what top-p leaves
            end = 1 + self._rest if p == 1 or most >= 1 else self._ranking.reach(most)[1]
            place = self._random.random() * end
            if place >= 1:
                token = self._other((place - 1) / self._rest)
                if token is None:
                    continue
                before = 1.0
            else:
                i, reached = self._ranking.reach(place)
                token, before = int(self._ids[i]), reached - float(self._ranking.weights[i])
            if p == 1 or (before < p and place < 1) or (before < most and self._belongs(token)):
                return token
        kept = self._ranking.reach(p)[1] if p < 1 else 1.0
        return int(self._ids[self._ranking.reach(self._random.random() * kept)[0]])

    def _other(self, place: float) -> int | None:
        """A token that is not ranked, or None, by a number from 0 to 1 of which equal parts belong to all tokens."""
        token, part = divmod(place * self._scores.size, 1.0)
        token = min(int(token), self._scores.size - 1)
        score = self._scores[token]
        if score >= self._least:
            return None
        return token if part < math.exp((float(score) - self._best) / self._sampling.temperature + NEAR) else None

    def _belongs(self, token: int) -> bool:
        """Whether top-p leaves a token: all are ranked for that."""
        self._rank(None)
        i = int(np.searchsorted(self._ids, token))
        return self._ranking.before(i) < self._sampling.top_p


def _where(mask: npt.NDArray[np.bool_]) -> Ids:
    """Indices of the few that are true: eight are looked at together."""
    whole = mask.size // 8 * 8
    words = np.flatnonzero(mask[:whole].view(np.uint64) != 0)
    at, bit = np.nonzero(mask[:whole].reshape(-1, 8)[words])
    return np.concatenate((8 * words[at] + bit, whole + np.flatnonzero(mask[whole:])))


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
        self.weights = np.exp(exponents)
        #: Of the weights, where the best has 1.
        self.total = float(self.weights.sum())
        self.weights /= self.total
        self._range = np.minimum(exponents * (-self.RANGES / self.DEPTH), self.RANGES - 1).astype(np.intp)
        self._sums = np.cumsum(np.bincount(self._range, self.weights, self.RANGES))

    def _of_range(self, number: int) -> tuple[Ids, Floats]:
        """Indices of a range, likely ones first, and the probability up to each."""
        ids = np.flatnonzero(self._range == number)
        ids = ids[np.argsort(-self._exponents[ids], kind="stable")]
        return ids, np.cumsum(self.weights[ids]) + (self._sums[number - 1] if number else 0.0)

    def reach(self, probability: float) -> tuple[int, float]:
        """The index at which probabilities, summed from the largest to the smallest, reach ``probability``; the sum up to it."""
        last = int(self._range.max())  # there, where rounding leaves a rest
        ids, sums = self._of_range(min(int(np.searchsorted(self._sums, probability)), last))
        place = min(int(np.searchsorted(sums, probability)), ids.size - 1)
        return int(ids[place]), float(sums[place])

    def before(self, index: int) -> float:
        """The probability of all that are likelier than an index."""
        ids, sums = self._of_range(int(self._range[index]))
        return float(sums[np.flatnonzero(ids == index)[0]] - self.weights[index])


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
