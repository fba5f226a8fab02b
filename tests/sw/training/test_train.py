"""A short training run and its export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from hwgen.errors import HwgenError
from hwgen.golden.float_bitnet import BitNet, float_model
from hwgen.shape import ModelShape
from hwgen.sw.models.bitnet import load_weights, read_shape
from hwgen.sw.models.config_json import read_config
from hwgen.sw.training.train import Recipe, export_training, train
from hwgen.ternary import quantize_ternary


def test_a_training_run_exports(tmp_path: Path) -> None:
    """Two steps of training, then a checkpoint that holds the quantised masters of the saved state."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a cat. The cat sat on a mat and saw a dog.\n<|endoftext|>\n" * 30)
    shape = ModelShape(hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, ffn=24, vocab=262, max_context=32)
    recipe = Recipe(steps=2, length=8, batch=2)
    train(shape, recipe, text, tmp_path / "run", compile_model=False)
    weights = export_training(tmp_path / "run", tmp_path / "model")
    state = torch.load(tmp_path / "run" / "train_state.pt", weights_only=True)
    assert json.loads(state["signature"]) == json.loads(json.dumps([asdict(recipe), shape.to_dict()]))
    config = read_config(tmp_path / "model")
    loaded = load_weights(tmp_path / "model", config, read_shape(config))
    expected = quantize_ternary(state["model"]["model.layers.0.mlp.up_proj.weight"].numpy())
    for w in (weights, loaded):
        np.testing.assert_array_equal(w.layers[0].matrices["up"].trits, expected.trits)
        assert w.layers[0].matrices["up"].scale == expected.scale
    np.testing.assert_allclose(loaded.embedding, state["model"]["model.embed_tokens.weight"].numpy(), rtol=2**-8)
    assert (tmp_path / "model" / "tokenizer.json").exists()
    # the exported model is the trained one: its float forward pass gives the same logits, the rounded embedding aside
    trained = BitNet(shape)
    trained.load_state_dict(state["model"])
    tokens = torch.arange(1, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(float_model(loaded)(tokens), trained(tokens), rtol=0.1, atol=0.02)


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=r"train_state\.pt is missing"):
        export_training(tmp_path, tmp_path / "model")
