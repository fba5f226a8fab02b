"""Chat templates, rendered in the environment that transformers gives them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ...errors import HwgenError
from ...packages import needs

__all__ = ["render_chat"]


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """jinja's own ``tojson`` writes for HTML pages and escapes what is none."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what the model says, for training; it renders as what is inside."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:  # templates call it for roles that they do not know
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)


def render_chat(
    template: str, messages: Sequence[Mapping[str, Any]], names: Mapping[str, str], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The text of a conversation, ready for the answer. ``names``: special tokens by name, such as ``bos_token``; ``tools``: what
    the model may call, as the OpenAI protocol describes it.
    """
    with needs("a chat template", "hwgen[chat]"):
        from jinja2 import TemplateError, TemplateSyntaxError
    try:
        return str(_compile(template).render(
            messages=[dict(message) for message in messages], tools=list(tools) or None, documents=None,
            add_generation_prompt=True, **names
        ))
    except TemplateSyntaxError as error:
        raise HwgenError(
            "tokenizer", f"the chat template cannot be read: {error.message} (line {error.lineno})", "run without --chat"
        ) from error
    except TemplateError as error:
        raise HwgenError(
            "tokenizer", f"the chat template refuses the messages: {error}", "change roles or order of the messages"
        ) from error
    except Exception as error:  # a template is a program: it can divide by zero, or add a number to a text
        raise HwgenError(
            "tokenizer", f"the chat template fails: {type(error).__name__}: {error}", "change the messages, or run without --chat"
        ) from error
