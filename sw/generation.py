"""Generation: prompt to tokens with statistics, token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .engine import Engine, PassResult, Session
from .sampling import Sampler, Sampling

__all__ = ["GeneratedToken", "Generation", "Phase"]


@dataclass
class Phase:
    """Sums over the passes of prefill or of decode."""

    tokens: int = 0
    cycles: int = 0
    stream_beats: int = 0
    wall_s: float = 0.0

    def add(self, result: PassResult, wall_s: float) -> None:
        self.tokens += result.tokens
        self.cycles += result.cycles
        self.stream_beats += result.stream_beats
        self.wall_s += wall_s

    def seconds(self, clock_mhz: float) -> float | None:
        """Time at the fabric clock; None where no cycles were counted."""
        return self.cycles / (clock_mhz * 1e6) if self.cycles else None

    def rate(self, clock_mhz: float) -> float | None:
        """Tokens a second at the fabric clock."""
        seconds = self.seconds(clock_mhz)
        return self.tokens / seconds if seconds else None

    @property
    def port_utilisation(self) -> float:
        """Share of the cycles in which the ring took a beat."""
        return self.stream_beats / self.cycles if self.cycles else 0.0


@dataclass(frozen=True)
class GeneratedToken:
    """One token of the answer and what it took."""

    token: int
    #: Pass that computed it.
    result: PassResult
    #: Why the generation ends with this token: ``stop``, ``length``, ``context``; None where it goes on.
    stop_reason: str | None


@dataclass
class Generation:
    """One answer. Iterate over it; its sums are complete when the iteration ends."""

    engine: Engine
    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_tokens: Sequence[int] = ()
    session: Session = field(default_factory=Session)
    prefill: Phase = field(default_factory=Phase)
    decode: Phase = field(default_factory=Phase)
    #: Tokens of the answer; a stop token is not one of them.
    tokens: list[int] = field(default_factory=list)
    stop_reason: str = "length"

    def __iter__(self) -> Iterator[GeneratedToken]:
        sampler = Sampler(self.sampling)
        wants_logits = self.sampling.needs_logits
        begin = time.monotonic()
        results = self.engine.prefill(self.session, self.prompt, write_logits=wants_logits)
        for result in results:
            self.prefill.add(result, 0.0)
        self.prefill.wall_s = time.monotonic() - begin
        result = results[-1]
        seen = list(self.prompt)
        while len(self.tokens) < self.max_new_tokens:
            token = sampler.choose(self.engine.logits(), seen) if wants_logits else result.candidates[0].token
            reason = None
            if token in self.stop_tokens:
                reason = "stop"
            else:
                self.tokens.append(token)
                seen.append(token)
                if len(self.tokens) == self.max_new_tokens:
                    reason = "length"
                elif self.session.position == self.engine.image.context:
                    reason = "context"
            if reason:
                self.stop_reason = reason
                yield GeneratedToken(token, result, reason)
                return
            yield GeneratedToken(token, result, None)
            begin = time.monotonic()
            result = self.engine.forward(self.session, [token], write_logits=wants_logits)
            self.decode.add(result, time.monotonic() - begin)
