"""Texts that are made tokens by themselves, wherever they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.sw.models.tokenizer import Tokenizer
from hwgen.sw.models.tokenizer_files import load_tokenizer


@pytest.fixture
def tokenizer(chat_directory: Path) -> Tokenizer:
    return load_tokenizer(chat_directory)


def test_tokens_do_not_depend_on_what_is_around(tokenizer: Tokenizer) -> None:
    merged = tokenizer.decode([258])  # two bytes that became one token in training
    front, text = merged[0], f"{merged[1:]}pon (a) time"
    own = tokenizer.encode_text(text)
    around = tokenizer.encode_text(f"{front}{text}, {text}s", [text])
    assert around == [*tokenizer.encode_text(front), *own, *tokenizer.encode_text(", "), *own, *tokenizer.encode_text("s")]
    assert around != tokenizer.encode_text(f"{front}{text}, {text}s"), "a cut changes tokens"
    assert tokenizer.encode_text("abc", ["b", "abc"]) == tokenizer.encode_text("a") + tokenizer.encode_text("b") + (
        tokenizer.encode_text("c")
    )
    assert tokenizer.encode("abc", ["x"]) == tokenizer.encode("abc")
    begin = [] if tokenizer.begin is None else [tokenizer.begin]
    assert tokenizer.encode(f"a{text}", [text]) == [*begin, *tokenizer.encode_text("a"), *own]


def test_messages(tokenizer: Tokenizer) -> None:
    text = "cat sat"
    ids = tokenizer.encode_chat(f"The {text}.", [text])
    assert tokenizer.decode(ids) == tokenizer.decode(tokenizer.encode_chat(f"The {text}."))
    own, start = tokenizer.encode_text(text), len(tokenizer.usual_beginning)
    before = len(tokenizer.encode_text("The "))
    assert ids[start + before : start + before + len(own)] == own
    assert ids[:start] == tokenizer.usual_beginning == tokenizer.encode_chat("x")[:start]
