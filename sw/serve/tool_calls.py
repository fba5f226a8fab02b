"""How models write calls of tools, by what their chat templates tell them, and calls read from answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .protocol import Tool

__all__ = ["CallFormat", "CallReader", "call_format", "call_schema"]


@dataclass(frozen=True)
class CallFormat:
    """A call is a JSON object with ``name`` and ``arguments_key`` between marks."""

    opening: str
    closing: str
    arguments_key: str
    #: Whether the calls of an answer are one JSON array.
    array: bool = False
    #: Whether ``opening`` is a control token, which the text of an answer leaves out: JSON at its beginning is a call then.
    bare: bool = False
    #: What the model writes before the first call, as a prompt of it.
    prefix: str = ""


#: By a text of the chat template. Order matters: the first that is found.
_FORMATS = {
    "<function=": None,  # Qwen3-Coder: parameters as XML
    "<tool_call>": CallFormat("<tool_call>", "</tool_call>", "arguments", prefix="<tool_call>\n"),  # Hermes, Qwen, SmolLM3
    "[TOOL_CALLS]": CallFormat("[TOOL_CALLS]", "", "arguments", array=True, bare=True, prefix="[TOOL_CALLS] "),  # Mistral
    "<|python_tag|>": CallFormat("<|python_tag|>", "", "parameters", bare=True),  # Llama 3.1 and later
}


def call_format(template: str | None) -> CallFormat | None:
    """The format that a chat template teaches; None where it has no tools or writes calls in a way that is not known."""
    if template is None or "tools" not in template:
        return None
    return next((form for mark, form in _FORMATS.items() if mark in template), None)


def call_schema(form: CallFormat, tools: Sequence[Tool]) -> dict[str, Any]:
    """JSON schema of a call of one of ``tools``."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.function.name}, form.arguments_key: tool.function.parameters},
            "required": ["name", form.arguments_key],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {"type": "array", "items": call, "minItems": 1, "maxItems": 1} if form.array else call


class CallReader:
    """Tells the text of an answer from its calls, piece by piece. What looks like a call and is none is text at the end."""

    def __init__(self, form: CallFormat, tools: Sequence[Tool], most: int | None = None) -> None:
        self._form, self._most = form, most
        self._names = {tool.function.name for tool in tools}
        #: What may be a call.
        self._held = ""
        #: Whether text comes before a call: where calls are bare, none can follow.
        self._text = False

    def add(self, piece: str) -> str:
        """Text that is certain not to be of a call."""
        if self._text and self._form.bare:
            return piece
        self._held += piece
        form, held = self._form, self._held
        if form.bare:
            start = held.lstrip()
            if not start or start[0] in "{[" or form.opening.startswith(start[: len(form.opening)]):
                return ""
            cut = len(held)
        else:
            cut = held.find(form.opening)
            if cut < 0:
                cut = len(held) - max((n for n in range(1, len(form.opening)) if held.endswith(form.opening[:n])), default=0)
        text, self._held = held[:cut], held[cut:]
        self._text = self._text or bool(text)
        return text

    def finish(self) -> tuple[str, list[dict[str, Any]]]:
        """What was held back: text, or calls as the protocol has them."""
        try:
            calls = [self._call(value) for value in self._values()]
        except (ValueError, TypeError, KeyError, RecursionError):
            calls = []
        return ("", calls[: self._most]) if calls else (self._held, [])

    def _values(self) -> list[Any]:
        """JSON values of the calls that are held."""
        form, text = self._form, self._held.strip()
        if not form.bare:
            parts = text.split(form.opening)[1:]
            return [json.loads(part.partition(form.closing)[0]) for part in parts]
        value = json.loads(text.removeprefix(form.opening))
        return value if isinstance(value, list) else [value]

    def _call(self, value: Any) -> dict[str, Any]:
        name, arguments = value["name"], value[self._form.arguments_key]
        if name not in self._names or not isinstance(arguments, dict):
            raise ValueError(f"{name!r} is called with {arguments!r}")
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
