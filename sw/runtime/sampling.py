"""Choice of the next token: greedy, temperature, top-k, top-p, repetition penalty, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError

__all__ = ["Sampler", "Sampling"]

#: Largest temperature and repetition penalty. Beyond it every token is as likely as another, or logits leave their type.
_MOST = 100.0


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
    #: Positive logits of tokens seen are divided by this, negative ones multiplied; 1 is none.
    repetition_penalty: float = 1.0
    #: Of the random numbers; the same seed gives the same text on every device.
    seed: int = 0

    def __post_init__(self) -> None:
        for name, legal, what in (
            ("temperature", 0 <= self.temperature <= _MOST, f"0 to {_MOST:g}"),
            ("top_k", _whole(self.top_k), "a whole number, 0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", 1 / _MOST <= self.repetition_penalty <= _MOST, f"{1 / _MOST:g} to {_MOST:g}"),
            ("seed", _whole(self.seed), "a whole number, 0 or more"),
        ):
            if not legal:
                raise HwgenError(
                    "usage", f"{name} must be {what}, not {getattr(self, name)!r}", f"give a {name} in this range"
                )

    @property
    def needs_logits(self) -> bool:
        """False where the machine's own best candidate is the answer."""
        return self.temperature > 0 or self.repetition_penalty != 1.0


class Sampler:
    """Draws tokens from logits."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: npt.NDArray[np.float32], seen: Sequence[int]) -> int:
        """Next token id; ``seen`` are the tokens of prompt and answer so far."""
        s = self.sampling
        scores = logits.astype(np.float64)
        if s.repetition_penalty != 1.0 and seen:
            ids = np.unique(np.asarray(seen))
            scores[ids] = np.where(
                scores[ids] > 0, scores[ids] / s.repetition_penalty, scores[ids] * s.repetition_penalty
            )
        if s.temperature == 0:
            return int(scores.argmax())
        order = np.argsort(-scores, kind="stable")  # equal scores: smaller id first
        if s.top_k:
            order = order[: s.top_k]
        with np.errstate(over="ignore"):  # at a temperature of nearly 0 all but the best are infinitely unlikely
            weights = np.exp((scores[order] - scores[order[0]]) / s.temperature)
        weights /= weights.sum()
        if s.top_p < 1:
            kept = int(np.searchsorted(np.cumsum(weights), s.top_p)) + 1
            order, weights = order[:kept], weights[:kept] / weights[:kept].sum()
        return int(self._random.choice(order, p=weights))
