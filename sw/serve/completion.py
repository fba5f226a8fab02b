"""The answers to one request in the making, as the event loop sees them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import HwgenError
from ..models.tokenizer import Tokenizer
from ..runtime.generation import GeneratedToken, Generation
from ..runtime.jobs import Job
from ..runtime.logprobs import TokenLogprobs
from ..runtime.scheduler import Scheduler
from .errors import ApiError
from .metrics import Metrics, Stopwatch
from .text import AnswerText
from .tool_calls import CallReader

__all__ = ["Choice", "Completion", "Piece"]


@dataclass
class Piece:
    """What became certain of one answer."""

    #: Number of the answer in its request.
    index: int
    text: str = ""
    #: Token id and probabilities of tokens, where they were asked for.
    logprobs: list[tuple[int, TokenLogprobs]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    #: ``stop``, ``length`` or ``tool_calls`` with the last piece.
    finish_reason: str | None = None


class Choice:
    """One answer. ``echo`` is text before it; ``opening`` what the prompt already says of a call that is forced."""

    def __init__(
        self,
        index: int,
        generation: Generation,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        echo: str = "",
        reader: CallReader | None = None,
        opening: str = "",
    ) -> None:
        self.index, self.generation, self.echo = index, generation, echo
        self._text = AnswerText(tokenizer, stops, generation.prompt)
        self._reader = reader
        if reader is not None:
            reader.add(opening)
        #: Tokens of the answer so far, and the sum of the logarithms of their probabilities, where they are known.
        self.tokens, self.logprob = 0, 0.0
        self.ended = False

    def take(self, item: GeneratedToken) -> Piece:
        """The next token."""
        piece = Piece(self.index)
        if item.stop_reason != "stop":
            self.tokens += 1
            piece.text = self._read(self._text.add(item.token))
            if item.logprobs is not None:
                piece.logprobs = [(item.token, item.logprobs)]
                self.logprob += item.logprobs.logprob
        return piece

    def _read(self, text: str) -> str:
        return text if self._reader is None else self._reader.add(text)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: nothing of what follows is of the answer."""
        return self._text.stopped

    def end(self) -> Piece:
        """What was held back, and why the answer ended."""
        self.ended = True
        piece = Piece(self.index, self._read(self._text.finish()))
        if self._reader is not None:
            rest, piece.calls = self._reader.finish()
            piece.text += rest
        stopped = self.stopped or self.generation.stop_reason in ("stop", "complete")
        piece.finish_reason = "tool_calls" if piece.calls else "stop" if stopped else "length"
        return piece


class Completion:
    """The answers to one request."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, choices: Sequence[Choice]) -> None:
        self._scheduler, self._metrics, self.choices = scheduler, metrics, choices
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, GeneratedToken | HwgenError | None]] = asyncio.Queue()
        self._stopwatches = [Stopwatch(metrics) for _ in choices]
        self._jobs = [Job(c.generation, self._sender(i), self._sender(i)) for i, c in enumerate(choices)]
        self._done = False

    def _sender(self, index: int) -> Any:
        def send(event: GeneratedToken | HwgenError | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended: nobody listens
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return send

    def begin(self) -> None:
        """Put the jobs in the queue: all of them, or none."""
        try:
            for job in self._jobs:
                self._scheduler.submit(job)
        except HwgenError:
            self.cancel()
            raise

    async def pieces(self, ping: float | None = None) -> AsyncIterator[Piece | None]:
        """The answers as they come; None after ``ping`` seconds without a piece. Leaving early cancels the jobs."""
        open_ = len(self.choices)
        try:
            while open_:
                try:
                    index, event = await asyncio.wait_for(self._events.get(), ping)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if index < 0:  # the client has gone away
                    return
                choice = self.choices[index]
                if choice.ended:
                    continue
                if isinstance(event, HwgenError):
                    raise ApiError.of(event)
                if event is not None:
                    self._stopwatches[index].token()
                    piece = choice.take(event)
                    if piece.text or piece.logprobs:
                        yield piece
                    if not choice.stopped:
                        continue
                    self._scheduler.cancel(self._jobs[index])
                open_ -= 1
                yield choice.end()
            self._done = True
        finally:
            self.cancel()
            for choice, stopwatch in zip(self.choices, self._stopwatches, strict=True):
                stopwatch.end()
                self._metrics.answer_tokens.inc(choice.tokens)
                self._metrics.reused_tokens.inc(choice.generation.reused)

    def cancel(self) -> None:
        """Free the slots of the answers that still have one."""
        for job in self._jobs:
            self._scheduler.cancel(job)

    def abandon(self) -> None:
        """The client has gone away."""
        if not self._done:
            self._metrics.cancelled.inc()
            self.cancel()
            self._events.put_nowait((-1, None))
