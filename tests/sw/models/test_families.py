"""The registry: every row works, and answers for its own files alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models.config_json import config_of
from hwgen.sw.models.families import FAMILIES, Family, family_of_config, family_of_gguf, grouped_family
from hwgen.sw.models.open import open_model
from hwgen.weights import random_weights

from .llama_files import SHAPE

#: Inputs of every matrix are whole groups.
WIDE = replace(SHAPE, hidden=128, heads=8, ffn=256)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_row_and_its_module(family: Family) -> None:
    for kind in family.model_types:
        wanted = {"sliding_window": None, "original_max_position_embeddings": SHAPE.max_context}
        config = {"model_type": kind, **wanted, **config_of(SHAPE)}
        if family.engine == "ternary" and family.quantization is not None:
            config["quantization_config"] = {"quant_method": family.quantization}
        found = family_of_config(config)
        assert (grouped_family(found) if family.engine == "grouped" else found) is family
        assert family.loader().read_shape(config) == SHAPE
    assert all(family_of_gguf(name, family.engine) is family for name in family.gguf)
    shape = SHAPE if family.engine != "grouped" else WIDE
    weights = random_weights(shape, 1, family.layer, family.engine)
    again = family.loader().assemble(
        shape, list(weights.layers), weights.norm, weights.embedding, weights.head, layer=family.layer
    )
    assert again.layer is family.layer and again.engine == family.engine


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_float_references(family: Family) -> None:
    torch = pytest.importorskip("torch")
    shape = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=20, activation="silu")
    shape = shape if family.engine != "grouped" else replace(WIDE, layers=1, vocab=20)
    logits = family.float_reference(random_weights(shape, 1, family.layer, family.engine))(torch.tensor([[1, 2, 3]]))
    assert logits.shape == (1, 3, 20) and logits.std() > 0


def test_the_architecture_goes_before_the_model_type() -> None:
    assert family_of_config({"model_type": "llama", "architectures": ["BitnetForCausalLM"]}).name == "bitnet"
    assert family_of_config({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}).name == "llama"
    assert family_of_gguf("gpt2") is None


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(HwgenError, match="model_type is 'gpt2'; supported: 'bitnet', 'bitnet_b1_58', 'llama'") as caught:
        open_model(tmp_path)
    assert caught.value.kind == "architecture"
