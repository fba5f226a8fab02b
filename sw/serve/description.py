"""The description of the server by OpenAPI, made of the models of its requests, and a page that shows it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from .protocol import ChatRequest, CompletionRequest, DetokenizeRequest, Strict, TokenizeRequest

__all__ = ["description", "page"]

_OBJECT: dict[str, Any] = {"type": "object"}
_WHOLE = {"type": "integer", "minimum": 0}
_CHOICE = {
    "type": "object",
    "required": ["index", "finish_reason"],
    "properties": {"index": _WHOLE, "finish_reason": {"enum": ["stop", "length", "tool_calls", None]}},
}
_USAGE = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), _WHOLE),
}


def _answer(kind: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage", "timings"],
        "properties": {
            "id": {"type": "string"}, "object": {"const": kind}, "created": _WHOLE, "model": {"type": "string"},
            "choices": {"type": "array", "items": _CHOICE}, "usage": _USAGE, "timings": _OBJECT,
        },
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"}, "type": {"type": "string"},
                "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]},
            },
        }
    },
}
_CARD = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "context_length"],
    "properties": {"id": {"type": "string"}, "object": {"const": "model"}, "created": _WHOLE, "context_length": _WHOLE},
}
_TOKENS = {
    "type": "object",
    "required": ["tokens", "count", "max_model_len"],
    "properties": {"tokens": {"type": "array", "items": _WHOLE}, "count": _WHOLE, "max_model_len": _WHOLE},
}

#: Paths that take a body: what it is, what comes back, what it does.
_POSTS: dict[str, tuple[type[Strict], dict[str, Any], str]] = {
    "/v1/chat/completions": (ChatRequest, _answer("chat.completion"), "Answer a conversation, whole or as server-sent events"),
    "/v1/completions": (CompletionRequest, _answer("text_completion"), "Continue texts, whole or as server-sent events"),
    "/tokenize": (TokenizeRequest, _TOKENS, "Token ids of a text or a conversation"),
    "/detokenize": (DetokenizeRequest, {**_OBJECT, "required": ["content"]}, "Text of token ids"),
}

#: Paths that take none: type and schema of what comes back, what it is.
_GETS: dict[str, tuple[str, dict[str, Any], str]] = {
    "/v1/models": ("application/json", {**_OBJECT, "required": ["data"]}, "The models of this server"),
    "/v1/models/{model}": ("application/json", _CARD, "One of them"),
    "/metrics": ("text/plain", {"type": "string"}, "Counters for Prometheus"),
    "/health": ("application/json", {**_OBJECT, "required": ["status"]}, "Whether the accelerator works; needs no key"),
    "/openapi.json": ("application/json", _OBJECT, "This description; needs no key"),
    "/docs": ("text/html", {"type": "string"}, "A page that shows it; needs no key"),
}

#: Paths that anyone may read.
_OPEN = ("/health", "/openapi.json", "/docs")

_REASONS = {
    400: "The request is wrong: error.param names the field", 401: "A valid API key is needed", 404: "There is no such model",
    408: "The request did not come in time", 413: "The request is too long", 415: "The content type is not application/json",
    429: "Too many requests wait", 500: "The answer failed", 501: "A package is missing on the server",
    503: "The accelerator failed, or the server is shutting down",
}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of an object in which null stands for any field that may be left out."""
    required = schema.get("required", ())
    properties = {
        name: value if name in required else {"anyOf": [value, {"type": "null"}]}
        for name, value in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties} if properties else schema


def _responses(kind: str, schema: Mapping[str, Any], statuses: tuple[int, ...], stream: bool = False) -> dict[str, Any]:
    content = {kind: {"schema": schema}}
    if stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    failed = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "200": {"description": "Done", "content": content},
        **{str(status): {"description": _REASONS[status], "content": failed} for status in statuses},
    }


def description(models: Sequence[str], needs_key: bool) -> dict[str, Any]:
    """OpenAPI 3.1 of a server of ``models``."""
    kinds: list[Any] = [(kind, "validation") for kind, _, _ in _POSTS.values()]
    _, defined = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    schemas = {name: _nullable(schema) for name, schema in defined["$defs"].items()}
    paths: dict[str, Any] = {}
    for path, (kind, answer, text) in _POSTS.items():
        body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}
        paths[path] = {
            "post": {
                "summary": text,
                "requestBody": {"required": True, "content": body},
                "responses": _responses(
                    "application/json", answer, (400, 401, 404, 408, 413, 415, 429, 500, 501, 503), path.startswith("/v1")
                ),
            }
        }
    for path, (content_type, answer, text) in _GETS.items():
        paths[path] = {"get": {"summary": text, "responses": _responses(content_type, answer, (400, 401, 404))}}
    paths["/v1/models/{model}"]["get"]["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}, "example": models[0]}
    ]
    paths["/health"]["get"]["responses"]["503"] = {
        "description": _REASONS[503], "content": {"application/json": {"schema": _OBJECT}}
    }
    out = {
        "openapi": "3.1.0",
        "info": {
            "title": f"hwgen serve: {', '.join(models)}", "version": "1",
            "description": "The OpenAI protocol before an accelerator.",
        },
        "paths": paths,
        "components": {"schemas": {**schemas, "Error": _ERROR}},
    }
    if needs_key:
        out["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}  # type: ignore[index]  # just made
        for path, methods in paths.items():
            if path not in _OPEN:
                for method in methods.values():
                    method["security"] = [{"key": []}]
    return out


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,pre{font:13px/1.4 ui-monospace,monospace}pre{overflow:auto;padding:.6rem;border:1px solid #8886;border-radius:6px}"
    "table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}summary{cursor:pointer}"
)


def _fields(schema: dict[str, Any]) -> str:
    rows = []
    for name, value in schema.get("properties", {}).items():
        legal = json.dumps({k: v for k, v in value.items() if k != "title"}, ensure_ascii=False)
        rows.append(f"<tr><td><code>{html.escape(name)}</code></td><td><code>{html.escape(legal)}</code></td></tr>")
    return f"<details><summary>Fields</summary><table>{''.join(rows)}</table></details>"


def page(described: dict[str, Any]) -> str:
    """A page for people: every path with what it takes, of one file, so that it can be read without a network."""
    parts = []
    for path, methods in described["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{html.escape(about['summary'])}</p>")
            if "requestBody" in about:
                name = about["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                parts.append(_fields(described["components"]["schemas"][name]))
    title = html.escape(described["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a></p>{"".join(parts)}</html>'
    )
