"""The part of the OpenAI protocol that is served: requests as pydantic models."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from ...config import MAX_BUDGET
from .errors import ApiError

__all__ = [
    "ChatRequest", "CompletionRequest", "DetokenizeRequest", "Message", "Request", "ResponseFormat", "Strict", "TokenizeRequest",
    "Tool", "parse",
]

#: Answers that one request may ask for; the queue is a limit of its own.
MOST_ANSWERS = 128

#: Parameters that say who asks or how the provider bills: nothing of the answer depends on them.
_IGNORED = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "store", "service_tier"}

#: Parameters of the protocol and of local servers that are not served, with the values that change nothing.
_UNSERVED: dict[str, tuple[object, ...]] = {
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "min_tokens": (0,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "typical_p": (1,),
    "mirostat": (0,),
    "prompt_logprobs": (0,),
}

#: Parameters for which local user interfaces send -1 where they mean "not set".
_MINUS_ONE = ("max_tokens", "max_completion_tokens", "top_k", "seed")


def _normal(value: float) -> float:
    """A number that arithmetic treats exactly."""
    if 0 < abs(value) < sys.float_info.min:
        raise ValueError("must be 0 or a normal number")
    return value


def _integral(value: Any) -> Any:
    """1.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_integral)]
Number = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_normal)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=64)]
TokenId = Annotated[Whole, Field(ge=0, lt=1 << 31)]


class Strict(BaseModel):
    """Takes no value of another type and no field that it does not know; null is as if the field were left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


class StreamOptions(Strict):
    include_usage: bool = False
    #: Of OpenAI: pads chunks against eavesdroppers who count bytes; only the value that does not.
    include_obfuscation: Literal[False] = False


class Request(Strict):
    """What both kinds of completion have."""

    model: str
    max_tokens: Annotated[Whole, Field(ge=0, lt=1 << 31)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    n: Annotated[Whole, Field(ge=1, le=MOST_ANSWERS)] = 1
    seed: Annotated[Whole, Field(ge=0, lt=1 << 63)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")], Annotated[Number, Field(ge=-100, le=100)]] = {}
    # not of OpenAI, but of most local servers
    top_k: Annotated[Whole, Field(ge=0, lt=1 << 31)] = 0
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] = 1.0
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] = []
    ignore_eos: bool = False
    # of this server alone: blocks of the cache that a token chooses; 0 is all of them
    kv_budget: Annotated[Whole, Field(ge=0, le=MAX_BUDGET)] | None = None

    @model_validator(mode="before")
    @classmethod
    def known(cls, values: Any) -> Any:
        """Drop what changes nothing; refuse by name what is not served or not known."""
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if value is None or name in _IGNORED or (name in _MINUS_ONE and value == -1):
                continue
            if name in cls.model_fields:
                kept[name] = value
            elif name not in _UNSERVED:
                raise ApiError(400, f"{name} is not a parameter of this request", code="unknown_parameter", param=name)
            elif value not in _UNSERVED[name]:
                raise ApiError(400, f"{name} is not supported by this server", code="unsupported_parameter", param=name)
        return kept

    @property
    def written(self) -> int:
        """Answers to each prompt that are written."""
        return self.n

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


# ---- chat ----------------------------------------------------------------------------------------------------------
class TextPart(Strict):
    type: Literal["text"]
    text: str


class Called(Strict):
    name: str
    arguments: str | dict[str, Any] = "{}"


class ToolCall(Strict):
    id: str = ""
    type: Literal["function"] = "function"
    function: Called
    #: Of the chunks of a stream; some clients send it back.
    index: int | None = None


class Message(Strict):
    model_config = ConfigDict(extra="ignore")  # clients send answers back with all that they know of them

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def has_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} must have content")
        return self

    def plain(self) -> dict[str, Any]:
        """As chat templates take it: arguments of calls are objects, where they are JSON."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])
        out: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.name is not None:
            out["name"] = self.name
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            out["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.function.name, "arguments": _object(c.function.arguments)}}
                for c in self.tool_calls
            ]
        return out


def _object(arguments: str | dict[str, Any]) -> Any:
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments


class Function(Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class Named(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: Named


class JsonSchema(Strict):
    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(default={}, alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema must be there with type json_schema, and only then")
        return self

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        """JSON schema that the answer must have; None is any text."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        return {"type": "object"} if self.type == "json_object" else None


class ChatRequest(Request):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Annotated[Whole, Field(ge=0, lt=1 << 31)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    tools: list[Tool] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def consistent(self) -> ChatRequest:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise ApiError.refused("top_logprobs", "needs logprobs to be true")
        wanted = self.tool_choice
        if isinstance(wanted, NamedTool) and wanted.function.name not in [tool.function.name for tool in self.tools]:
            raise ApiError.refused("tool_choice", f"{wanted.function.name!r} is none of the tools")
        if wanted == "required" and not self.tools:
            raise ApiError.refused("tool_choice", "there are no tools")
        if self.given_tools and self.schema_of_answer is not None:
            raise ApiError.refused("response_format", "a format of the answer and tools cannot be had together")
        return self

    @property
    def given_tools(self) -> list[Tool]:
        """Tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools

    @property
    def forced_tools(self) -> list[Tool]:
        """Tools of which the answer must call one; empty where it need not."""
        if isinstance(self.tool_choice, NamedTool):
            return [tool for tool in self.tools if tool.function.name == self.tool_choice.function.name]
        return self.tools if self.tool_choice == "required" else []

    @property
    def schema_of_answer(self) -> dict[str, Any] | None:
        return None if self.response_format is None else self.response_format.schema_of_answer

    @property
    def shown_logprobs(self) -> int | None:
        """Most likely tokens shown beside each one of the answer; None where probabilities are not asked for."""
        return self.top_logprobs or 0 if self.logprobs else None


class CompletionRequest(Request):
    prompt: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_ANSWERS)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=MOST_ANSWERS)]
    )
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    echo: bool = False
    best_of: Annotated[Whole, Field(ge=1, le=MOST_ANSWERS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def no_logprobs_by_false(cls, values: Any) -> Any:
        """Clients of both protocols send false where they mean none."""
        if isinstance(values, dict) and values.get("logprobs") is False:
            return {name: value for name, value in values.items() if name != "logprobs"}
        return values

    @model_validator(mode="after")
    def consistent(self) -> CompletionRequest:
        if self.written < self.n:
            raise ApiError.refused("best_of", f"is {self.best_of}, fewer than the {self.n} answers that are asked for")
        if self.stream and self.written > self.n:
            raise ApiError.refused("best_of", "the best answers are known at the end: a stream cannot have them")
        if self.stream and self.prompt_logprobs is not None:
            raise ApiError.refused("logprobs", "those of the prompt (echo) do not come in a stream")
        return self

    @property
    def prompt_logprobs(self) -> int | None:
        """Most likely tokens shown beside each one of the prompt; None where probabilities of it are not asked for."""
        return self.logprobs if self.echo else None

    @property
    def written(self) -> int:
        return self.n if self.best_of is None else self.best_of

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, each text or token ids."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def shown_logprobs(self) -> int | None:
        return self.logprobs


# ---- tokens --------------------------------------------------------------------------------------------------------
class TokenizeRequest(Strict):
    """Text as ``content`` or ``prompt``, or a conversation as ``messages``."""

    model: str | None = None
    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special: bool = True

    @model_validator(mode="after")
    def has_one(self) -> TokenizeRequest:
        if sum(value is not None for value in (self.content, self.prompt, self.messages)) != 1:
            raise ApiError.refused("content", "exactly one of content, prompt and messages must be there")
        return self


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: list[TokenId]


R = TypeVar("R", bound=Strict)


def parse(kind: type[R], body: bytes) -> R:
    """A request from its body; :class:`ApiError` names the field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        field = errors[0]["loc"][:1]
        reasons = dict.fromkeys(e["msg"] for e in errors if e["loc"][:1] == field)  # of every kind that the field may have
        name = str(field[0]) if field else None
        message = "; or ".join(reasons)
        raise ApiError(400, f"{name}: {message}" if name else message, code="invalid_value", param=name) from error
