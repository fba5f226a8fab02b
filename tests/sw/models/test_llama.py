"""Hugging Face checkpoints of llama models: those of transformers, and our own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwgen.decoder import LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.golden.float_llama import FloatLlama
from hwgen.sw.models.config_json import read_config
from hwgen.sw.models.families import family_of_config
from hwgen.sw.models.llama import load_weights, read_shape, save_llama
from hwgen.sw.models.open import open_model
from hwgen.sw.models.tokenizer_files import load_tokenizer
from hwgen.weights import ModelWeights, random_weights

from .llama_files import SHAPE, tokenizer_parts, transformers_model


def load(directory: Path) -> ModelWeights:
    config = read_config(directory)
    return load_weights(directory, config, read_shape(config))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_checkpoint(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers_model(random_weights(replace(SHAPE, tied=tied), 3, LLAMA, "int4")).to(dtype).save_pretrained(tmp_path)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    weights = load(tmp_path)
    assert weights.shape == replace(SHAPE, tied=tied, rms_eps=weights.shape.rms_eps)
    tokens = torch.from_numpy(np.random.default_rng(3).integers(0, SHAPE.vocab, (2, 40)))
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(FloatLlama(weights)(tokens), expected, rtol=1e-4, atol=1e-4)
    tokenizer_parts(SHAPE.vocab)[2].save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    loaded = open_model(tmp_path)
    assert loaded.name == tmp_path.name
    assert loaded.tokenizer.decode(loaded.tokenizer.encode_chat("The cat")).endswith("The cat!")


@pytest.mark.parametrize(("symmetric", "group", "tied"), [(True, 64, True), (False, 32, False)])
def test_our_checkpoint_keeps_every_bit(symmetric: bool, group: int, tied: bool, tmp_path: Path) -> None:
    weights = random_weights(replace(SHAPE, tied=tied), 5, LLAMA, "int4", group=group, symmetric=symmetric, kv="k4v4", query="e4m3")
    save_llama(weights, tmp_path / "m", recipe="rtn", stop_tokens=(3, 5))
    again = load(tmp_path / "m")
    assert again.shape == weights.shape and (again.kv, again.query) == ("k4v4", "e4m3")
    for a, b in zip(weights.layers, again.layers, strict=True):
        for name, x in a.matrices.items():
            y = b.matrices[name]
            assert x.group == y.group and x.symmetric == y.symmetric
            for part in ("codes", "scales", "midpoints", "row_scale"):
                np.testing.assert_array_equal(getattr(x, part), getattr(y, part))
    np.testing.assert_array_equal(again.embedding, weights.embedding)
    np.testing.assert_array_equal(again.head_rows, weights.head_rows)
    assert list(tmp_path.iterdir()) == [tmp_path / "m"]  # nothing temporary stays
    with pytest.raises(HwgenError, match="exists and is not empty"):
        save_llama(weights, tmp_path / "m", recipe="rtn")


@pytest.mark.parametrize("layer", [LLAMA, QWEN2, QWEN3], ids=lambda layer: layer.name)
def test_our_checkpoints_of_other_layers(layer: DecoderLayer, tmp_path: Path) -> None:
    shape = replace(SHAPE, rope_scale=1.25, unrotated=(1,) if layer is LLAMA else ())
    weights = random_weights(shape, 6, layer, "int4")
    save_llama(weights, tmp_path / "m", recipe="rtn")
    config = read_config(tmp_path / "m")
    family = family_of_config(config)
    again = family.loader().load_weights(
        tmp_path / "m", config, family.loader().read_shape(config), family.layer, lambda text: None
    )
    assert again.shape == shape and again.layer is layer
    for a, b in zip(weights.layers, again.layers, strict=True):
        for part in ("norms", "biases"):
            for name, values in getattr(a, part).items():
                np.testing.assert_array_equal(getattr(b, part)[name], values)


@pytest.mark.parametrize(("change", "kind", "words"), [
    ({"rope_scaling": {"rope_type": "ntk", "factor": 8.0}}, "architecture", "rope_type is 'ntk'"),
    ({"attention_bias": True}, "architecture", "attention_bias is True"),
    ({"hidden_act": "gelu"}, "architecture", "hidden_act is 'gelu'; supported: 'silu'"),
    ({"quantization_config": {"quant_method": "fp8"}}, "architecture", "quant_method is 'fp8'; supported: 'hwgen_int4', 'gptq'"),
    ({"quantization_config": {"quant_method": "gptq"}}, "architecture", "quantization_config.bits is None; supported: 4"),
    ({"num_attention_heads": 8}, "checkpoint", "(128, 64) expected"),
    ({"hidden_size": None}, "architecture", "no hidden_size"),
])
def test_refused(change: dict[str, Any], kind: str, words: str, tmp_path: Path) -> None:
    save_llama(random_weights(SHAPE, 5, LLAMA, "int4"), tmp_path / "m", recipe="rtn")
    path = tmp_path / "m" / "config.json"
    config = {k: v for k, v in (json.loads(path.read_text()) | change).items() if v is not None}
    path.write_text(json.dumps(config))
    with pytest.raises(HwgenError) as error:
        open_model(tmp_path / "m") if kind == "architecture" else load(tmp_path / "m")
    assert error.value.kind == kind and words in str(error.value)


def test_float_model_cannot_be_saved(tmp_path: Path) -> None:
    weights = random_weights(SHAPE, 5, LLAMA, "int4")
    layer = weights.layers[0].with_matrices({"q": weights.layers[0].matrices["q"].dense()})
    with pytest.raises(ValueError, match="layer 0 q must be an Int4Matrix"):
        save_llama(replace(weights, layers=(layer, weights.layers[1])), tmp_path / "m", recipe="rtn")
    assert not (tmp_path / "m").exists()


def test_the_tokenizer_goes_with_it(model_directory: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_directory)
    shape = replace(SHAPE, vocab=tokenizer.size)
    save_llama(random_weights(shape, 5, LLAMA, "int4"), tmp_path / "m", recipe="rtn", tokenizer=tokenizer, stop_tokens=(3,))
    again = open_model(tmp_path / "m")
    assert again.tokenizer.encode("the cat sat") == tokenizer.encode("the cat sat") and again.tokenizer.names == tokenizer.names
    assert again.stop_tokens == (3,)
