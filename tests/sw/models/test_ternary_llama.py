"""Ternary llamas and Qwens: the logits of ``transformers`` for every convention of scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hwgen.errors import HwgenError
from hwgen.golden.float_llama import FloatLlama
from hwgen.sw.models.bitnet import pack_trits
from hwgen.sw.models.config_json import MATRIX_PLACES
from hwgen.sw.models.families import family_of_config
from hwgen.ternary import quantize_ternary

from .test_llama_classes import IDS, checkpoint, load

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")
pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantisation is compiled otherwise, which takes a minute; torch forgets the option once another test has set it back."""
    monkeypatch.setattr("torch._dynamo.config.disable", True, raising=False)


def ternary_checkpoint(path: Path, kind: str, *, packed: bool, divides: bool = False, **quantization: Any) -> Path:
    """A small random model whose matrices are float masters, or ``packed`` digits with a scale that multiplies or ``divides``."""
    checkpoint(path, kind, num_hidden_layers=2)
    config, tensors = json.loads((path / "config.json").read_text()), safetensors.load_file(path / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = embedding.bfloat16().float()  # as the machine has it
    config["quantization_config"] = {"quant_method": "bitnet", **quantization}
    (path / "config.json").write_text(json.dumps(config))
    for name in [n for n in tensors if packed and n.endswith(tuple(f"{place}.weight" for place in MATRIX_PLACES.values()))]:
        matrix = quantize_ternary(tensors[name].numpy())
        tensors[name] = torch.from_numpy(pack_trits(matrix.trits))
        tensors[f"{name}_scale"] = torch.tensor([1 / matrix.scale if divides else matrix.scale])
    safetensors.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("options", [
    {"packed": True, "divides": True, "linear_class": "bitlinear"}, {"packed": True, "linear_class": "autobitlinear"},
    {"packed": False, "linear_class": "autobitlinear", "quantization_mode": "online"},
], ids=["divides", "multiplies", "masters"])
def test_same_logits_as_transformers(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = ternary_checkpoint(tmp_path, kind, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    weights = load(path)
    assert weights.engine == "ternary"
    with torch.no_grad():
        expected = model(IDS).logits
    difference = (FloatLlama(weights)(IDS) - expected).abs()
    # an activation on the edge between two integers may fall to either side
    assert difference.median() < 1e-4 and difference.max() < 0.05 * expected.std(), (difference.median(), difference.max())


def test_the_quantisation_decides_the_row() -> None:
    ternary = {"model_type": "llama", "quantization_config": {"quant_method": "bitnet"}}
    assert [family_of_config(c).engine for c in (ternary, {"model_type": "llama"})] == ["ternary", "int4"]
    with pytest.raises(HwgenError, match="quant_method is 'bitnet'; supported"):
        family = family_of_config({**ternary, "model_type": "granite"})
        family.loader().read_shape({**ternary, "model_type": "granite"})
