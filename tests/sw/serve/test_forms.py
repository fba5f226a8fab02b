"""Answers of given form: JSON, and calls of tools. The tiny model knows neither, so what comes right is the server's work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="answers of given form need llguidance")
jsonschema = pytest.importorskip("jsonschema", reason="checks answers against their schemas")

from hwgen.sw.runtime.llm import LLM

from .conftest import Running, new_service, serving

MODEL, CHAT = "chatty", "/v1/chat/completions"
SAY = [{"role": "user", "content": "cat"}]

#: Short, so that any draw ends within the context.
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "mood": {"enum": ["glad", "sad"]}},
    "required": ["n", "mood"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {
    "type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"], "additionalProperties": False,
}}}

#: A template with tools as Hermes has them, short because the context of the small model is.
TEMPLATE = (
    "{# <tool_call> #}{% if tools %}{{ tools|length }}{% endif %}{% for m in messages %}/{{ m.role[0] }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }}:{{ c.function.arguments.x }}){% endfor %}{% endfor %}/a"
)


@pytest.fixture(scope="module")
def tooled(chat_directory: Path) -> Iterator[Running]:
    service = new_service(chat_directory)
    service.llm.model.tokenizer._chat_template = TEMPLATE
    with serving(service) as running:
        yield running


def post(running: Running, **body: Any) -> dict[str, Any]:
    answer = running.http.post(CHAT, json={"model": MODEL, "messages": SAY, **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def refusal(running: Running, **body: Any) -> dict[str, Any]:
    answer = running.http.post(CHAT, json={"model": MODEL, "messages": SAY, **body})
    assert answer.status_code == 400
    return dict(answer.json()["error"])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 2.0, "seed": 3}, {"temperature": 1.0, "top_k": 3, "seed": 4, "n": 2}])
def test_json_schema(server: Running, sampling: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "mood", "schema": SCHEMA, "strict": True}}
    for choice in post(server, response_format=wanted, **sampling)["choices"]:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        assert choice["finish_reason"] == "stop"


def test_json_object(server: Running) -> None:
    """Pushed towards its end by biases: the object is whole, or the answer says that it was cut."""
    close = server.service.llm.model.tokenizer.encode_text("}")[0]
    choice = post(server, response_format={"type": "json_object"}, logit_bias={str(close): 100})["choices"][0]
    assert choice["finish_reason"] == "stop" and json.loads(choice["message"]["content"]) == {}
    assert post(server, response_format={"type": "text"}, max_tokens=2)["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"type": "json_schema"}, "json_schema must be there"),
        ({"type": "xml"}, "json_object"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "what"}}}, "cannot be enforced"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "object"}}}}, "cannot be enforced"),
    ],
)
def test_formats_that_are_refused(server: Running, wanted: dict[str, Any], message: str) -> None:
    error = refusal(server, response_format=wanted)
    assert error["param"] == "response_format" and message in error["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_forced_call(tooled: Running, choice: object) -> None:
    answer = post(tooled, tools=[TOOL], tool_choice=choice, temperature=1.5, seed=1)["choices"][0]
    assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
    (call,) = answer["message"]["tool_calls"]
    arguments = json.loads(call["function"]["arguments"])
    assert call["type"] == "function" and call["function"]["name"] == "f" and arguments["x"] in (1, 2)
    stream = tooled.client.chat.completions.create(
        model=MODEL, messages=SAY, tools=[TOOL], tool_choice=choice, temperature=1.5, seed=1, stream=True  # type: ignore[call-overload]
    )
    chunks = [chunk.choices[0] for chunk in stream]
    called = [c.delta.tool_calls[0] for c in chunks if c.delta.tool_calls]
    assert [c.function.name for c in called] == ["f"] and json.loads(called[0].function.arguments) == arguments
    assert chunks[-1].finish_reason == "tool_calls" and not any(c.delta.content for c in chunks)


def test_the_model_may_answer_in_words(tooled: Running, alone: LLM) -> None:
    """The template is told of the tools, of earlier calls, and of what they gave."""
    messages = [
        {"role": "user", "content": "cat"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 2}'}}
        ]},
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
    ]
    prompt = alone.model.tokenizer.encode_text("1/ucat/a(f:2)/t5/a")
    expected = alone.generate(prompt, max_new_tokens=4).text
    answer = post(tooled, messages=messages, tools=[TOOL], max_tokens=4)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": expected, "refusal": None}
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    none = alone.model.tokenizer.encode_text("/ucat/a")
    assert post(tooled, tools=[TOOL], tool_choice="none", max_tokens=1)["usage"]["prompt_tokens"] == len(none)


def test_tools_that_are_refused(server: Running, tooled: Running) -> None:
    assert "has no tools" in refusal(server, tools=[TOOL])["message"]
    for body, param in (
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
    ):
        assert refusal(tooled, **body)["param"] == param
