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
from hwgen.sw.models.config_json import MATRIX_PLACES, config_of, read_config
from hwgen.sw.models.families import family_of_config
from hwgen.sw.models.llama import load_weights, read_shape, save_llama
from hwgen.sw.models.open import open_model
from hwgen.sw.models.tensors import TensorFile, write_tensors
from hwgen.sw.models.tokenizer import Tokenizer
from hwgen.sw.models.tokenizer_files import load_tokenizer
from hwgen.weights import ModelWeights, dense, random_weights

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


def test_our_checkpoint_damaged(tmp_path: Path) -> None:
    """Parts of a matrix that do not fit together, and formats that no machine has."""
    save_llama(random_weights(SHAPE, 5, LLAMA, "int4"), tmp_path / "m", recipe="rtn")
    path, place = tmp_path / "m" / "model.safetensors", "model.layers.0.self_attn.q_proj"
    file = TensorFile(path)
    tensors = {name: (file.kind(name), file.stored(name)) for name in file.names()}
    kind, scales = tensors[f"{place}.weight_scales"]
    for change in ({"weight_scales": (kind, scales[:, :-1])}, {"weight_codes": ("F32", np.zeros((64, 32), np.float32))}):
        write_tensors(path, tensors | {f"{place}.{name}": value for name, value in change.items()})
        with pytest.raises(HwgenError, match="q_proj.weight_codes: "):
            load(tmp_path / "m")
    write_tensors(path, tensors)
    config = read_config(tmp_path / "m")
    config["quantization_config"]["kv"] = "k9v9"
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(HwgenError, match="config.json: kv must be one of .*, not 'k9v9'") as error:
        load(tmp_path / "m")
    assert error.value.fix == "quantise the model again"


def test_where_a_checkpoint_is_written(tmp_path: Path) -> None:
    """Into an empty directory, with its tokenizer; a file in the way of a directory is said, and nothing is left."""
    weights = random_weights(SHAPE, 5, LLAMA, "int4")
    inner = tokenizer_parts(SHAPE.vocab)[2]
    tokenizer = Tokenizer(inner, chat_template="{{ messages[0]['content'] }}é", names={"eos_token": "<|endoftext|>"})
    (tmp_path / "m").mkdir()
    save_llama(weights, tmp_path / "m", recipe="rtn", tokenizer=tokenizer, stop_tokens=(0,))
    model = open_model(tmp_path / "m")
    assert model.stop_tokens == (0,) and model.tokenizer.chat_template == tokenizer.chat_template
    for name in ("config.json", "tokenizer_config.json"):
        text = (tmp_path / "m" / name).read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n", "as transformers writes them"
    assert model.tokenizer.names == {"eos_token": "<|endoftext|>"}
    assert model.tokenizer.encode_chat("The cat") == tokenizer.encode_text("The caté")
    (tmp_path / "file").write_text("x")
    with pytest.raises(HwgenError, match="cannot be written: ") as error:
        save_llama(weights, tmp_path / "file" / "m", recipe="rtn")
    assert error.value.kind == "usage" and (tmp_path / "file").read_text() == "x"


def test_end_tokens_beyond_the_embedding(tmp_path: Path) -> None:
    weights, tokenizer = random_weights(SHAPE, 5, LLAMA, "int4"), Tokenizer(tokenizer_parts(SHAPE.vocab)[2])
    save_llama(weights, tmp_path / "m", recipe="rtn", tokenizer=tokenizer, stop_tokens=(0, 263))
    with pytest.raises(HwgenError, match="the end token 263 is no row of the embedding, which has 263") as error:
        open_model(tmp_path / "m")
    assert error.value.fix == "correct eos_token_id"


def test_names_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="'once upon a time once upon a time once u'... is no model: File name too long"):
        open_model("once upon a time " * 30)
    image = tmp_path / "m.hwimage"
    image.write_bytes(b"x")
    with pytest.raises(HwgenError, match="m.hwimage is a compiled model"):
        open_model(image)


def test_ternary_groups_in_a_directory(tmp_path: Path) -> None:
    """Floats that are ternary in groups are told from others when a directory is opened."""
    shape = replace(SHAPE, hidden=128, heads=8, ffn=256, layers=1)
    weights = random_weights(shape, 3, LLAMA, "grouped")
    tensors = {"model.embed_tokens.weight": weights.embedding, "model.norm.weight": weights.norm}
    for name, matrix in weights.layers[0].matrices.items():
        tensors[f"model.layers.0.{MATRIX_PLACES[name]}.weight"] = dense(matrix)
    tensors |= {f"model.layers.0.{name}.weight": gain for name, gain in weights.layers[0].norms.items()}
    write_tensors(tmp_path / "model.safetensors", {name: ("F32", values) for name, values in tensors.items()})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **config_of(shape)}))
    tokenizer_parts(SHAPE.vocab)[2].save(str(tmp_path / "tokenizer.json"))
    model = open_model(tmp_path)
    assert model.weights.engine == "grouped" and model.family.module == "grouped_llama"
    np.testing.assert_array_equal(model.weights.layers[0].matrices["q"].trits, weights.layers[0].matrices["q"].trits)
    with pytest.raises(HwgenError, match="is a ternary model with scales of groups; this command takes others"):
        open_model(tmp_path, engine="int4")


def test_the_tokenizer_goes_with_it(model_directory: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_directory)
    shape = replace(SHAPE, vocab=tokenizer.size)
    save_llama(random_weights(shape, 5, LLAMA, "int4"), tmp_path / "m", recipe="rtn", tokenizer=tokenizer, stop_tokens=(3,))
    again = open_model(tmp_path / "m")
    assert again.tokenizer.encode("the cat sat") == tokenizer.encode("the cat sat") and again.tokenizer.names == tokenizer.names
    assert again.stop_tokens == (3,)
