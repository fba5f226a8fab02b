"""Between HTTP and scheduler: requests become jobs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import HwgenError
from ..runtime.device_turns import DeviceTurns
from ..runtime.engine import Engine, PassResult
from ..runtime.generation import Generation
from ..runtime.jobs import Job, QueueFull
from ..runtime.llm import LLM
from ..runtime.prefix_cache import PrefixCache
from ..runtime.running_loop import LOOP_PASSES
from ..runtime.sampling import Sampling
from ..runtime.scheduler import BACK_OFF, TIME_BETWEEN_TOKENS, Scheduler
from .completion import Choice, Completion
from .errors import ApiError
from .grammar import JsonGrammar
from .machine_state import MachineState
from .metrics import Metrics
from .protocol import ChatRequest, CompletionRequest, Message, Request, Tool
from .tool_calls import CallFormat, CallReader, call_format, call_schema

T = TypeVar("T")

__all__ = ["Limits", "Service"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes."""

    #: Answers computed at the same time.
    sessions: int = 8
    #: Requests that wait for that.
    waiting: int = 64
    #: Tokens of one answer; None is what the context holds.
    new_tokens: int | None = None
    #: Longest pass of answers while prompts wait, as a multiple of a pass of a single token.
    time_between_tokens: float = TIME_BETWEEN_TOKENS
    #: Bytes of the body of one request.
    body_bytes: int = 1 << 20
    #: Seconds in which the body must have come.
    body_seconds: float = 30.0
    #: Seconds of silence after which a stream gets a comment, so that proxies do not close it.
    ping_seconds: float = 15.0


#: Tokens of a completion that does not say how many, by the protocol.
DEFAULT_COMPLETION_TOKENS = 16


def continue_text(messages: Sequence[Message]) -> str:
    """Prompt of a conversation for a model without chat template: the texts one behind the other, an answer directly behind
    what it continues.
    """
    text = ""
    for message in messages:
        plain = message.plain()
        if message.role == "tool" or message.tool_calls:
            raise ApiError.refused("messages", "this model has no chat template, so it knows no tools", "unsupported_parameter")
        text += ("\n" if text and plain["role"] != "assistant" else "") + plain["content"]
    return text


class Service:
    """A model on an accelerator for many clients."""

    def __init__(
        self,
        llm: LLM,
        *,
        limits: Limits = Limits(),
        temperature: float = 0.0,
        context_full: str = "stop",
        back_off: Sequence[float] = BACK_OFF,
        turns: DeviceTurns | None = None,
        kv_budget: int = 0,
    ) -> None:
        self.llm, self.limits, self._turns = llm, limits, turns
        self.temperature, self._context_full, self._kv_budget = temperature, context_full, kv_budget
        self.metrics, self.machine = Metrics(), MachineState(llm)
        self.scheduler = Scheduler(
            llm.engine, max_running=limits.sessions, max_waiting=limits.waiting, time_between_tokens=limits.time_between_tokens,
            observer=self._observe, reopen=self._reopen, back_off=back_off, turn=None if turns is None else self,
            loop_passes=LOOP_PASSES, alone=self.machine.wants_trace,
        )
        self.metrics.watch(llm, self.scheduler)
        self._grammar = JsonGrammar(llm.model.tokenizer, llm.image.shape.vocab, llm.model.stop_tokens)

    def _reopen(self) -> tuple[Engine, PrefixCache | None]:
        self.llm.reopen()
        return self.llm.engine, self.llm.prefixes

    # ---- turns of a device that other models use too -------------------------------------------------------------
    def begin(self, running: int) -> bool:
        """As `hwgen.sw.runtime.scheduler.Turn` says."""
        assert self._turns is not None
        engine, may = self.llm.engine, self._turns.begin(self.llm, running)
        if self.llm.engine is not engine:
            self.scheduler.move(self.llm.engine, self.llm.prefixes)
        return may

    def rest(self, waiting: int) -> None:
        """As `hwgen.sw.runtime.scheduler.Turn` says."""
        assert self._turns is not None
        self._turns.rest(self.llm, waiting)

    async def on_device(self, call: Callable[[], T]) -> T:
        """What ``call`` returns, which may use the engine: no pass runs then."""

        def held() -> T:
            with contextlib.nullcontext() if self._turns is None else self._turns.held(self.llm):
                return call()

        return await asyncio.wrap_future(self.scheduler.between_passes(held))

    def _observe(self, jobs: Sequence[Job], result: PassResult, prefill: bool, seconds: float) -> None:
        self.metrics.observe(result, prefill, seconds)
        self.machine.observe(jobs, result, prefill, seconds)

    @property
    def name(self) -> str:
        """Name of the model in the protocol."""
        return self.llm.model.name

    def spell(self, token: int) -> str:
        """A token as text; by its number where it is no whole characters."""
        text = self.llm.model.tokenizer.decode([token])
        return f"token_id:{token}" if "\N{REPLACEMENT CHARACTER}" in text else text

    # ---- prompts -------------------------------------------------------------------------------------------------
    def encode_messages(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Tokens of a conversation."""
        tokenizer, whole = self.llm.model.tokenizer, self.llm.documents.texts
        if not tokenizer.has_chat_template:
            return tokenizer.encode(continue_text(messages), whole)
        return tokenizer.encode_messages([m.plain() for m in messages], [t.model_dump(exclude_none=True) for t in tools], whole)

    def encode_prompt(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a prompt, checked where it is tokens already."""
        if isinstance(prompt, str):
            return self.llm.model.tokenizer.encode(prompt, self.llm.documents.texts)
        self.check_tokens(prompt, "prompt")
        return prompt

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        vocabulary = self.llm.image.shape.vocab
        if any(not 0 <= token < vocabulary for token in tokens):
            raise ApiError.refused(param, f"a token id is outside 0..{vocabulary - 1}")

    def _call_format(self, request: ChatRequest) -> CallFormat | None:
        """How the model writes calls, where the request has tools."""
        if not request.given_tools:
            return None
        template = self.llm.model.tokenizer.chat_template
        form = call_format(template)
        if form is None:
            lacks = template is None or "tools" not in template
            reason = "the chat template of this model has no tools" if lacks else (
                "the chat template of this model writes calls in a form that this server does not read"
            )
            raise ApiError.refused("tools", reason, "unsupported_parameter")
        return form

    # ---- answers -------------------------------------------------------------------------------------------------
    def _answer_tokens(self, request: Request, prompt: int) -> int:
        context, slide = self.llm.image.context, self._context_full == "slide"
        most = self.limits.new_tokens or (context if slide else None)  # an answer that slides would end by nothing else
        if request.max_tokens is not None:
            if most is not None and request.max_tokens > most:
                raise ApiError.refused("max_tokens", f"is {request.max_tokens}, this server gives at most {most}")
            return request.max_tokens
        wanted = min(most or context, context if isinstance(request, ChatRequest) else DEFAULT_COMPLETION_TOKENS)
        return wanted if slide else max(1, min(wanted, context - prompt + 1))

    def _sampling(self, request: Request, number: int) -> Sampling:
        """Of the answer ``number`` to a prompt: each has a seed of its own."""
        biases = {int(token): value for token, value in request.logit_bias.items()}
        self.check_tokens(list(biases), "logit_bias")
        return Sampling(
            temperature=self.temperature if request.temperature is None else request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty,
            frequency_penalty=request.frequency_penalty,
            logit_bias=biases,
            seed=secrets.randbits(32) if request.seed is None else request.seed + number,
        )

    def _generation(
        self,
        request: ChatRequest | CompletionRequest,
        prompt: Sequence[int],
        number: int,
        schema: dict[str, Any] | None = None,
        param: str = "",
        sibling: Generation | None = None,
    ) -> Generation:
        stops = () if request.ignore_eos else self.llm.model.stop_tokens
        generation = self.llm.generation(
            prompt,
            self._answer_tokens(request, len(prompt)),
            self._sampling(request, number),
            context_full=self._context_full,
            stop_tokens=[*stops, *request.stop_token_ids],
            constraint=None if schema is None else self._grammar.constraint(schema, param),
            logprobs=0 if request.shown_logprobs is None and request.written > request.n else request.shown_logprobs,
            prompt_logprobs=request.prompt_logprobs if isinstance(request, CompletionRequest) else None,
            kv_budget=self._kv_budget if request.kv_budget is None else request.kv_budget,
        )
        generation.sibling = sibling
        generation.check()
        return generation

    def _chat_choices(self, request: ChatRequest) -> list[Choice]:
        form, opening, schema, param = self._call_format(request), "", request.schema_of_answer, "response_format"
        tokenizer = self.llm.model.tokenizer
        prompt = self.encode_messages(request.messages, request.given_tools)
        if form is not None and request.forced_tools:
            opening, param = form.prefix, "tools"
            schema = call_schema(form, request.forced_tools)
            prompt = [*prompt, *tokenizer.encode_text(opening)]
        choices: list[Choice] = []
        for number in range(request.n):
            sibling = choices[0].generation if choices else None
            reader = None
            if form is not None:
                reader = CallReader(form, request.given_tools, None if request.parallel_tool_calls else 1)
            generation = self._generation(request, prompt, number, schema, param, sibling)
            choices.append(Choice(number, generation, tokenizer, request.stops, reader=reader, opening=opening))
        return choices

    def _text_choices(self, request: CompletionRequest) -> list[Choice]:
        choices: list[Choice] = []
        tokenizer = self.llm.model.tokenizer
        for prompt in request.prompts:
            tokens = self.encode_prompt(prompt)
            echo = (prompt if isinstance(prompt, str) else tokenizer.decode(tokens)) if request.echo else ""
            first = None
            for number in range(request.written):
                generation = self._generation(request, tokens, number, sibling=first)
                first = first or generation
                choices.append(Choice(len(choices), generation, tokenizer, request.stops, echo=echo))
        return choices

    def _choices(self, request: ChatRequest | CompletionRequest) -> list[Choice]:
        return self._chat_choices(request) if isinstance(request, ChatRequest) else self._text_choices(request)

    def _reading(self, request: ChatRequest | CompletionRequest) -> list[Choice]:
        """The prompt of a request as an answer of no tokens."""
        prompts = {tuple(choice.generation.prompt) for choice in self._choices(request)}
        if len(prompts) > 1:
            raise ApiError.refused("prompt", "one at a time")
        return [Choice(0, self.llm.generation(prompts.pop(), 0, Sampling()), self.llm.model.tokenizer, ())]

    async def submit(self, request: ChatRequest | CompletionRequest) -> Completion:
        """Begin to answer a request."""
        return await self._submit(request, self._choices)

    async def submit_reading(self, request: ChatRequest | CompletionRequest) -> Completion:
        """Begin to compute the one prompt of a request, and nothing behind it."""
        return await self._submit(request, self._reading)

    async def _submit(
        self, request: ChatRequest | CompletionRequest, choices_of: Callable[[ChatRequest | CompletionRequest], list[Choice]]
    ) -> Completion:
        """Its prompt is made tokens beside the event loop: a long one takes a while."""
        try:
            if self.scheduler.full:  # before anything is done for it
                raise QueueFull(self.scheduler.waiting)
            choices = await asyncio.to_thread(choices_of, request)
            room = self.limits.sessions + self.limits.waiting
            if len(choices) > room:
                raise ApiError.refused("n", f"{len(choices)} answers are asked for, this server takes {room} at a time")
            completion = Completion(self.scheduler, self.metrics, choices)
            completion.begin()
        except HwgenError as error:
            raise ApiError.of(error) from error
        self.metrics.prompt_tokens.inc(sum(len(choice.generation.prompt) for choice in choices))
        return completion
