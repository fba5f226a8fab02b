"""A small random model, on disk and compiled, for the tests of the host."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hwgen.config import BuildConfig
from hwgen.shape import ModelShape
from hwgen.sw.models.bitnet import save_model
from hwgen.sw.training.documents import train_tokenizer
from hwgen.weights import ModelWeights, random_weights

#: Odd on purpose: hidden and ffn are no multiples of a vector, a slice or four rows; grouped queries.
SHAPE = ModelShape(hidden=45, layers=2, heads=3, kv_heads=1, head_dim=16, ffn=83, vocab=259, max_context=64)
CONFIG = BuildConfig(name="small", max_context=128)

#: Chat template of the small model.
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('role') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="session")
def weights() -> ModelWeights:
    return random_weights(SHAPE, seed=3)


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory, weights: ModelWeights) -> Path:
    """The model in Hugging Face layout with a byte-level tokenizer."""
    path = tmp_path_factory.mktemp("models") / "small"
    tokenizer_file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = train_tokenizer(["Once upon a time there was a cat. The cat sat."], SHAPE.vocab)
    tokenizer.save(str(tokenizer_file))  # type: ignore[attr-defined]
    save_model(weights, path, tokenizer_file, end_token=0)
    return path


@pytest.fixture(scope="session")
def chat_directory(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a chat template."""
    path = tmp_path_factory.mktemp("chat") / "chatty"
    shutil.copytree(model_directory, path)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return path
