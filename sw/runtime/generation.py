"""Generation: prompt to tokens with statistics, token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ...block_choice import attended_position, may_choose, summary_pages
from ...draw import Draw
from ...errors import HwgenError
from .block_summaries import check_budget
from .document_passes import place_documents
from .documents import DocumentStore
from .drafts import Drafter
from .engine import Engine
from .logprobs import TokenLogprobs, token_logprobs
from .pages import Session
from .phase import Phase
from .prediction import Prediction
from .prefix_cache import PrefixCache
from .running_loop import RunningLoop, loop_passes
from .runs import PassResult, Run, RunResult
from .sampler import Sampler
from .sampling import Sampling
from .vector_tokens import as_words

__all__ = ["CONTEXT_FULL", "Constraint", "GeneratedToken", "Generation", "PassRequest"]

#: What happens when the context is full. ``stop``: the answer ends. ``error``: a prompt whose answer might not fit is refused
#: before anything is computed. ``slide``: the oldest half is forgotten and the rest computed again.
CONTEXT_FULL = ("stop", "error", "slide")


class Constraint(Protocol):
    """What an answer may be, token by token, as a grammar says it."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Of every token of the vocabulary, whether it may come next; stop tokens where the answer may end."""

    def accept(self, token: int) -> bool:
        """Go on behind ``token``; True when nothing may follow it."""


class GeneratedToken(NamedTuple):
    """One token of the answer and what it took."""

    token: int
    #: Why the generation ends with this token: ``stop``, ``complete``, ``length``, ``context``; None where it goes on.
    stop_reason: str | None
    #: Where they were asked for.
    logprobs: TokenLogprobs | None = None


class PassRequest(NamedTuple):
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
    #: The same with every token of the prompt but the first, which nothing is known of: the whole prompt is computed then.
    prompt_logprobs: int | None = None
    #: Guesses what follows; None: nobody does.
    drafter: Drafter | None = None
    #: Texts whose keys and values are taken over where the prompt has them.
    documents: DocumentStore | None = None
    #: Share of their tokens that is computed again; None: as ``documents`` say.
    recompute: float | None = None
    #: Another answer to the same prompt: its pages are taken over when it has read the prompt.
    sibling: Generation | None = None
    #: Passes that one doorbell is worth at most, where the answer is iterated over.
    doorbell_passes: int = 1
    #: Blocks of the cache that every token behind the prompt chooses, where it has more to choose from; 0: it attends to all. With
    #: a budget there are no drafts: they are runs of several tokens.
    kv_budget: int = 0
    #: Of the prompt's tokens from the second on, and of the answer's tokens, where they are asked for.
    prompt_scores: list[TokenLogprobs] = field(default_factory=list, init=False)
    scores: list[TokenLogprobs] = field(default_factory=list, init=False)
    #: Tokens of the prompt that were in the cache already, or taken over from documents and not computed again.
    reused: int = field(default=0, init=False)
    #: True while several tokens wait to be computed: the prompt, or what a slide kept.
    prefilling: bool = field(default=True, init=False)
    #: True when there is nothing left to compute.
    ended: bool = field(default=False, init=False)
    _todo: list[int] = field(default_factory=list, init=False)
    #: What the next pass computes beside `_todo`, in case that it follows.
    _draft: list[int] = field(default_factory=list, init=False)
    _begun: bool = field(default=False, init=False)
    #: A loop whose tokens are being taken, and when it began.
    _loop: RunningLoop | None = field(default=None, init=False)
    _loop_began: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.context_full not in CONTEXT_FULL:
            raise HwgenError(
                "usage", f"context_full must be one of {', '.join(CONTEXT_FULL)}, not {self.context_full!r}", "choose one"
            )
        self._use(self.engine)
        self.drafter = None if self.kv_budget else self.drafter
        self._sampler = self.sampling if isinstance(self.sampling, Sampler) else Sampler(self.sampling)

    def _use(self, engine: Engine) -> None:
        self.engine, self._context, self._vocabulary = engine, engine.image.context, engine.image.shape.vocab
        self._candidates = min(engine.config.topk, self._vocabulary)  # of a token

    @property
    def remaining(self) -> int:
        """Tokens that wait to be computed."""
        return len(self._todo)

    @property
    def choice(self) -> int:
        """Blocks that the next token chooses; 0 where it attends to all."""
        if self.prefilling or not self.kv_budget:
            return 0
        return self.kv_budget if may_choose(self.engine.config, self.session.position, self.kv_budget) else 0

    @property
    def attended(self) -> int:
        """Cached positions that it attends to."""
        return attended_position(self.engine.config, self.session.position, self.choice)

    @property
    def summary_pages(self) -> int:
        """Pages of summaries that it looks at for that."""
        return summary_pages(self.engine.config, self.session.position) if self.choice else 0

    def check(self) -> None:
        """Refuse a prompt that cannot be answered."""
        if not self.prompt:
            raise HwgenError("usage", "the prompt has no tokens", "give a prompt")
        check_budget(self.engine.config, self.kv_budget)
        if (self._needs_logits or self.prompt_logprobs is not None) and self.engine.image.head == "shortlist":
            raise HwgenError(
                "usage", "the short-list head gives the best candidates, not all logits, which this answer is drawn from",
                "ask for temperature 0 without penalties, log probabilities and forms, or use --head exact",
            )
        if self.prompt_logprobs is not None and as_words(self.prompt) != list(self.prompt):
            raise HwgenError(
                "usage", "vectors in place of tokens have no probabilities", "ask for those of the answer, or give token ids alone"
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
        if other is self.sibling:
            return True
        page = self.engine.config.kv_block
        mine, theirs = self.prompt[:page], other.prompt[:page]
        return self.prefixes is not None and self.prefixes is other.prefixes and len(mine) == page and list(mine) == list(theirs)

    def _begin(self) -> None:
        self.check()
        self._begun = True
        self._todo = [*self.session.pending, *self.prompt]
        self.session.pending = []
        self._seen = [*self.session.tokens, *self._todo]
        if self.prompt_logprobs is not None:
            return
        if not self.session.tokens:
            self._take_over()
        if self.documents:
            self._place(self.documents)

    def _take_over(self) -> None:
        """What others have computed of the prompt."""
        other = None if self.sibling is None else self.sibling.session
        self.sibling, last = None, len(self._todo) - 1
        if other is not None and last and other.exact and other.parked is None and other.tokens[:last] == self._todo[:last]:
            new = self.engine.pages.share(other, last)
            self.session.tokens, self.session.pages, self.reused = new.tokens, new.pages, last
        elif self.prefixes is not None:
            self.reused = self.prefixes.start(self.session, self._todo)
        del self._todo[: self.reused]

    def _place(self, documents: DocumentStore) -> None:
        """Keys and values of documents, and the passes that this takes: of this answer alone."""
        placement = place_documents(self.engine, self.session, self._todo, documents, self.recompute)
        computed = placement.tokens - placement.placed + placement.recomputed
        for number, (result, seconds) in enumerate(placement.passes):
            self.prefill.add(result, 0 if number else computed, seconds)
        self.reused += max(0, placement.tokens - computed)
        del self._todo[: placement.tokens]

    def next_pass(self, most: int, tokens: int = 0, wanted: int = 0) -> PassRequest | None:
        """What to compute next, at most so many tokens, in a pass with ``tokens`` tokens and ``wanted`` logits of others; None when
        the answer is complete. What is left of ``most`` is for a draft. Asking again replaces the pass asked for before.
        """
        if not self._begun:
            self._begin()
        if self.ended:
            return None
        next_, self._draft = self._todo[:most], []
        if self._scores_prompt:
            return PassRequest(Run(self.session, next_, len(next_)), True)
        logits = len(self._todo) <= most
        run = Run(self.session, next_, int(logits), None, self._draw, 0 if self.prefilling else self.kv_budget)
        request = PassRequest(run, logits and self._needs_logits)
        return self.with_draft(request, most - len(next_), tokens, wanted) if len(next_) < most else request

    def with_draft(self, request: PassRequest, most: int, tokens: int, wanted: int) -> PassRequest:
        """The same pass with a draft behind its token, at most ``most`` tokens for which pages are free, beside ``tokens`` tokens
        and ``wanted`` logits of others.
        """
        if self.drafter is None or most < 1 or self.prefilling:
            return request
        session, pages, end = self.session, self.engine.pages, len(self.session.tokens) + 1
        most = min(most, self._context - end, self.max_new_tokens - len(self.tokens) - 1)
        draft = self.drafter.propose(self._seen, most, tokens, wanted) if most > 0 else []
        if not draft or pages.missing(session, end + len(draft)) > pages.free or not pages.reserve(session, end + len(draft)):
            return request
        self._draft, run = draft, request.run
        longer = run._replace(tokens=[*run.tokens, *draft], wanted=run.wanted + len(draft))
        return PassRequest(longer, request.write_logits)

    @property
    def _scores_prompt(self) -> bool:
        return self.prompt_logprobs is not None and not self.tokens

    @cached_property
    def _needs_logits(self) -> bool:
        lacking = self._sampler.sampling.needs_logits(self._candidates)
        return lacking or self.constraint is not None or self.logprobs is not None

    def accept(self, result: PassResult, run: RunResult, wall_s: float) -> list[GeneratedToken]:
        """Take the result of :meth:`next_pass`, a run of a pass; the tokens it led to."""
        first, draft, self._draft = self.session.position - run.tokens, self._draft, []
        if self._scores_prompt:
            self._score(run, first)
        del self.session.tokens[self.session.position - len(draft) :]  # keys of what does not follow are overwritten
        del self._todo[: run.tokens - len(draft)]
        if self._todo:
            self.prefill.add(result, run.tokens, wall_s)
            return []
        prompt, self.prefilling = self.prefilling, False
        if prompt and self.prefixes is not None:
            self.prefixes.add(self.session, whole_pages=True)
        items: list[GeneratedToken] = []
        if len(self.tokens) >= self.max_new_tokens:
            self.ended = True
        else:
            items = self._verify(run, draft)
        (self.prefill if prompt else self.decode).add(result, run.tokens if prompt else len(items), wall_s)
        if self.drafter is not None and not prompt:
            self.drafter.settle(len(draft), len(items) - 1)
        return items

    def _verify(self, run: RunResult, draft: Sequence[int]) -> list[GeneratedToken]:
        """The token behind what was computed, and those behind the tokens of the draft while these are right."""
        items = []
        number = run.words.shape[0] - len(draft) - 1
        for guess in (*draft, None):
            token, logprobs = self._choose(run, number)
            reason = self._follow(token)
            items.append(GeneratedToken(token, reason, logprobs))
            if logprobs is not None and reason != "stop":
                self.scores.append(logprobs)
            if reason or token != guess or self.prefilling:
                break
            self.session.tokens.append(token)
            self._todo, number = [], number + 1
        return items

    def _score(self, run: RunResult, first: int) -> None:
        """Probabilities of the prompt's tokens behind those of a run, which begins at position ``first``."""
        assert self.prompt_logprobs is not None
        following = self._seen[first + 1 : first + 1 + run.tokens]
        for number, token in enumerate(following, run.first):
            self.prompt_scores.append(token_logprobs(self.engine.logits(number), token, self.prompt_logprobs))

    def _choose(self, run: RunResult, number: int) -> tuple[int, TokenLogprobs | None]:
        """The token behind a wanted one."""
        engine = self.engine
        tokens, bits = run.words[number].T.tolist()
        prediction = Prediction(tokens, bits, self._vocabulary, lambda: engine.logits_in_place(run.first + number))
        allowed = None if self.constraint is None else self.constraint.allowed()
        token = self._sampler.choose(prediction, self.session.position, self._seen, self.tokens, allowed)
        return token, None if self.logprobs is None else token_logprobs(prediction.logits, token, self.logprobs)

    def _stop(self, token: int, reason: str) -> str:
        """End with a token; the reason."""
        self._end(reason)
        self.session.pending = [token]
        return reason

    def _end(self, reason: str) -> None:
        self.ended, self.stop_reason = True, reason
        if self.drafter is not None:
            self.drafter.guesser.close()

    @property
    def _draw(self) -> Draw | None:
        """How the machine chooses the next tokens in a loop; None where it would not choose as this answer does."""
        if self.constraint is not None or self.logprobs is not None:
            return None
        return self._sampler.machine_draw(self._candidates)

    @property
    def loop_passes(self) -> int:
        """Passes of a loop that gives the next tokens, at most; 0 where the machine would not choose as this answer does."""
        image = self.engine.image
        if self.prefilling or self._draft or self._draw is None:
            return 0
        if self.drafter is not None and self.drafter.guesser.takes_passes:
            return 0
        return min(self.max_new_tokens - len(self.tokens), image.context - self.session.position)

    def take(self, token: int) -> GeneratedToken:
        """Take a token that a loop has chosen; the session has all before it."""
        reason = self._follow(token)
        if self.drafter is not None:
            self.drafter.settle(0, 0)
        return GeneratedToken(token, reason)

    def has_draft(self, tokens: int) -> bool:
        """Whether a draft would pay in the next pass, beside ``tokens`` tokens of others, which are all wanted."""
        most = self.max_new_tokens - len(self.tokens) - 1
        return self.drafter is not None and most > 0 and self.drafter.propose(self._seen, most, tokens, tokens) != []

    def _follow(self, token: int) -> str | None:
        """Go on behind a chosen token, or end; the reason to stop, if there is one."""
        if token in self.stop_tokens:
            return self._stop(token, "stop")
        self.tokens.append(token)
        self._seen.append(token)
        if self.constraint is not None and self.constraint.accept(token):
            return self._stop(token, "complete")
        if len(self.tokens) == self.max_new_tokens:
            return self._stop(token, "length")
        self._todo = [token]
        if len(self.session.tokens) == self._context:
            if self.context_full != "slide":
                return self._stop(token, "context")
            self._slide()
        return None

    def _slide(self) -> None:
        """Forget the oldest tokens but the first ``keep``; the rest is half a context, and is computed again."""
        half = self.engine.image.context // 2
        keep = min(self.keep, max(0, half - 1))
        history = [*self.session.tokens, *self._todo]
        self._todo = history[:keep] + history[-max(1, half - keep) :]
        self.engine.pages.close(self.session)
        self._sampler.begin_anew()
        self.prefilling = True

    def move(self, engine: Engine, prefixes: PrefixCache | None) -> None:
        """Be computed by another engine; nothing may have been computed yet."""
        assert not self._begun
        self._use(engine)
        self.prefixes = prefixes

    def interrupt(self) -> None:
        """End before the answer is complete. What was to be computed next is left to the session, which may be saved or go on."""
        self._leave_loop()
        if self._begun and not self.ended:
            self._end("interrupted")
            slides = self.context_full == "slide"  # what was seen is then more than the session has
            self.session.pending = self._todo if slides else self._seen[self.session.position :]
            self._todo = []

    def release(self) -> None:
        """Give the pages of the session back, or leave them to prompts that begin alike."""
        self._leave_loop()
        if self.prefixes is not None:
            self.prefixes.add(self.session)
        self.engine.pages.close(self.session)
        if self.drafter is not None:
            self.drafter.guesser.close()

    def __iter__(self) -> Iterator[GeneratedToken]:
        while (step := self.next_pass(self.engine.image.chunk)) is not None:
            begin = time.monotonic()
            passes = loop_passes(self.engine, [step.run], [self], self.doorbell_passes)
            if passes > 1:
                yield from self._looped(step.run, passes)
                continue
            result = self.engine.run_pass([step.run], write_logits=step.write_logits)
            yield from self.accept(result, result.runs[0], time.monotonic() - begin)

    def _looped(self, run: Run, passes: int) -> Iterator[GeneratedToken]:
        """The tokens of a loop, as they come."""
        self._loop_began = time.monotonic()
        self._loop = loop = RunningLoop(self.engine, [run], passes, self.stop_tokens)
        try:
            for (token,) in loop:
                item = self.take(token)
                if self.ended or self.has_draft(0):
                    loop.let_end()
                yield item
            if loop.closed:  # others use the device between tokens: loops would be ended again and again
                self.doorbell_passes = 1
        finally:
            self._leave_loop()

    def _leave_loop(self) -> None:
        """End the loop that runs, if one does, and add up what it took."""
        loop, self._loop = self._loop, None
        if loop is not None and (result := loop.close()) is not None:
            self.decode.add(result, loop.passes, time.monotonic() - self._loop_began)
