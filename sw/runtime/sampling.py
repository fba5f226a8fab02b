"""How tokens are chosen: greedy, temperature, top-k, top-p, min-p, penalties and biases, and the seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import HwgenError

__all__ = ["Sampling"]

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
    def adjusts(self) -> bool:
        """Whether logits are changed before a token is chosen."""
        return self.repetition_penalty != 1.0 or bool(self.presence_penalty or self.frequency_penalty or self.logit_bias)

    def needs_logits(self, candidates: int) -> bool:
        """False where the best ``candidates`` tokens, which the machine finds itself, decide."""
        return self.adjusts or (self.temperature > 0 and not 0 < self.top_k <= candidates)
