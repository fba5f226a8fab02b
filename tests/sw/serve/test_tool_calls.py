"""Calls of tools, read from answers."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("pydantic", reason="serving needs pydantic")

from hwgen.sw.serve.protocol import Tool
from hwgen.sw.serve.tool_calls import CallFormat, CallReader, call_format, call_schema

TOOLS = [Tool.model_validate({"type": "function", "function": {"name": name}}) for name in ("look", "say")]
HERMES = call_format("{% if tools %}<tool_call>{% endif %}")
MISTRAL = call_format("{% if tools %}[TOOL_CALLS]{% endif %}")
LLAMA = call_format("{% if tools %}<|python_tag|>{% endif %}")

CALL, OTHER = '{"name": "look", "arguments": {"at": "é"}}', '{"name": "say", "arguments": {}}'


def read(form: CallFormat | None, text: str, size: int, most: int | None = None) -> tuple[str, list[tuple[str, object]]]:
    """Text and calls of an answer that comes in pieces of ``size`` characters."""
    assert form is not None
    reader = CallReader(form, TOOLS, most)
    out = "".join(reader.add(text[i : i + size]) for i in range(0, len(text), size))
    rest, calls = reader.finish()
    assert len({call["id"] for call in calls}) == len(calls)
    return out + rest, [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


def test_formats_by_template() -> None:
    assert None not in (HERMES, MISTRAL, LLAMA)
    for template in (None, "", "<tool_call>", "{{ tools }}", "{{ tools }}<tool_call><function=x>"):
        assert call_format(template) is None


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("form", "answer", "text", "calls"),
    [
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", [("look", {"at": "é"})]),
        (HERMES, f"I look. <tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}", "I look. ", [("look", {"at": "é"}), ("say", {})]),
        (HERMES, "1 < 2 and <tool", "1 < 2 and <tool", []),
        (HERMES, "<tool_call>{no", "<tool_call>{no", []),
        (HERMES, '<tool_call>{"name": "eat", "arguments": {}}', '<tool_call>{"name": "eat", "arguments": {}}', []),
        (HERMES, '<tool_call>{"name": "say", "arguments": 3}', '<tool_call>{"name": "say", "arguments": 3}', []),
        (HERMES, "<tool_call>[]", "<tool_call>[]", []),
        (MISTRAL, f"[TOOL_CALLS] [{CALL}, {OTHER}]", "", [("look", {"at": "é"}), ("say", {})]),
        (MISTRAL, f" [{CALL}]", "", [("look", {"at": "é"})]),  # the mark is a control token, which is no text
        (MISTRAL, "[1] is a footnote", "[1] is a footnote", []),
        (MISTRAL, f"Well: [{CALL}]", f"Well: [{CALL}]", []),
        (LLAMA, '{"name": "say", "parameters": {"what": 1}}', "", [("say", {"what": 1})]),
        (LLAMA, '{"name": "say"}', '{"name": "say"}', []),
        (LLAMA, "<b>no call</b>", "<b>no call</b>", []),
        (LLAMA, "", "", []),
    ],
)
def test_calls(form: CallFormat, answer: str, text: str, calls: list[tuple[str, object]], size: int) -> None:
    assert read(form, answer, size) == (text, calls)


def test_one_call_at_most() -> None:
    assert read(MISTRAL, f"[{CALL}, {OTHER}]", 5, most=1)[1] == [("look", {"at": "é"})]


def test_schema_of_a_call() -> None:
    assert MISTRAL is not None and LLAMA is not None
    one, two = call_schema(LLAMA, TOOLS[:1]), call_schema(LLAMA, TOOLS)
    assert one["required"] == ["name", "parameters"] and one["properties"]["name"] == {"const": "look"}
    assert [c["properties"]["name"]["const"] for c in two["anyOf"]] == ["look", "say"]
    assert call_schema(MISTRAL, TOOLS[:1])["items"]["required"] == ["name", "arguments"]
