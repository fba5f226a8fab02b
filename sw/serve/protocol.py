"""The part of the OpenAI protocol that is served: requests as pydantic models, answers and errors as JSON values."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ...errors import HwgenError

__all__ = ["ApiError", "ChatRequest", "CompletionRequest", "Reply", "parse", "usage"]


class ApiError(Exception):
    """A request that is refused: HTTP status and the error object of the protocol."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def to_dict(self) -> dict[str, Any]:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @classmethod
    def of(cls, error: HwgenError) -> ApiError:
        """What the client is told of an error of the runtime."""
        if error.kind == "busy":
            waits = "shutting down" not in error.message
            return cls(
                429 if waits else 503, str(error), code="queue_full" if waits else "shutting_down", headers={"Retry-After": "1"}
            )
        if error.kind == "context":
            return cls(400, str(error), code="context_length_exceeded")
        if error.kind in ("usage", "tokenizer"):
            return cls(400, str(error), code=error.kind)
        return cls(500, str(error), code=error.kind)


#: Parameters of the protocol that are not served, with the values that change nothing.
_UNSERVED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
}

StopString = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class StreamOptions(BaseModel):
    include_usage: bool = False


class Request(BaseModel):
    """What both kinds of completion have."""

    model_config = ConfigDict(extra="ignore")

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # not of OpenAI, but of most local servers
    top_k: int = Field(default=0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def refuse_unserved(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for name, neutral in _UNSERVED.items():
                if values.get(name) is not None and values[name] not in neutral:
                    raise ApiError(400, f"{name} is not supported by this server", code="unsupported_parameter", param=name)
        return values

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Request):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def one_maximum(self) -> ChatRequest:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self


class CompletionRequest(Request):
    prompt: str | list[int] | Annotated[list[str], Field(min_length=1, max_length=1)]


R = TypeVar("R", bound=Request)


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


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """Token counts of an answer; ``cached``: tokens of the prompt that were not computed again."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


class Reply:
    """The answer to one request as JSON values: whole, or as the chunks of a stream."""

    def __init__(self, model: str, chat: bool) -> None:
        self._chat = chat
        prefix, kind = ("chatcmpl", "chat.completion") if chat else ("cmpl", "text_completion")
        self._base = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model}

    def _choice(self, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}

    def whole(self, text: str, finish_reason: str, tokens: dict[str, Any]) -> dict[str, Any]:
        content: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {**self._base, "choices": [self._choice(content, finish_reason)], "usage": tokens}

    def chunk(self, text: str, *, first: bool = False, finish_reason: str | None = None) -> dict[str, Any]:
        if self._chat:
            delta = {**({"role": "assistant"} if first else {}), **({} if finish_reason else {"content": text})}
            return {**self._chunk_base(), "choices": [self._choice({"delta": delta}, finish_reason)]}
        return {**self._chunk_base(), "choices": [self._choice({"text": text}, finish_reason)]}

    def usage_chunk(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """The last chunk of a stream, where it was asked for."""
        return {**self._chunk_base(), "choices": [], "usage": tokens}

    def _chunk_base(self) -> dict[str, Any]:
        return {**self._base, "object": "chat.completion.chunk"} if self._chat else dict(self._base)
