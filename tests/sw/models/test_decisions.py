"""Where the parts of a model come from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwgen.shape import ModelShape
from hwgen.sw.models.decisions import _says, decisions_of_directory, decisions_of_gguf, describe_kinds, method_of
from hwgen.sw.models.families import FAMILIES


@pytest.mark.parametrize(("value", "name", "said"), [
    (8, "head_dim", True), (0, "head_dim", True), (None, "head_dim", False), ({"rope_theta": 1e4}, "rope_theta", True),
    ({"factor": 2.0}, "rope_theta", False), ({"factor": 2.0}, "rope_factors", True), ({"factors": [1.0]}, "rope_factors", True),
    ({"rope_theta": 1e4}, "rope_factors", False), ({}, "rope_theta", False),
])
def test_whether_a_field_says_it(value: Any, name: str, said: bool) -> None:
    assert _says(value, name) is said


def test_kinds_and_methods() -> None:
    assert describe_kinds(["F16", "Q4_1", "Q4_1"]) == "Q4_1 + F16" and describe_kinds([]) == "no matrices"
    assert [method_of(config) for config in (
        {}, {"quantization_config": None}, {"quantization_config": {}}, {"quantization_config": {"bits": 2}},
        {"quantization_config": {"quant_method": "gptq"}}, {"quantization_config": "gptq"},
    )] == ["", "", "", "bitnet", "gptq", ""]


SHAPE = ModelShape(hidden=8, layers=1, heads=2, kv_heads=1, head_dim=4, ffn=8, vocab=9)


def tokenizer(template: str | None = None, begin: int | None = None) -> Any:
    return SimpleNamespace(chat_template=template, begin=begin, size=9, token=lambda number: f"t{number}")


@pytest.mark.parametrize(("stored", "jinja", "json", "generation"), [
    ("", False, True, {}), ("gptq", True, False, {"eos_token_id": 3}), ("", True, True, {"eos_token_id": 3}),
])
def test_where_the_parts_of_a_directory_come_from(
    stored: str, jinja: bool, json: bool, generation: dict[str, int], tmp_path: Path
) -> None:
    """Every part by the fields that say it, or by what stands for one that is absent."""
    for wanted, name in ((jinja, "chat_template.jinja"), (json, "tokenizer.json")):
        if wanted:
            (tmp_path / name).touch()
    config = {"hidden_size": 8, "rope_parameters": {"rope_theta": 1e4}, "rms_norm_eps": None, "unrotated": 3}
    rows = decisions_of_directory(tmp_path, config, generation, FAMILIES[0], SHAPE, tokenizer("abc", 1), (4, 7), stored)
    found = {row.what: (row.value, row.source) for row in rows}
    assert found["family"] == ("bitnet", "config.json: model_type, architectures")
    assert found["hidden"] == (8, "config.json: hidden_size") and found["rope_theta"] == (1e4, "config.json: rope_parameters")
    assert found["rope_factors"] == ([], "absent: no scaling") and found["head_dim"] == (4, "absent: hidden / heads")
    assert found["rms_eps"] == (1e-5, "absent: default of the class in transformers")
    assert found["kv_heads"] == (1, "absent: as many as heads") and found["unrotated"] == ([], "config.json: unrotated")
    said = "config.json: quantization_config" if stored else "absent: no quantization_config"
    assert found["matrices"] == (stored or "floats", said)
    where = "generation_config.json" if generation else "config.json"
    assert found["stop_tokens"] == ({"4": "t4", "7": "t7"}, f"{where}: eos_token_id")
    kind = "tokenizer.json" if json else "tokenizer.model"
    assert found["tokenizer"] == ("9 tokens", kind) and found["begin_token"] == ("t1", kind)
    template = "chat_template.jinja" if jinja else "tokenizer_config.json: chat_template"
    assert found["chat_template"] == ("3 characters", template)
    assert len(rows) == len(found) == len(SHAPE.to_dict()) + 6


@pytest.mark.parametrize("untied", [True, False])
def test_where_the_parts_of_a_gguf_file_come_from(untied: bool) -> None:
    fields = {"llama.embedding_length": 8, "llama.rope.scaling.factor": 2.0, "tokenizer.ggml.model": "gpt2"}
    shapes = {"token_embd.weight": (9, 8), "blk.0.ffn_up.weight": (8, 8), "output_norm.weight": (8,)}
    shapes |= {"output.weight": (9, 8), "rope_freqs.weight": (2,)} if untied else {}

    class File:
        get = staticmethod(fields.get)
        names = staticmethod(lambda: list(shapes))
        shape = staticmethod(shapes.__getitem__)
        kind = staticmethod(lambda name: "F16" if name.startswith("o") else "Q4_1")

        def __contains__(self, name: str) -> bool:
            return name in shapes

    file: Any = File()
    rows = decisions_of_gguf(file, "llama", FAMILIES[1], SHAPE, tokenizer(), ())
    found = {row.what: (row.value, row.source) for row in rows}
    assert found["family"] == ("llama", "general.architecture") and found["hidden"] == (8, "llama.embedding_length")
    assert found["vocab"] == (9, "rows of token_embd.weight")
    assert found["tied"] == (True, f"output.weight is {'' if untied else 'not '}there")
    more = ", rope_freqs.weight" if untied else ""
    assert found["rope_factors"] == ([], f"llama.rope.scaling.factor{more}")
    assert found["rms_eps"][1] == "absent: default of llama.cpp" and found["activation"][1] == "absent: what the architecture means"
    assert found["matrices"][0] == ({"Q4_1": 2, "F16": 1} if untied else {"Q4_1": 2}), "what has two dimensions"
    assert found["begin_token"][0] is None and found["chat_template"] == ("none", "tokenizer.chat_template")
    assert found["tokenizer"] == ("9 tokens", "tokenizer.ggml.model 'gpt2', pre None")
