"""Matrices of llamas as GGUF files have them, and what a written checkpoint says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA, QWEN2
from hwgen.errors import HwgenError
from hwgen.int4 import BlockMatrix
from hwgen.key_centers import KeyCenters
from hwgen.shape import ModelShape
from hwgen.sw.models import bitnet, ternary_llama
from hwgen.sw.models.bitnet import Quantization
from hwgen.sw.models.key_centers import read_centers
from hwgen.sw.models.llama import check_output, gguf_matrix, half_split, half_split_rows, load_weights, save_llama
from hwgen.sw.models.tensors import write_tensors
from hwgen.ternary import TernaryMatrix
from hwgen.weights import ModelWeights, random_weights

from .llama_files import SHAPE as FILE_SHAPE

SHAPE = ModelShape(hidden=16, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=12, vocab=5)

#: Half-split order of a head of four rows, from pairs that lie together: the first of each pair, then the second.
HEAD = [0, 2, 1, 3]


def file_of(arch: str, matrix: Any) -> Any:
    """A file whose tensors are all this matrix."""
    def found(name: str, shape: tuple[int, int]) -> Any:
        assert name == "place.weight" and matrix.shape == shape
        return matrix

    return SimpleNamespace(path=Path("m.gguf"), matrix=found, require=lambda name: arch, floats=found)


def numbered(rows: int, inputs: int) -> np.ndarray:
    return np.arange(rows * inputs, dtype=np.float32).reshape(rows, inputs)


@pytest.mark.parametrize("arch", ["llama", "smollm3", "granite", "qwen2", "qwen3"])
def test_rows_of_queries_and_keys(arch: str) -> None:
    """In half-split order; in the files of some architectures pairs lie together."""
    pairs = arch in ("llama", "smollm3", "granite")
    for name, rows, inputs in (("q", 8, 16), ("k", 4, 16), ("v", 4, 16), ("o", 16, 8), ("down", 16, 12), ("up", 12, 16)):
        whole = numbered(rows, inputs)
        order = [4 * (i // 4) + HEAD[i % 4] for i in range(rows)] if pairs and name in "qk" else list(range(rows))
        np.testing.assert_array_equal(gguf_matrix(file_of(arch, whole), name, "place", SHAPE), whole[order])
        assert (half_split(file_of(arch, whole), name, SHAPE) is None) == (order == list(range(rows)))
    assert half_split_rows(12, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.parametrize(("name", "rows", "whole"), [
    ("q", range(8), 16), ("k", range(8, 12), 16), ("v", range(12, 16), 16), ("gate", range(12), 24), ("up", range(12, 24), 24),
])
def test_rows_of_fused_matrices(name: str, rows: range, whole: int) -> None:
    """Of Phi-3, in the order that they have there."""
    matrix = numbered(whole, 16)
    np.testing.assert_array_equal(gguf_matrix(file_of("phi3", matrix), name, "place", SHAPE), matrix[list(rows)])
    plain = numbered(16, 8)
    assert gguf_matrix(file_of("phi3", plain), "o", "place", SHAPE) is plain


@pytest.mark.parametrize("midpoints", [True, False])
def test_rows_of_blocks(midpoints: bool) -> None:
    """Codes, scales and midpoints together."""
    codes = (np.arange(128) % 15 - 7).astype(np.int8).reshape(8, 16)
    scale = np.arange(1, 9, dtype=np.float32).reshape(8, 1)
    matrix = BlockMatrix(codes, 16, scale, -scale if midpoints else None)
    found = gguf_matrix(file_of("llama", matrix), "q", "place", SHAPE)
    assert isinstance(found, BlockMatrix) and found.group == 16 and (found.midpoint is None) is not midpoints
    order = [*HEAD, *(4 + i for i in HEAD)]
    np.testing.assert_array_equal(found.dense(), matrix.dense()[order])
    assert gguf_matrix(file_of("qwen3", matrix), "q", "place", SHAPE) is matrix


def test_ternary_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    trits = (np.arange(128) % 3 - 1).astype(np.int8).reshape(8, 16)
    matrix = TernaryMatrix(trits, 0.5)
    monkeypatch.setattr(bitnet, "gguf_matrix", lambda *given: matrix)
    found = ternary_llama.gguf_matrix(file_of("llama", trits), "q", "place", SHAPE)
    np.testing.assert_array_equal(found.trits, trits[[*HEAD, *(4 + i for i in HEAD)]])
    assert found.scale == 0.5 and ternary_llama.gguf_matrix(file_of("qwen2", trits), "q", "place", SHAPE) is matrix


@pytest.mark.parametrize(("quantization", "scaled"), [
    (Quantization(divides=False, online=False, said=True), True), (Quantization(divides=True, online=False, said=True), False),
    (Quantization(divides=False, online=True, said=True), False), (Quantization(), False),
])
def test_biases_behind_ternary_matrices(quantization: Quantization, scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale that multiplies what comes out of stored digits multiplies the bias, too; each by that of its own matrix."""
    weights = random_weights(SHAPE, 1, QWEN2)
    layer = weights.layers[0]
    scales = {"q": 0.5, "k": 2.0, "v": 4.0}
    layer = layer.with_matrices({name: replace(layer.matrices[name], scale=scale) for name, scale in scales.items()})
    weights = replace(weights, layers=(layer,))
    monkeypatch.setattr(bitnet, "load_weights", lambda *given: weights)
    monkeypatch.setattr(ternary_llama, "read_quantization", lambda config: quantization)
    found = ternary_llama.load_weights(Path("m"), {}, SHAPE, QWEN2)
    if not scaled:
        assert found is weights and ternary_llama.load_weights(Path("m"), {}, SHAPE, LLAMA) is weights
        return
    for name, scale in scales.items():
        np.testing.assert_array_equal(found.layers[0].biases[f"{name}_bias"], scale * layer.biases[f"{name}_bias"])
    assert found.layers[0].matrices is layer.matrices
    assert ternary_llama.load_weights(Path("m"), {}, SHAPE, LLAMA) is weights, "a layer without biases"


# ---- written -----------------------------------------------------------------------------------------------------------
def saved(path: Path, weights: ModelWeights, **options: Any) -> dict[str, Any]:
    save_llama(weights, path, recipe="by hand", **options)
    config: dict[str, Any] = json.loads((path / "config.json").read_text())
    return config


def test_what_a_checkpoint_says(tmp_path: Path) -> None:
    """Its class, its formats, and the layers that are not rotated where there are some."""
    weights = random_weights(FILE_SHAPE, 5, LLAMA, "int4", group=64, kv="k4v4", query="e4m3")
    config = saved(tmp_path / "a", weights, stop_tokens=(3, 5))
    assert (config["model_type"], config["eos_token_id"], config["bos_token_id"]) == ("llama", [3, 5], None)
    said = {"quant_method": "hwgen_int4", "group": 64, "recipe": "by hand", "kv": "k4v4", "query": "e4m3"}
    assert config["quantization_config"] == said and "no_rope_layers" not in config
    other = replace(weights, shape=replace(FILE_SHAPE, unrotated=(1,)))
    config = saved(tmp_path / "b", other)
    assert (config["model_type"], config["no_rope_layers"], config["eos_token_id"]) == ("smollm3", [1, 0], [])
    assert not (tmp_path / "b" / "tokenizer.json").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    tokenizer = SimpleNamespace(begin=7, save=lambda path: path.touch(), settings=lambda: {"a": "é"})
    assert saved(tmp_path / "c" / "d", weights, tokenizer=tokenizer)["bos_token_id"] == 7
    assert json.loads((tmp_path / "c" / "d" / "tokenizer_config.json").read_text(encoding="utf-8")) == {"a": "é"}


def test_centers_go_with_it(tmp_path: Path) -> None:
    parts = [np.full((FILE_SHAPE.layers, FILE_SHAPE.kv_rows), value, np.float32) for value in (1, 2)]
    saved(tmp_path / "m", replace(random_weights(FILE_SHAPE, 5, LLAMA, "int4"), key_centers=KeyCenters(*parts)))
    found = read_centers(tmp_path / "m" / "keys.centers", FILE_SHAPE)
    assert (found.mean == 1).all() and (found.first == 2).all()


def test_where_nothing_may_be(tmp_path: Path) -> None:
    """Nothing, or an empty directory."""
    check_output(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(HwgenError, match="exists and is not empty"):
            check_output(taken)


# ---- read --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["phi3", "granite", "llama"])
def test_classes_beside_a_llama(kind: str, tmp_path: Path) -> None:
    """Phi-3's matrices lie in two tensors; Granite's multipliers are in the weights; a llama has neither."""
    rng = np.random.default_rng(1)
    sizes = LLAMA.matrices(SHAPE)
    matrices = {name: rng.normal(0, 1, size).astype(np.float32) for name, size in sizes.items()}
    prefix = "model.layers.0"
    tensors = {"model.embed_tokens.weight": np.ones((5, 16)), "model.norm.weight": np.full(16, 4.0)}
    tensors |= {f"{prefix}.{name}.weight": np.ones(16) for name in ("input_layernorm", "post_attention_layernorm")}
    tensors |= {f"{prefix}.self_attn.o_proj.weight": matrices["o"], f"{prefix}.mlp.down_proj.weight": matrices["down"]}
    if kind == "phi3":
        tensors[f"{prefix}.self_attn.qkv_proj.weight"] = np.concatenate([matrices[name] for name in "qkv"])
        tensors[f"{prefix}.mlp.gate_up_proj.weight"] = np.concatenate([matrices[name] for name in ("gate", "up")])
    else:
        tensors |= {f"{prefix}.self_attn.{name}_proj.weight": matrices[name] for name in "qkv"}
        tensors |= {f"{prefix}.mlp.{name}_proj.weight": matrices[name] for name in ("gate", "up")}
    write_tensors(tmp_path / "model.safetensors", {name: ("F32", values.astype(np.float32)) for name, values in tensors.items()})
    by = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.25, "logits_scaling": 8.0}
    weights = load_weights(tmp_path, {"model_type": kind, **by}, SHAPE)
    factors = {"q": 0.25 * 2, "o": 0.25, "down": 0.25} if kind == "granite" else {}
    for name, matrix in weights.layers[0].matrices.items():
        np.testing.assert_array_equal(matrix, factors.get(name, 1) * matrices[name])
    assert (weights.norm == (0.5 if kind == "granite" else 4)).all()
