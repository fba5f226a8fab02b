"""The walk over a checkpoint: what is read from where, what is told, and what is left over; tensors are made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN2, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models import checkpoint
from hwgen.sw.models.checkpoint import read_checkpoint

SHAPE = ModelShape(hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, ffn=12, vocab=5)

PLACES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
    "up": "mlp.up_proj", "down": "mlp.down_proj",
}


class Tensors:
    """Tensors by name, all of type F32; remembers which were read."""

    def __init__(self, values: Mapping[str, np.ndarray]) -> None:
        self.values, self.read = dict(values), set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def kind(self, name: str) -> str:
        assert name in self.values
        return "F32"

    def find(self, *names: str) -> str:
        return next(name for name in names if name in self.values)

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        assert self.values[name].shape == shape, name
        self.read.add(name)
        return self.values[name]

    def unread(self) -> list[str]:
        return [name for name in self.values if name not in self.read]


def values_of(layer: DecoderLayer, gains: Mapping[str, str] | None = None, shape: ModelShape = SHAPE) -> dict[str, np.ndarray]:
    """Every tensor of a model, each with a number of its own. ``gains``: places that are not names."""
    sizes: dict[str, tuple[int, ...]] = {"model.norm.weight": (8,), "model.embed_tokens.weight": (5, 8)}
    for i in range(shape.layers):
        prefix = f"model.layers.{i}"
        sizes |= {f"{prefix}.{PLACES[name]}.weight": size for name, size in layer.matrices(shape).items()}
        sizes |= {f"{prefix}.{(gains or {}).get(name, name)}.weight": (size,) for name, size in layer.norms(shape).items()}
        sizes |= {f"{prefix}.{PLACES[name]}.bias": (layer.matrices(shape)[name][0],) for name in layer.bias_of}
    return {name: np.full(size, number, np.float32) for number, (name, size) in enumerate(sizes.items())}


def walk(values: Mapping[str, np.ndarray], layer: DecoderLayer = LLAMA, **options: Any) -> Any:
    tensors: Any = Tensors(values)
    gains = options.pop("gains", {})
    shape = options.pop("shape", SHAPE)
    return read_checkpoint(
        tensors, layer, shape, gains, lambda found, place, size: found.floats(f"{place}.weight", size),
        options.pop("progress", lambda text: None), **options,
    )


@pytest.mark.parametrize("layer", [LLAMA, QWEN2, BITNET], ids=lambda layer: layer.name)
def test_every_part_from_its_place(layer: DecoderLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are told of by numbers from 1 on, matrices with what they are stored as."""
    monkeypatch.setattr(checkpoint, "Ticker", lambda report: SimpleNamespace(tick=report))
    said, kept = list[str](), list[tuple[str, str]]()
    values = values_of(layer, {"ffn_sub_norm": "second"})
    shape, layers, norm, embedding, head = walk(
        values, layer, progress=said.append, gains={"ffn_sub_norm": ("first", "second")},
        keep=lambda where, kind, matrix: (kept.append((where, kind)), 2 * matrix)[1],
    )
    assert shape == SHAPE and head is None and norm is values["model.norm.weight"] and embedding[0, 0] == 1
    assert said == ["reading layer 1 of 2", "reading layer 2 of 2"]
    assert kept == [(f"layer {i} {name}", "F32") for i in range(2) for name in layer.matrices(SHAPE)]
    for i, of in enumerate(layers):
        for name, matrix in of.matrices.items():
            assert np.array_equal(matrix, 2 * values[f"model.layers.{i}.{PLACES[name]}.weight"])
        for name, gain in of.norms.items():
            assert gain is values[f"model.layers.{i}.{'second' if name == 'ffn_sub_norm' else name}.weight"]
        assert list(of.biases) == list(layer.bias_of.values())
        for name, bias in layer.bias_of.items():
            assert of.biases[bias] is values[f"model.layers.{i}.{PLACES[name]}.bias"]


def test_matrices_in_other_forms() -> None:
    """A matrix that has no tensor of its own name."""
    values, kept = values_of(LLAMA), set[str]()
    place = "model.layers.1.mlp.up_proj"
    values[f"{place}.qweight"] = values.pop(f"{place}.weight")

    def matrix(tensors: Any, at: str, size: tuple[int, int]) -> np.ndarray:
        found: np.ndarray = tensors.floats(f"{at}.qweight" if at == place else f"{at}.weight", size)
        return found

    def keep(where: str, kind: str, matrix: Any) -> Any:
        kept.add(f"{where}: {kind}" if kind != "F32" else kind)
        return matrix

    tensors: Any = Tensors(values)
    read_checkpoint(tensors, LLAMA, SHAPE, {}, matrix, print, keep)
    assert kept == {"F32", "layer 1 up: other forms"}


@pytest.mark.parametrize(("more", "words"), [
    (["x"], "tensor x is no part of a llama model of 2 layers"), (["x", "y"], "tensor x, and 1 more is no part"),
    (["x", "y", "z"], "tensor x, and 2 more is no part"), (["a.rotary_emb.inv_freq", "y"], "tensor y is no part"),
    (["model.layers.2.input_layernorm.weight"], r"tensor model.layers.2.input_layernorm.weight is"),
])
def test_what_is_left_over(more: list[str], words: str) -> None:
    with pytest.raises(HwgenError, match=words) as caught:
        walk(values_of(LLAMA) | {name: np.ones(1, np.float32) for name in more})
    assert caught.value.kind == "architecture" and "different models" in caught.value.fix


def test_what_may_be_left_over() -> None:
    names = ("a.rotary_emb.inv_freq", "b.attn.masked_bias", "c.attention.bias_mask")
    assert len(walk(values_of(LLAMA) | {name: np.ones(1, np.float32) for name in names})[1]) == 2


def test_heads() -> None:
    """A tied model with another head is not tied; one with the same is; an untied one may have the same."""
    values = values_of(LLAMA)
    same, other = values["model.embed_tokens.weight"].copy(), np.full((5, 8), 9, np.float32)
    for tied, head, found in ((True, same, None), (True, other, other), (False, same, same), (False, other, other)):
        shape, *_, read = walk(values | {"lm_head.weight": head}, shape=replace(SHAPE, tied=tied))
        assert read is found and shape.tied is (found is None)
