"""Between HTTP and scheduler: requests become jobs, tokens come back to the event loop as text."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from ...errors import HwgenError
from ..runtime.generation import GeneratedToken, Generation
from ..runtime.llm import LLM
from ..runtime.sampling import Sampling
from ..runtime.scheduler import Job, Scheduler
from .metrics import Metrics, Stopwatch
from .protocol import ApiError, ChatRequest, CompletionRequest, Message, Request
from .text import AnswerText

__all__ = ["Completion", "Limits", "Service"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes."""

    #: Answers computed at the same time.
    sessions: int = 8
    #: Requests that wait for that.
    waiting: int = 64
    #: Tokens of one answer; None is what the context holds.
    new_tokens: int | None = None
    #: Tokens of a pass while answers are written, prompts among them; None is what costs no time.
    width: int | None = None
    #: Bytes of the body of one request.
    body_bytes: int = 1 << 20


#: Tokens of a completion that does not say how many, by the protocol.
DEFAULT_COMPLETION_TOKENS = 16


def continue_text(messages: Sequence[Message]) -> str:
    """Prompt of a conversation for a model without chat template: the texts one behind the other, an answer directly behind
    what it continues.
    """
    text = ""
    for message in messages:
        plain = message.plain()
        text += ("\n" if text and plain["role"] != "assistant" else "") + plain["content"]
    return text


class Completion:
    """One answer in the making, as the event loop sees it."""

    def __init__(self, service: Service, generation: Generation, stops: Sequence[str]) -> None:
        self._service = service
        self.generation = generation
        self._text = AnswerText(service.llm.model.tokenizer, stops, generation.prompt)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[GeneratedToken | HwgenError | None] = asyncio.Queue()
        self._stopwatch = Stopwatch(service.metrics)
        self.job = Job(generation, self._send, self._send)
        #: Tokens of the answer so far.
        self.tokens = 0
        #: ``stop`` or ``length``, when the answer is complete.
        self.finish_reason = ""

    def _send(self, event: GeneratedToken | HwgenError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended: nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def pieces(self) -> AsyncIterator[str]:
        """Text of the answer as it comes. Leaving early cancels the job."""
        metrics = self._service.metrics
        try:
            while (event := await self._events.get()) is not None:
                if isinstance(event, HwgenError):
                    raise ApiError.of(event)
                self._stopwatch.token()
                if event.stop_reason != "stop":
                    self.tokens += 1
                    if piece := self._text.add(event.token):
                        yield piece
                if self._text.stopped:
                    break
            if piece := self._text.finish():
                yield piece
            stopped = self._text.stopped or self.generation.stop_reason == "stop"
            self.finish_reason = "stop" if stopped else "length"
        finally:
            self.cancel()
            self._stopwatch.end()
            metrics.answer_tokens.inc(self.tokens)
            metrics.reused_tokens.inc(self.generation.reused)

    def cancel(self) -> None:
        """Free the slot of this answer, if it still has one."""
        self._service.scheduler.cancel(self.job)

    def abandon(self) -> None:
        """The client has gone away."""
        if not self.finish_reason:
            self._service.metrics.cancelled.inc()
            self.cancel()
            self._events.put_nowait(None)


class Service:
    """A model on an accelerator for many clients."""

    def __init__(self, llm: LLM, *, limits: Limits = Limits(), temperature: float = 0.0, context_full: str = "stop") -> None:
        self.llm, self.limits = llm, limits
        self._temperature, self._context_full = temperature, context_full
        self.metrics = Metrics()
        self.scheduler = Scheduler(
            llm.engine, max_running=limits.sessions, max_waiting=limits.waiting, width=limits.width, observer=self.metrics.observe
        )
        self.metrics.watch(llm.engine, self.scheduler, llm.prefixes)

    @property
    def name(self) -> str:
        """Name of the model in the protocol."""
        return self.llm.model.name

    def check_model(self, name: str) -> None:
        if name != self.name:
            raise ApiError(
                404, f"the model {name!r} does not exist; this server has {self.name!r}", code="model_not_found", param="model"
            )

    def encode(self, request: ChatRequest | CompletionRequest) -> list[int]:
        """Tokens of a prompt."""
        tokenizer = self.llm.model.tokenizer
        if isinstance(request, ChatRequest):
            if tokenizer.has_chat_template:
                return tokenizer.encode_messages([m.plain() for m in request.messages])
            return tokenizer.encode(continue_text(request.messages))
        if isinstance(request.prompt, str):
            return tokenizer.encode(request.prompt)
        if request.prompt and isinstance(request.prompt[0], str):
            return tokenizer.encode(request.prompt[0])
        vocabulary = self.llm.image.shape.vocab
        ids = [int(t) for t in request.prompt]
        if any(not 0 <= t < vocabulary for t in ids):
            raise ApiError(400, f"prompt has a token id outside 0..{vocabulary - 1}", code="invalid_value", param="prompt")
        return ids

    def _answer_tokens(self, request: Request, prompt: int) -> int:
        context, slide = self.llm.image.context, self._context_full == "slide"
        most = self.limits.new_tokens or (context if slide else None)  # an answer that slides would end by nothing else
        if request.max_tokens is not None:
            if most is not None and request.max_tokens > most:
                message = f"max_tokens is {request.max_tokens}, this server gives at most {most}"
                raise ApiError(400, message, code="invalid_value", param="max_tokens")
            return request.max_tokens
        wanted = min(most or context, context if isinstance(request, ChatRequest) else DEFAULT_COMPLETION_TOKENS)
        return wanted if slide else max(1, min(wanted, context - prompt + 1))

    def submit(self, request: ChatRequest | CompletionRequest) -> Completion:
        """Begin to answer a request."""
        self.check_model(request.model)
        temperature = self._temperature if request.temperature is None else request.temperature
        try:
            prompt = self.encode(request)
            sampling = Sampling(
                temperature=temperature,
                top_k=request.top_k,
                top_p=1.0 if request.top_p is None else request.top_p,
                repetition_penalty=request.repetition_penalty,
                seed=secrets.randbits(32) if request.seed is None else request.seed,
            )
            generation = self.llm.generation(
                prompt, self._answer_tokens(request, len(prompt)), sampling, context_full=self._context_full
            )
            completion = Completion(self, generation, request.stops)
            self.scheduler.submit(completion.job)
        except HwgenError as error:
            raise ApiError.of(error) from error
        self.metrics.prompt_tokens.inc(len(prompt))
        return completion
