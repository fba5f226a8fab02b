"""BitNet checkpoints: what is read, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET, LLAMA
from hwgen.errors import HwgenError
from hwgen.formats import pack_bf16, widen_bf16
from hwgen.shape import ModelShape
from hwgen.sw.models import bitnet
from hwgen.sw.models.bitnet import GAIN_PLACES, pack_trits, read_shape, save_model, unpack_trits, weights_from_state
from hwgen.sw.models.config_json import MATRIX_PLACES, config_of, read_config
from hwgen.sw.models.library import find_model
from hwgen.sw.models.open import open_model
from hwgen.sw.models.tensors import TensorFile, write_tensors
from hwgen.ternary import quantize_ternary
from hwgen.weights import ModelWeights, random_weights

from ..conftest import SHAPE
from .llama_files import SHAPE as LLAMA_SHAPE


def load_weights(directory: Path) -> ModelWeights:
    config = read_config(directory)
    return bitnet.load_weights(directory, config, read_shape(config))


def assert_same(a: ModelWeights, b: ModelWeights) -> None:
    assert a.shape == b.shape
    for x, y in zip(a.layers, b.layers, strict=True):
        assert x.matrices.keys() == y.matrices.keys() and x.norms.keys() == y.norms.keys()
        for name, matrix in x.matrices.items():
            np.testing.assert_array_equal(matrix.trits, y.matrices[name].trits)
            assert matrix.scale == y.matrices[name].scale
        for name, gain in x.norms.items():
            np.testing.assert_array_equal(gain, y.norms[name])
    np.testing.assert_array_equal(a.norm, b.norm)
    np.testing.assert_array_equal(a.embedding, b.embedding)
    np.testing.assert_array_equal(a.head_rows, b.head_rows)


@pytest.fixture
def edit(model_directory: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model with changed fields of config.json (None removes one)."""

    def change(**fields: Any) -> Path:
        path = tmp_path / "edited"
        shutil.copytree(model_directory, path, dirs_exist_ok=True)
        config = json.loads((path / "config.json").read_text()) | fields
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return path

    return change


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 83])
def test_packing_is_that_of_transformers(rows: int) -> None:
    bitnet = pytest.importorskip("transformers.integrations.bitnet")
    import torch

    trits = np.random.default_rng(rows).integers(-1, 2, (rows, 6), dtype=np.int8)
    packed = pack_trits(trits)
    np.testing.assert_array_equal(unpack_trits(packed, rows), trits)
    if rows >= 4:  # transformers itself drops rows of smaller matrices
        np.testing.assert_array_equal(packed, bitnet.pack_weights(torch.from_numpy(trits.copy())).numpy())


def test_packed_checkpoint(model_directory: Path, weights: ModelWeights) -> None:
    model = open_model(model_directory)
    assert_same(model.weights, weights)
    assert model.stop_tokens == (0,)
    assert model.tokenizer.encode("cat")[0] == 0
    assert model.tokenizer.decode(model.tokenizer.encode("the cat sat")) == "the cat sat"


def test_the_class_decides_what_the_scale_means(edit: Callable[..., Path], weights: ModelWeights) -> None:
    path = edit(quantization_config={"quant_method": "bitnet", "linear_class": "bitlinear"})
    scale = load_weights(path).layers[1].matrices["down"].scale
    assert scale == float(np.float32(1) / np.float32(weights.layers[1].matrices["down"].scale))
    with pytest.raises(HwgenError, match="no quantization_config"):
        load_weights(edit(quantization_config=None))


def float_checkpoint(path: Path, shape: ModelShape, config: dict[str, Any], old_names: bool) -> dict[str, np.ndarray]:
    """bfloat16 master weights, with the gain names of bitnet_b1_58-large if ``old_names``."""
    rng = np.random.default_rng(5)
    values: dict[str, np.ndarray] = {}
    for i in range(shape.layers):
        for name, size in BITNET.matrices(shape).items():
            values[f"model.layers.{i}.{MATRIX_PLACES[name]}.weight"] = rng.normal(0, 0.1, size)
        for name, count in BITNET.norms(shape).items():
            values[f"model.layers.{i}.{GAIN_PLACES[name][-1 if old_names else 0]}.weight"] = rng.uniform(
                0.5, 1.5, count
            )
    values["model.norm.weight"] = rng.uniform(0.5, 1.5, shape.hidden)
    values["model.embed_tokens.weight"] = rng.normal(0, 1, (shape.vocab, shape.hidden))
    if not shape.tied:
        values["lm_head.weight"] = rng.normal(0, 1, (shape.vocab, shape.hidden))
    bits = {name: pack_bf16(v.astype(np.float32)) for name, v in values.items()}
    path.mkdir(exist_ok=True)
    write_tensors(path / "model.safetensors", {name: ("BF16", v) for name, v in bits.items()})
    (path / "config.json").write_text(json.dumps(config))
    return {name: widen_bf16(v) for name, v in bits.items()}


def test_float_masters_of_the_large_layout(tmp_path: Path) -> None:
    """bitnet_b1_58-large: a llama by model_type, SiLU, as many key as query heads, its own norm names."""
    shape = ModelShape(
        hidden=32,
        layers=2,
        heads=2,
        kv_heads=2,
        head_dim=16,
        ffn=48,
        vocab=11,
        activation="silu",
        max_context=2048,
        tied=False,
    )
    config = {
        "model_type": "llama",
        "architectures": ["BitnetForCausalLM"],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 11,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    }
    masters = float_checkpoint(tmp_path / "large", shape, config, old_names=True)
    weights = load_weights(tmp_path / "large")
    assert weights.shape == shape
    for i, layer in enumerate(weights.layers):
        for name, matrix in layer.matrices.items():
            expected = quantize_ternary(masters[f"model.layers.{i}.{MATRIX_PLACES[name]}.weight"])
            np.testing.assert_array_equal(matrix.trits, expected.trits)
            assert matrix.scale == expected.scale
        np.testing.assert_array_equal(layer.norms["attn_sub_norm"], masters[f"model.layers.{i}.self_attn.inner_attn_ln.weight"])
        np.testing.assert_array_equal(layer.norms["ffn_sub_norm"], masters[f"model.layers.{i}.mlp.ffn_layernorm.weight"])
    np.testing.assert_array_equal(weights.head_rows, masters["lm_head.weight"])


def test_quantisation_is_that_of_the_reference() -> None:
    reference = pytest.importorskip("hwgen.golden.float_bitnet")
    import torch

    master = np.random.default_rng(7).normal(0, 0.3, (40, 64)).astype(np.float32)
    trits, scale = reference.quantize_weight(torch.from_numpy(master))
    own = quantize_ternary(master)
    np.testing.assert_array_equal(own.trits, trits.numpy())
    assert own.scale == pytest.approx(scale.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, r"model_type is 'gpt2'; supported: 'bitnet'"),
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'; supported: 'relu2' or 'silu'"),
        ({"attention_bias": True}, r"attention_bias is True; supported: false"),
        ({"rope_scaling": {"rope_type": "ntk"}}, r"rope_type is 'ntk'; supported: 'default', 'linear', 'llama3'"),
        ({"intermediate_size": None}, r"has no intermediate_size"),
        ({"num_key_value_heads": 2}, r"heads must be a multiple of kv_heads"),
        ({"hidden_size": "wide"}, r"hidden must be a positive integer"),
        ({"quantization_config": {"linear_class": "other"}}, r"linear_class is 'other'; supported: 'bitlinear'"),
    ],
)
def test_unsupported_architecture(edit: Callable[..., Path], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(HwgenError, match=message) as caught:
        open_model(edit(**fields))
    assert caught.value.kind == "architecture" and caught.value.fix


def test_missing_files(edit: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="neither a directory nor a shipped model"):
        open_model("no-such-model")
    with pytest.raises(HwgenError) as found:
        open_model("storeis")
    assert found.value.fix.startswith("did you mean stories? ")
    with pytest.raises(HwgenError, match="neither a directory"):
        find_model(tmp_path / "nowhere")
    path = edit()
    with pytest.raises(HwgenError, match="is a file"):
        open_model(path / "config.json")
    (path / "tokenizer.json").unlink()
    with pytest.raises(HwgenError, match=r"tokenizer\.json is missing") as caught:
        open_model(path)
    assert caught.value.kind == "tokenizer"
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(HwgenError, match="cannot be read") as caught:
        open_model(path)
    assert caught.value.kind == "tokenizer"
    (path / "model.safetensors").unlink()
    with pytest.raises(HwgenError, match=r"no \*\.safetensors file"):
        load_weights(path)
    (path / "config.json").unlink()
    with pytest.raises(HwgenError, match=r"config\.json is missing"):
        open_model(path)


def test_truncated_checkpoint(edit: Callable[..., Path]) -> None:
    path = edit()
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(HwgenError, match="truncated") as caught:
        open_model(path)
    assert caught.value.kind == "checkpoint"


def test_weights_of_another_shape(edit: Callable[..., Path]) -> None:
    with pytest.raises(HwgenError, match="has shape"):
        load_weights(edit(intermediate_size=84 + 4))
    with pytest.raises(HwgenError, match=r"no tensor model\.layers\.2\."):
        load_weights(edit(num_hidden_layers=3))


def test_digit_that_is_no_trit(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="digit 3"):
        unpack_trits(np.array([[0b11]], np.uint8), 4)


def test_shape_of_2b4t() -> None:
    shape = read_shape(
        {
            "model_type": "bitnet",
            "hidden_size": 2560,
            "num_hidden_layers": 30,
            "num_attention_heads": 20,
            "num_key_value_heads": 5,
            "intermediate_size": 6912,
            "vocab_size": 128256,
            "hidden_act": "relu2",
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
            "tie_word_embeddings": True,
        }
    )
    assert (shape.head_dim, shape.kv_heads, shape.rope_theta, shape.tied) == (128, 5, 500000.0, True)


def test_a_field_that_is_missing_is_the_default_of_the_class() -> None:
    sizes = {"hidden_size": 100, "num_hidden_layers": 2, "num_attention_heads": 10, "intermediate_size": 30, "vocab_size": 50}
    shape = read_shape({"model_type": "bitnet", **sizes})
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.max_context) == (5, 10, False, 2048)
    assert (shape.activation, shape.rope_theta, shape.rms_eps) == ("relu2", 500000.0, 1e-5)
    assert read_shape({"model_type": "bitnet", **sizes, "is_decoder": False}) == shape, "transformers 4 writes it for decoders, too"
    with pytest.raises(HwgenError, match="is_decoder is 'no'"):
        read_shape({"model_type": "bitnet", **sizes, "is_decoder": "no"})
    shape = read_shape({"model_type": "bitnet_b1_58", **sizes})
    assert (shape.kv_heads, shape.activation, shape.rope_theta, shape.rms_eps, shape.tied) == (10, "silu", 10000.0, 1e-6, False)


def test_untied_head_survives(tmp_path: Path) -> None:
    untied = random_weights(ModelShape(**{**SHAPE.to_dict(), "tied": False}), seed=4)  # type: ignore[arg-type]
    save_model(untied, tmp_path / "new" / "m", end_token=7)
    assert_same(load_weights(tmp_path / "new" / "m"), untied)
    save_model(untied, tmp_path / "new" / "m")  # over itself
    save_model(untied, tmp_path / "new" / "n", end_token=7)
    texts = [(tmp_path / "new" / name).read_text() for name in ("n/config.json", "n/generation_config.json", "m/config.json")]
    assert all(text == json.dumps(json.loads(text), indent=2) + "\n" for text in texts), "as transformers writes them"
    ends = [[json.loads(text)[f"{name}_token_id"] for name in ("bos", "eos")] for text in texts]
    assert ends == [[7, 7], [7, 7], [None, None]] and json.loads(texts[1])["do_sample"] is False
    assert json.loads(texts[0])["attention_bias"] is False


def test_transformers_reads_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from hwgen.golden.float_bitnet import float_model

    # unpacking is compiled otherwise, which takes a minute; torch forgets the option once another test has set it back
    monkeypatch.setattr("torch._dynamo.config.disable", True, raising=False)
    shape = ModelShape(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=50, max_context=32)
    weights = random_weights(shape, seed=5)
    save_model(weights, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, float_model(weights)(tokens), rtol=1e-3, atol=1e-3)


def retensor(path: Path, **changed: tuple[str, np.ndarray]) -> None:
    """Other tensors in place of those of the first query projection (``weight``, ``weight_scale``) or the embedding."""
    file = TensorFile(path / "model.safetensors")
    tensors = {name: (file.kind(name), file.stored(name)) for name in file.names()}
    places = {"embedding": "model.embed_tokens.weight"}
    tensors |= {places.get(n, f"model.layers.0.self_attn.q_proj.{n}"): value for n, value in changed.items()}
    write_tensors(path / "model.safetensors", tensors)


def test_ternary_floats_with_a_scale(edit: Callable[..., Path], weights: ModelWeights) -> None:
    """Digits may be stored as floats beside their scale; floats that are no digits may not."""
    path, matrix = edit(), weights.layers[0].matrices["q"]
    retensor(path, weight=("F32", matrix.trits.astype(np.float32)))
    assert_same(load_weights(path), weights)
    for spoilt in (0.5, 2.0, -2.0, -3.0):
        values = matrix.trits.astype(np.float32)
        values[1, 2] = spoilt
        retensor(path, weight=("F32", values))
        with pytest.raises(HwgenError, match="q_proj.weight has a weight_scale, but its values are not ternary"):
            load_weights(path)


def test_masters_where_digits_are_said(edit: Callable[..., Path], weights: ModelWeights) -> None:
    """Floats without a scale, in a checkpoint whose config.json says digits."""
    path, matrix = edit(), weights.layers[0].matrices["q"]
    retensor(path, weight=("F32", matrix.dense()))
    file = TensorFile(path / "model.safetensors")
    kept = [name for name in file.names() if not name.endswith("layers.0.self_attn.q_proj.weight_scale")]
    write_tensors(path / "model.safetensors", {name: (file.kind(name), file.stored(name)) for name in kept})
    with pytest.raises(HwgenError, match="q_proj.weight has float masters, but config.json says quantization_mode 'offline'"):
        load_weights(path)


@pytest.mark.parametrize("scale", [[0.0], [-1.0], [1.0, 2.0], [], [1e-45]])
@pytest.mark.parametrize("linear", ["bitlinear", "autobitlinear"])
def test_a_scale_is_one_positive_number(linear: str, scale: list[float], edit: Callable[..., Path]) -> None:
    """1e-45 is one, but no float32 is its inverse."""
    path = edit(quantization_config={"quant_method": "bitnet", "linear_class": linear})
    retensor(path, weight_scale=("F32", np.array(scale, np.float32)))
    with pytest.raises(HwgenError, match="q_proj.weight_scale must be one positive number"):
        load_weights(path)


def test_the_smallest_scale(edit: Callable[..., Path]) -> None:
    """2^-126, whose inverse is finite; what is 0 for the machine, which has no numbers below 2^-125, is refused."""
    for linear, stored, expected in (
        ("bitlinear", 2.0**-126, 2.0**126), ("autobitlinear", 2.0**-126, 0.0), ("autobitlinear", 2.0**-125, 2.0**-125),
        ("bitlinear", 2.0**125, 2.0**-125), ("bitlinear", 2.0**126, 0.0), ("bitlinear", 2.0**-127, 0.0),
    ):
        path = edit(quantization_config={"quant_method": "bitnet", "linear_class": linear})
        retensor(path, weight_scale=("F32", np.array([stored], np.float32)))
        if expected:
            assert load_weights(path).layers[0].matrices["q"].scale == expected
            continue
        with pytest.raises(HwgenError, match="weight_scale must be one positive number"):
            load_weights(path)


def test_an_embedding_beyond_bfloat16(edit: Callable[..., Path], weights: ModelWeights) -> None:
    path, table = edit(), weights.embedding.copy()
    table[3, 5] = np.finfo(np.float32).max
    retensor(path, embedding=("F32", table))
    with pytest.raises(HwgenError, match="embedding has values beyond the range of bfloat16"):
        load_weights(path)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_of_a_training(tied: bool, tmp_path: Path) -> None:
    """The state of a training makes the model that its float checkpoint makes."""
    shape = ModelShape(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=11, max_context=64, tied=tied)
    config = {"model_type": "bitnet", **config_of(shape)}
    masters = float_checkpoint(tmp_path, shape, config, old_names=False)
    assert_same(weights_from_state(shape, masters), load_weights(tmp_path))


def test_only_ternary_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer 0 q must be a TernaryMatrix, not Int4Matrix"):
        save_model(random_weights(LLAMA_SHAPE, 1, LLAMA, "int4"), tmp_path / "m")
    assert not (tmp_path / "m" / "model.safetensors").exists()
