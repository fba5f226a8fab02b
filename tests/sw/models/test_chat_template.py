"""What templates get, as transformers gives it them."""

from __future__ import annotations

import pytest

from hwgen.sw.models.chat_template import render_chat


@pytest.mark.parametrize(("template", "text"), [
    ("{{ messages[0] | tojson }}", '{"role": "ü", "content": "<b>"}'),  # as it is, and in its order
    ("{{ messages[0] | tojson(indent=1) }}", '{\n "role": "ü",\n "content": "<b>"\n}'),
    ("{{ messages[0] | tojson(ensure_ascii=true, sort_keys=true) }}", '{"content": "<b>", "role": "\\u00fc"}'),
    ("{% if true %}\n  {% if true %}\na{% endif %}{% endif %}", "a"),  # lines of blocks alone leave nothing
    ("{% generation %}{{ messages[0].role }}{% endgeneration %}!", "ü!"),
    ("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ bos_token }}", "True True True <s>"),
    ("{{ strftime_now('%%') }}", "%"),
])
def test_what_a_template_gets(template: str, text: str) -> None:
    assert render_chat(template, [{"role": "ü", "content": "<b>"}], {"bos_token": "<s>"}) == text


def test_tools() -> None:
    assert render_chat("{{ tools[0].name }}", [], {}, [{"name": "f"}]) == "f"
