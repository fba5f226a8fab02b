"""Documents of a server: what a prompt has of them is taken over, wherever it stands, and everything else stays as it is."""

from __future__ import annotations

from pathlib import Path

from hwgen.sw.runtime.llm import LLM

from .conftest import new_service, serving

TEXT = "The cat sat on a hat. "


def test_prompts_that_have_a_document(chat_directory: Path, alone: LLM) -> None:
    service = new_service(chat_directory)
    tokens = len(service.llm.document(TEXT).tokens)
    messages = [{"role": "user", "content": f"Once {TEXT}Who?"}]
    with serving(service) as server:
        ask = {"model": "chatty", "max_tokens": 4}
        chat = server.client.chat.completions.create(messages=messages, **ask)  # type: ignore[call-overload]  # by name
        text = server.client.completions.create(prompt=f"a{TEXT}b", **ask)  # type: ignore[call-overload]  # by name
        for reply in (chat, text):
            taken = reply.usage.prompt_tokens_details.cached_tokens
            assert 0 < taken < reply.usage.prompt_tokens and taken >= 0.5 * tokens
        other = server.client.completions.create(prompt="a cat", **ask)  # type: ignore[call-overload]  # by name
        assert other.choices[0].text == alone.generate("a cat", max_new_tokens=4).text
        service.llm.documents.recompute = 1.0
        exact = server.client.chat.completions.create(messages=messages, **ask)  # type: ignore[call-overload]  # by name
        whole = alone.model.tokenizer.encode_messages(messages, whole=[TEXT])
        assert exact.choices[0].message.content == alone.generate(whole, max_new_tokens=4).text
        server.wait_idle()
