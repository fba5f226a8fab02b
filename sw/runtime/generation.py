"""Generation: prompt to tokens with statistics, token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from .engine import Engine, PassResult, Run, RunResult
from .pages import Session
from .prefix_cache import PrefixCache
from .sampling import Sampler, Sampling, TokenLogprobs, token_logprobs

__all__ = ["CONTEXT_FULL", "Constraint", "GeneratedToken", "Generation", "PassRequest", "Phase"]

#: What happens when the context is full. ``stop``: the answer ends. ``error``: a prompt whose answer might not fit is refused
#: before anything is computed. ``slide``: the oldest half is forgotten and the rest computed again.
CONTEXT_FULL = ("stop", "error", "slide")


class Constraint(Protocol):
    """What an answer may be, token by token, as a grammar says it."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Of every token of the vocabulary, whether it may come next; stop tokens where the answer may end."""

    def accept(self, token: int) -> bool:
        """Go on behind ``token``; True when nothing may follow it."""


@dataclass
class Phase:
    """Sums over the passes of prefill or of decode. A pass that others share counts whole: that long the answer took."""

    tokens: int = 0
    cycles: int = 0
    stream_beats: int = 0
    wall_s: float = 0.0

    def add(self, result: PassResult, tokens: int, wall_s: float) -> None:
        self.tokens += tokens
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
    #: Why the generation ends with this token: ``stop``, ``complete``, ``length``, ``context``; None where it goes on.
    stop_reason: str | None
    #: Where they were asked for.
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class PassRequest:
    """The next run of a generation."""

    #: Wants its last token where a token is chosen after it.
    run: Run
    #: Whether every logit is needed for that, and not the best candidates alone.
    write_logits: bool


@dataclass(eq=False)
class Generation:
    """One answer. Iterate over it; its sums are complete when the iteration ends.

    Or run it pass by pass, in passes with others: :meth:`next_pass` says what to compute, :meth:`accept` takes the result.
    """

    engine: Engine
    prompt: Sequence[int]
    max_new_tokens: int
    #: How tokens are drawn; a sampler goes on with its random numbers.
    sampling: Sampling | Sampler = field(default_factory=Sampling)
    stop_tokens: Sequence[int] = ()
    #: Continued where it already has tokens.
    session: Session = field(default_factory=Session)
    prefill: Phase = field(default_factory=Phase)
    decode: Phase = field(default_factory=Phase)
    #: Tokens of the answer; a stop token is not one of them.
    tokens: list[int] = field(default_factory=list)
    stop_reason: str = "length"
    #: One of :data:`CONTEXT_FULL`.
    context_full: str = "stop"
    #: First tokens that a slide does not forget.
    keep: int = 0
    #: Where the beginning of the prompt is looked for.
    prefixes: PrefixCache | None = None
    #: What the answer may be; when it is complete by that, the generation ends with ``complete``.
    constraint: Constraint | None = None
    #: Most likely tokens whose probabilities come with every token, beside its own; None is not even that.
    logprobs: int | None = None
    #: Tokens of the prompt that were in the cache already.
    reused: int = field(default=0, init=False)
    #: True while several tokens wait to be computed: the prompt, or what a slide kept.
    prefilling: bool = field(default=True, init=False)
    #: True when there is nothing left to compute.
    ended: bool = field(default=False, init=False)
    _todo: list[int] = field(default_factory=list, init=False)
    _begun: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.context_full not in CONTEXT_FULL:
            raise HwgenError(
                "usage", f"context_full must be one of {', '.join(CONTEXT_FULL)}, not {self.context_full!r}", "choose one"
            )
        self._sampler = self.sampling if isinstance(self.sampling, Sampler) else Sampler(self.sampling)

    @property
    def remaining(self) -> int:
        """Tokens that wait to be computed."""
        return len(self._todo)

    def check(self) -> None:
        """Refuse a prompt that cannot be answered."""
        if not self.prompt:
            raise HwgenError("usage", "the prompt has no tokens", "give a prompt")
        if self._needs_logits and self.engine.image.head == "shortlist":
            raise HwgenError(
                "usage", "the short-list head gives the best candidates, not all logits, which this answer is drawn from",
                "ask for temperature 0 without penalties, log probabilities and forms, or use --head exact",
            )
        length = self.session.position + len(self.session.pending) + len(self.prompt)
        self.engine.check_context(length)
        if self.context_full == "error" and length + self.max_new_tokens - 1 > self.engine.image.context:
            raise HwgenError(
                "context",
                f"{length} tokens and an answer of {self.max_new_tokens} are longer than the context of "
                f"{self.engine.image.context} tokens",
                "ask for fewer tokens, or shorten the prompt",
            )

    def begins_like(self, other: Generation) -> bool:
        """Whether the other's keys of at least a page will be this one's too, once they are computed."""
        page = self.engine.config.kv_block
        mine, theirs = self.prompt[:page], other.prompt[:page]
        return self.prefixes is not None and self.prefixes is other.prefixes and len(mine) == page and list(mine) == list(theirs)

    def _begin(self) -> None:
        self.check()
        self._begun = True
        self._todo = [*self.session.pending, *self.prompt]
        self.session.pending = []
        self._seen = [*self.session.tokens, *self._todo]
        if self.prefixes is not None and not self.session.tokens:
            self.reused = self.prefixes.start(self.session, self._todo)
            del self._todo[: self.reused]

    def next_pass(self, most: int) -> PassRequest | None:
        """What to compute next, at most so many tokens; None when the answer is complete. Asking again gives the same pass."""
        if not self._begun:
            self._begin()
        if self.ended:
            return None
        logits = len(self._todo) <= most
        return PassRequest(Run(self.session, self._todo[:most], int(logits)), logits and self._needs_logits)

    @property
    def _needs_logits(self) -> bool:
        return self._sampler.sampling.needs_logits or self.constraint is not None or self.logprobs is not None

    def accept(self, result: PassResult, run: RunResult, wall_s: float) -> GeneratedToken | None:
        """Take the result of :meth:`next_pass`, a run of a pass; the token it led to, if it was the last one before one."""
        (self.prefill if self.prefilling else self.decode).add(result, run.tokens, wall_s)
        del self._todo[: run.tokens]
        if self._todo:
            return None
        if self.prefilling and self.prefixes is not None:
            self.prefixes.add(self.session, whole_pages=True)
        self.prefilling = False
        if len(self.tokens) >= self.max_new_tokens:
            self.ended = True
            return None
        token, logprobs = self._choose(run)
        reason = self._follow(token)
        if reason:
            self.ended, self.stop_reason = True, reason
            self.session.pending = [token]
        return GeneratedToken(token, result, reason, logprobs)

    def _choose(self, run: RunResult) -> tuple[int, TokenLogprobs | None]:
        if not self._needs_logits:
            return run.candidates[-1][0].token, None
        logits = self.engine.logits(run.first)
        allowed = None if self.constraint is None else self.constraint.allowed()
        token = self._sampler.choose(logits, self._seen, self.tokens, allowed)
        return token, None if self.logprobs is None else token_logprobs(logits, token, self.logprobs)

    def _follow(self, token: int) -> str | None:
        """Plan what comes after a chosen token; the reason to stop, if there is one."""
        if token in self.stop_tokens:
            return "stop"
        self.tokens.append(token)
        self._seen.append(token)
        if self.constraint is not None and self.constraint.accept(token):
            return "complete"
        if len(self.tokens) == self.max_new_tokens:
            return "length"
        self._todo = [token]
        if self.session.position == self.engine.image.context:
            if self.context_full != "slide":
                return "context"
            self._slide()
        return None

    def _slide(self) -> None:
        """Forget the oldest tokens but the first ``keep``; the rest is half a context, and is computed again."""
        half = self.engine.image.context // 2
        keep = min(self.keep, max(0, half - 1))
        history = [*self.session.tokens, *self._todo]
        self._todo = history[:keep] + history[-max(1, half - keep) :]
        self.engine.pages.close(self.session)
        self.prefilling = True

    def move(self, engine: Engine, prefixes: PrefixCache | None) -> None:
        """Be computed by another engine; nothing may have been computed yet."""
        assert not self._begun
        self.engine, self.prefixes = engine, prefixes

    def interrupt(self) -> None:
        """End before the answer is complete. What was to be computed next is left to the session, which may be saved or go on."""
        if self._begun and not self.ended:
            self.ended, self.stop_reason = True, "interrupted"
            slides = self.context_full == "slide"  # what was seen is then more than the session has
            self.session.pending = self._todo if slides else self._seen[self.session.position :]
            self._todo = []

    def release(self) -> None:
        """Give the pages of the session back, or leave them to prompts that begin alike."""
        if self.prefixes is not None:
            self.prefixes.add(self.session)
        self.engine.pages.close(self.session)

    def __iter__(self) -> Iterator[GeneratedToken]:
        while (step := self.next_pass(self.engine.image.chunk)) is not None:
            begin = time.monotonic()
            result = self.engine.run_pass([step.run], write_logits=step.write_logits)
            item = self.accept(result, result.runs[0], time.monotonic() - begin)
            if item is not None:
                yield item
