"""The small model with a chat template on the golden device, for tests of the Python interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwgen.sw.models.model import Model
from hwgen.sw.models.open import open_model
from hwgen.sw.runtime.llm import LLM

from ..conftest import CONFIG, SHAPE


@pytest.fixture(scope="module")
def model(chat_directory: Path) -> Model:
    return open_model(chat_directory, quantized=True)


@pytest.fixture(scope="module")
def llm(model: Model) -> LLM:
    pytest.importorskip("torch", reason="the golden model needs torch")
    return LLM(model, "golden", CONFIG, cache_tokens=4 * SHAPE.max_context)
