"""The Python interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen import LLM

from ..conftest import CONFIG, SHAPE


def test_llm(model_directory: Path) -> None:
    pytest.importorskip("torch")
    llm = LLM(model_directory, device="golden", board=CONFIG)
    answer = llm.generate("the cat", max_new_tokens=6)
    pieces = list(answer)
    assert "".join(pieces) == answer.text == str(answer)
    assert answer.text == llm.model.tokenizer.decode(answer.generation.tokens)
    assert llm.generate(llm.model.tokenizer.encode("the cat"), max_new_tokens=6).text == answer.text
    assert llm.engine.image.shape == SHAPE
