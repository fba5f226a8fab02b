"""Ternary models with scales of groups, in the files that they are published in: as floats, and in the blocks of GGUF."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.decoder import QWEN3
from hwgen.errors import HwgenError
from hwgen.grouped import SCALES, GroupedMatrix
from hwgen.numerics import GROUP
from hwgen.sw.models.config_json import config_of
from hwgen.sw.models.families import family_of_config, grouped_family
from hwgen.sw.models.grouped_llama import is_grouped
from hwgen.sw.models.llama import GAIN_PLACES
from hwgen.sw.models.open import open_model
from hwgen.sw.models.tensors import TensorSet, write_tensors
from hwgen.weights import LayerWeights, ModelWeights, random_weights

from .llama_files import HF, SHAPE, TENSORS, write_gguf

WIDE = replace(SHAPE, hidden=128, heads=8, ffn=256)


def half(weights: ModelWeights) -> ModelWeights:
    """The same model with scales of half precision, which is what files have."""

    def rounded(matrix: GroupedMatrix) -> np.ndarray:
        scale = (SCALES[matrix.codes] * np.float32(matrix.scale)).astype(np.float16).astype(np.float32)
        return matrix.trits * np.repeat(scale, GROUP, axis=1)

    layers = [layer.with_matrices({n: rounded(m) for n, m in layer.matrices.items()}) for layer in weights.layers]
    return replace(weights, layers=tuple(layers), grouped_head=None)


@pytest.fixture(scope="module")
def model() -> ModelWeights:
    """Ternary matrices as floats."""
    return half(random_weights(WIDE, 3, QWEN3, "grouped"))


def q2_0(values: np.ndarray, block: int) -> np.ndarray:
    """d of half precision, then four codes a byte, 0 to 2 for -1 to 1, the first in the low bits."""
    groups = values.reshape(-1, block)
    d = np.abs(groups).max(axis=1)
    codes = (np.sign(groups) + 1).astype(np.uint8).reshape(len(groups), -1, 4)
    packed = sum(codes[..., j] << 2 * j for j in range(4)).astype(np.uint8)
    return np.concatenate((d.astype(np.float16).view(np.uint8).reshape(-1, 2), packed), axis=1)


def check(weights: ModelWeights, expected: ModelWeights) -> None:
    """Trits and layers as they are, every scale within the step of its code."""
    assert weights.engine == "grouped" and weights.layer is QWEN3
    for layer, wanted in zip(weights.layers, expected.layers, strict=True):
        for name, matrix in layer.matrices.items():
            dense, values = matrix.dense(), wanted.matrices[name]
            np.testing.assert_array_equal(np.sign(dense), np.sign(values))
            assert np.abs(dense - values).max() <= np.abs(values).max() / 127
        for name, gain in layer.norms.items():
            np.testing.assert_array_equal(gain, wanted.norms[name])


@pytest.mark.parametrize(("number", "block"), [(42, 64), (42, 128), (142, 128)])
def test_gguf_blocks(number: int, block: int, model: ModelWeights, tmp_path: Path) -> None:
    stored = {
        f"blk.{i}.{place}.weight": (number, q2_0(layer.matrices[name], block))
        for i, layer in enumerate(model.layers) for name, place in TENSORS.items()
    }
    write_gguf(tmp_path / "m.gguf", model, "F16", stored=stored, arch="qwen3", interleaved=False)
    weights = open_model(tmp_path / "m.gguf").weights
    check(weights, model)
    assert weights.grouped_head is not None
    np.testing.assert_array_equal(weights.grouped_head.trits, np.sign(model.embedding))
    assert np.abs(weights.grouped_head.dense() - model.embedding).max() <= np.abs(model.embedding).max() / 127


def test_gguf_floats(model: ModelWeights, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", model, "F16", arch="qwen3", interleaved=False)
    check(open_model(tmp_path / "m.gguf").weights, model)


def test_safetensors_of_floats(model: ModelWeights, tmp_path: Path) -> None:
    """Nothing in config.json says it: the weights do. A whole magnitude more in one group, and it is an ordinary model."""
    tensors = {"model.embed_tokens.weight": model.embedding, "model.norm.weight": model.norm}
    for i, layer in enumerate(model.layers):
        tensors |= {f"model.layers.{i}.{HF[name]}.weight": matrix for name, matrix in layer.matrices.items()}
        tensors |= {f"model.layers.{i}.{GAIN_PLACES.get(n, (n,))[0]}.weight": gain for n, gain in layer.norms.items()}
    config = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **config_of(WIDE)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    path = tmp_path / "model.safetensors"
    write_tensors(path, {name: ("F32", np.asarray(values, np.float32)) for name, values in tensors.items()})
    files = TensorSet(tmp_path)
    assert is_grouped(files) and files.unread() == files.names()
    family = grouped_family(family_of_config(config))
    assert family is not None and family.layer is QWEN3
    loader = family.loader()
    check(loader.load_weights(tmp_path, config, loader.read_shape(config), family.layer, print), model)
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name] + np.eye(*tensors[name].shape)
    write_tensors(path, {name: ("F32", np.asarray(values, np.float32)) for name, values in tensors.items()})
    assert not is_grouped(TensorSet(tmp_path))


def test_refuses_what_is_ternary_in_part(model: ModelWeights, tmp_path: Path) -> None:
    layer: LayerWeights = model.layers[1]
    spoilt = layer.matrices["down"].copy()
    spoilt[3, 130] = np.abs(spoilt).max() / 2
    other = replace(model, layers=(model.layers[0], layer.with_matrices({"down": spoilt})))
    write_gguf(tmp_path / "m.gguf", other, "F16", arch="qwen3", interleaved=False)
    with pytest.raises(HwgenError, match="blk.1.ffn_down.weight is not ternary in groups of 128 inputs, as the first matrix is"):
        open_model(tmp_path / "m.gguf")


def test_halves_of_groups(model: ModelWeights, tmp_path: Path) -> None:
    """Blocks of 64 are halves of groups: a half of zeros may have any scale, two halves of two scales make no group."""
    first = model.layers[0].matrices["o"].copy()
    first[:, :64] = 0
    first[:, 64:GROUP] = np.sign(first[:, 64:GROUP]) * 0.5
    blocks = q2_0(first, 64).reshape(len(first), -1, 18)
    blocks[:, 0, :2] = np.array([3.0], np.float16).view(np.uint8)
    stored = {"blk.0.attn_output.weight": (42, blocks)}
    whole = {
        f"blk.{i}.{place}.weight": (42, q2_0(layer.matrices[name], 64))
        for i, layer in enumerate(model.layers) for name, place in TENSORS.items()
    }
    write_gguf(tmp_path / "m.gguf", model, "F16", stored=whole | stored, arch="qwen3", interleaved=False)
    found = open_model(tmp_path / "m.gguf").weights.layers[0].matrices["o"]
    np.testing.assert_array_equal(found.trits, np.sign(first))
    first[:, 0] = 3.0
    write_gguf(
        tmp_path / "m.gguf", model, "F16", stored=whole | {"blk.0.attn_output.weight": (42, q2_0(first, 64))}, arch="qwen3",
        interleaved=False,
    )
    with pytest.raises(HwgenError, match="blk.0.attn_output.weight is not ternary in groups of 128"):
        open_model(tmp_path / "m.gguf")
    four = np.full((len(first), blocks.shape[1], 18), 0xFF, np.uint8)
    four[..., :2] = np.array([1.0], np.float16).view(np.uint8)
    write_gguf(
        tmp_path / "m.gguf", model, "F16", stored=whole | {"blk.0.attn_output.weight": (42, four)}, arch="qwen3", interleaved=False
    )
    with pytest.raises(HwgenError, match="blk.0.attn_output.weight has a code that is not -1, 0 or 1"):
        open_model(tmp_path / "m.gguf")


def test_a_head_that_is_none_in_groups(model: ModelWeights) -> None:
    """It is a head of floats, like one of rows that are no whole groups."""
    loader = family_of_config({"model_type": "qwen3"})
    family = grouped_family(loader)
    assert family is not None
    layers = [layer.with_matrices({n: GroupedMatrix.of(*parts(m)) for n, m in layer.matrices.items()}) for layer in model.layers]
    spoilt = model.embedding.copy()
    spoilt[5, 7] *= 0.5
    assemble = family.loader().assemble
    assert assemble(WIDE, layers, model.norm, model.embedding, None, layer=QWEN3).grouped_head is not None
    assert assemble(WIDE, layers, model.norm, spoilt, None, layer=QWEN3).grouped_head is None


def parts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sign(values).astype(np.int8), np.abs(values).reshape(len(values), -1, GROUP).max(axis=2)


@pytest.mark.parametrize(("kind", "values"), [
    ("F32", np.zeros((0, 128), np.float32)), ("F32", np.zeros((4, 96), np.float32)), ("F32", np.ones(128, np.float32)),
    ("U8", np.ones((4, 128), np.uint8)),
])
def test_matrices_that_tell_nothing(kind: str, values: np.ndarray, tmp_path: Path) -> None:
    """Of no rows, of no whole groups, no matrix, no floats."""
    write_tensors(tmp_path / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": (kind, values)})
    assert not is_grouped(TensorSet(tmp_path))
    write_tensors(tmp_path / "model.safetensors", {"x": (kind, values)})
    assert not is_grouped(TensorSet(tmp_path))
