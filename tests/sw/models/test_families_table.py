"""Rows of the table of families, and of classes of llamas: who is loaded as what, and what an absent field means."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.errors import HwgenError
from hwgen.sw.models import gguf, gguf_reader
from hwgen.sw.models import open as opening
from hwgen.sw.models.config_json import shape_from_config, token_ids
from hwgen.sw.models.families import FAMILIES, family_of_config, family_of_gguf, grouped_family
from hwgen.sw.models.fields import Fields
from hwgen.sw.models.gguf_file import GgufFile
from hwgen.sw.models.gguf_types import type_of
from hwgen.sw.models.llama import half_split_rows
from hwgen.sw.models.llama_classes import CLASSES, read_class_shape
from hwgen.sw.models.model import ModelFiles
from hwgen.sw.models.open import open_files

#: model_type, quant_method, architectures -> layer, engine, module.
CONFIGS: list[tuple[str | None, str | None, list[str], DecoderLayer, str, str]] = [
    ("bitnet", None, [], BITNET, "ternary", "bitnet"), ("bitnet_b1_58", None, [], BITNET, "ternary", "bitnet"),
    ("llama", None, ["BitnetForCausalLM"], BITNET, "ternary", "bitnet"),
    ("llama", None, ["LlamaForCausalLM"], LLAMA, "int4", "llama"),
    ("llama", "bitnet", [], LLAMA, "ternary", "ternary_llama"), ("mistral", "groups", [], LLAMA, "grouped", "grouped_llama"),
    ("qwen2", None, [], QWEN2, "int4", "llama"), ("qwen2", "bitnet", [], QWEN2, "ternary", "ternary_llama"),
    ("qwen3", "gptq", [], QWEN3, "int4", "llama"), ("qwen3", "groups", [], QWEN3, "grouped", "grouped_llama"),
    *((kind, None, [], LLAMA, "int4", "llama") for kind in ("mistral", "smollm3", "phi3", "granite")),
]


@pytest.mark.parametrize(("kind", "method", "names", "layer", "engine", "module"), CONFIGS)
def test_who_is_loaded_as_what(
    kind: str, method: str | None, names: list[str], layer: DecoderLayer, engine: str, module: str
) -> None:
    config = {"model_type": kind, "architectures": names, "quantization_config": {"quant_method": method} if method else None}
    family = family_of_config(config)
    assert (family.layer, family.engine, family.module, family.name) == (layer, engine, module, layer.name)
    assert family.loader().__name__ == f"hwgen.sw.models.{module}"
    bitnet = layer is BITNET
    assert (family.window, family.batch) == ((None, 4) if bitnet else (512, 1))
    assert family.reference == (("float_bitnet", "float_model") if bitnet else ("float_llama", "FloatLlama"))
    assert family.activations == (("relu2", "silu") if bitnet else ("silu",))


@pytest.mark.parametrize(("config", "message"), [
    ({"model_type": "gemma2"}, "has not its GELU"), ({"model_type": "mixtral"}, "has not its experts"),
    ({"model_type": "gpt2"}, "model_type is 'gpt2'; supported: 'bitnet', 'bitnet_b1_58', 'llama', 'mistral'"),
    ({}, "model_type is None"),
    ({"architectures": "BitNet"}, "architectures is 'BitNet'"),
    ({"model_type": "smollm3", "quantization_config": {"quant_method": 3}}, ""),
])
def test_who_is_not(config: dict[str, Any], message: str) -> None:
    if not message:
        assert family_of_config(config).layer is LLAMA
        return
    with pytest.raises(HwgenError, match=message):
        family_of_config(config)


def test_architectures_of_gguf_files() -> None:
    kinds = (("llama", "int4", LLAMA), ("llama", "ternary", LLAMA), ("qwen3", "grouped", QWEN3), ("phi3", "int4", LLAMA))
    for name, engine, layer in kinds:
        found = family_of_gguf(name, engine)
        assert found is not None and (found.layer, found.engine) == (layer, engine)
    only = family_of_gguf("bitnet-b1.58")
    assert only is not None and only.engine == "ternary"
    assert only.gguf == {"bitnet": "silu", "bitnet-b1.58": "relu2", "bitnet-25": "relu2"}
    assert family_of_gguf("phi3", "ternary") is not None and family_of_gguf("gemma") is None
    assert [grouped_family(f) for f in FAMILIES if f.engine == "int4"] == [f for f in FAMILIES if f.engine == "grouped"]
    assert grouped_family(FAMILIES[0]) is None


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8, "sliding_window": None,
    "original_max_position_embeddings": 128,
}


def shape_of(kind: str | None, **changes: Any) -> Any:
    config = {name: value for name, value in (SIZES | {"model_type": kind} | changes).items() if value is not ...}
    return read_class_shape(config, Fields(config, "config.json"))


@pytest.mark.parametrize(("kind", "theta", "eps", "tied", "unrotated", "wanted"), [
    ("llama", 1e4, 1e-6, False, (), ()), ("mistral", 1e4, 1e-6, False, (),
    ("sliding_window", "num_key_value_heads", "max_position_embeddings")),
    ("smollm3", 2e6, 1e-6, True, (3, 7), ("num_key_value_heads", "max_position_embeddings")),
    ("phi3", 1e4, 1e-5, False, (), ("max_position_embeddings", "original_max_position_embeddings")),
    ("granite", 1e4, 1e-6, False, (), ()), ("qwen2", 1e4, 1e-6, False, (), ("num_key_value_heads", "max_position_embeddings")),
    ("qwen3", 1e4, 1e-6, False, (), ("head_dim", "num_key_value_heads", "max_position_embeddings")),
    (None, 1e4, 1e-6, False, (), ()),
])
def test_classes(kind: str, theta: float, eps: float, tied: bool, unrotated: tuple[int, ...], wanted: tuple[str, ...]) -> None:
    """What absent fields mean by the class of transformers; fields without which it would mean another model are asked for."""
    assert {"llama", "mistral", "smollm3", "phi3", "granite", "qwen2", "qwen3"} == set(CLASSES)
    shape = shape_of(kind)
    assert (shape.rope_theta, shape.rms_eps, shape.tied, shape.unrotated) == (theta, eps, tied, unrotated)
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim, shape.ffn) == (32, 8, 4, 2, 8, 48)
    for name in wanted:
        with pytest.raises(HwgenError, match=f"config.json has no {name}"):
            shape_of(kind, **{name: ...})
    for name in {"head_dim", "num_key_value_heads", "max_position_embeddings"} - set(wanted):
        assert shape_of(kind, **{name: ...}).hidden == 32


@pytest.mark.parametrize("kind", ["llama", "mistral", "phi3", "granite", "smollm3", "qwen2", "qwen3"])
def test_sliding_windows(kind: str) -> None:
    """Shorter than the context they are refused; of some classes only where they are asked for."""
    asked = kind in ("smollm3", "qwen2", "qwen3")
    assert shape_of(kind, sliding_window=128).max_context == 128
    for uses, refused in ((..., not asked), (True, True), (False, False), (None, not asked)):
        if not refused:
            shape_of(kind, sliding_window=127, use_sliding_window=uses)
            continue
        with pytest.raises(HwgenError, match="sliding_window is 127"):
            shape_of(kind, sliding_window=127, use_sliding_window=uses)
    with pytest.raises(HwgenError, match="max_window_layers is 3"):
        shape_of(kind, sliding_window=128, use_sliding_window=True, max_window_layers=3)


@pytest.mark.parametrize(("changes", "unrotated"), [
    ({}, (3, 7)), ({"no_rope_layer_interval": 3}, (2, 5)), ({"no_rope_layer_interval": 1}, tuple(range(8))),
    ({"no_rope_layers": [1, 0, 1, 1, 1, 1, 1, 0, 0]}, (1, 7)), ({"no_rope_layers": [True] * 8}, ()),
])
def test_layers_that_are_not_rotated(changes: dict[str, Any], unrotated: tuple[int, ...]) -> None:
    assert shape_of("smollm3", **changes).unrotated == unrotated


@pytest.mark.parametrize("changes", [
    {"no_rope_layer_interval": 0}, {"no_rope_layer_interval": 2.0}, {"no_rope_layers": [1] * 7}, {"no_rope_layers": [1.0] * 8},
    {"no_rope_layers": 3},
])
def test_layers_that_are_not_said(changes: dict[str, Any]) -> None:
    with pytest.raises(HwgenError, match=next(iter(changes))):
        shape_of("smollm3", **changes)


@pytest.mark.parametrize(("name", "fine", "wrong"), [
    ("hidden_size", 2**31 - 8, 2**31), ("vocab_size", 1, 0), ("num_hidden_layers", 1, -1), ("num_key_value_heads", 1, True),
    ("head_dim", 2, 2.0), ("rms_norm_eps", 0, 1), ("rms_norm_eps", 0.999, -0.1), ("rms_norm_eps", 1e-9, True),
    ("tie_word_embeddings", True, 1), ("attention_bias", False, True), ("logit_scale", 1.0, 2.0), ("is_decoder", False, 2),
    ("num_experts", 0, 8), ("layer_types", ["full_attention"], ["sliding_attention"]), ("hidden_act", "silu", "gelu"),
])
def test_values_to_the_last(name: str, fine: Any, wrong: Any) -> None:
    assert shape_of("llama", **{name: fine}).layers > 0
    with pytest.raises(HwgenError, match="hidden" if name == "hidden_size" else name):
        shape_of("llama", **{name: wrong})


def test_absent_fields() -> None:
    common: dict[str, Any] = {"activations": ("silu",), "default_activation": "silu", "default_theta": 1.5, "default_eps": 0.25}
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    plain = {name: SIZES[name] for name in sizes}
    shape = shape_from_config(Fields(plain, "c"), **common)
    assert (shape.head_dim, shape.kv_heads, shape.max_context) == (8, 4, 2048)
    assert (shape.tied, shape.rope_theta, shape.rms_eps) == (False, 1.5, 0.25)
    assert shape_from_config(Fields(plain, "c"), **common, default_kv_heads=2, default_tied=True).kv_heads == 2
    for name in plain:
        with pytest.raises(HwgenError, match=f"c has no {name}"):
            shape_from_config(Fields({n: v for n, v in plain.items() if n != name}, "c"), **common)
    assert [token_ids(value) for value in (None, 0, [3, 4], [])] == [(), (0,), (3, 4), ()]
    for wrong in (-1, True, "2", [1, -1]):
        with pytest.raises(HwgenError, match="eos_token_id"):
            token_ids(wrong)


# ---- files -----------------------------------------------------------------------------------------------------------
def test_models_by_place_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path before a name; an added model keeps its name, a shipped one that of its directory."""
    def files(path: Path) -> ModelFiles:
        values: dict[str, Any] = dict.fromkeys(ModelFiles.__dataclass_fields__)
        return ModelFiles(**values | {"name": path.name, "path": path})

    monkeypatch.setattr(opening, "open_directory", files)
    monkeypatch.setattr("hwgen.sw.models.gguf.open_gguf", lambda path, name: SimpleNamespace(path=path, name=name, centers=None))
    monkeypatch.setattr(opening, "find_model", lambda name: Path("/shipped") / str(name))
    added = {"mine": tmp_path / "folder", "one": tmp_path / "one.gguf"}
    monkeypatch.setattr(opening, "added_path", lambda name: added.get(name))
    (tmp_path / "folder").mkdir()
    (tmp_path / "one.gguf").touch()
    assert (open_files("mine").name, open_files("mine").path) == ("mine", tmp_path / "folder")
    assert (open_files("stories").name, open_files("stories").path) == ("stories", Path("/shipped/stories"))
    monkeypatch.chdir(tmp_path)
    assert open_files("folder").path == Path("/shipped/folder"), "what a directory is, find_model says"
    found: Any = open_files("one")
    assert (found.path, found.name) == (tmp_path / "one.gguf", "one")
    found = open_files("one.gguf")
    assert (found.path, found.name) == (Path("one.gguf"), None)
    for name, message in (("a.hwimage", "is a compiled model"), ("a.bin", "is a file, but no .gguf file")):
        (tmp_path / name).touch()
        with pytest.raises(HwgenError, match=message):
            open_files(name)
    with pytest.raises(HwgenError, match="is no model"):
        open_files("x" * 5000)


def test_first_rows_of_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many, or all there are, of a matrix that is wider than high, or higher than wide."""
    kind = type_of(0)
    assert kind is not None and kind.name == "F32"
    for rows, inputs in ((3, 8), (8, 3)):
        values = np.arange(rows * inputs, dtype=np.float32).reshape(rows, inputs)
        file: Any = GgufFile.__new__(GgufFile)
        stored = values.view(np.uint8).reshape(-1)
        tensor = SimpleNamespace(shape=(rows, inputs), kind=kind, stored=lambda stored=stored: stored)
        monkeypatch.setattr(GgufFile, "_find", lambda self, name, t=tensor: t)
        for count in (1, 2, 5, 100):
            assert np.array_equal(file.first_rows("t", count), values[:count])
    assert half_split_rows(8, 4).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(("name", "fine", "wrong"), [
    ("rope_interleaved", False, True), ("attention_multiplier", None, 1.0), ("logit_scale", 1.0, 0.5), ("scale_emb", 1.0, 2.0),
    ("scale_depth", 1.0, 2.0), ("embedding_multiplier", 1.0, 2.0), ("residual_multiplier", 1.0, 2.0), ("logits_scaling", 1.0, 2.0),
    ("input_norm", True, False), ("num_experts", 0, 1), ("num_local_experts", 0, 1), ("no_rope_layers", None, [1]),
    ("final_logit_softcapping", None, 1.0), ("attn_logit_softcapping", None, 1.0), ("is_encoder_decoder", False, True),
    ("add_cross_attention", False, True), ("weight_bits", 1, 2), ("input_bits", 8, 4),
    *((name, False, True) for name in ("mlp_bias", "bias", "use_bias", "attention_out_bias", "qkv_bias", "use_qk_norm", "no_rope")),
])
def test_options_of_others(name: str, fine: Any, wrong: Any) -> None:
    """Each may be there with the one value that changes nothing, and may be absent."""
    assert shape_of("llama", **{name: fine}) == shape_of("llama")
    with pytest.raises(HwgenError, match=f"config.json: {name} is "):
        shape_of("llama", **{name: wrong})


@pytest.mark.parametrize(("layout", "found"), [("arm", True), (None, False)])
def test_the_writer_of_a_file(layout: str | None, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by matrices of the first four layers with the norms before them; else that of published files is taken, and said so."""
    seen: list[tuple[int, int, float]] = []

    def look(matrices: Any) -> str | None:
        seen.extend((rows, inputs, float(gains[0])) for _, rows, inputs, gains in matrices)
        return layout

    monkeypatch.setattr(gguf.gguf_i2s, "find_layout", look)
    shapes = {f"blk.{i}.{place}.weight": (4, 8) for i in range(6) for place in gguf._BEFORE}
    shapes |= {f"blk.{i}.{norm}.weight": (8,) for i in range(6) for norm in set(gguf._BEFORE.values()) - {"attn_sub_norm"}}

    class File:
        i2_s = "x86"
        stored = staticmethod(lambda name: None)
        shape = staticmethod(shapes.__getitem__)
        kind = staticmethod(lambda name: "F32" if "ffn_down" in name else "I2_S")
        floats = staticmethod(lambda name, size: np.full(size, name.startswith("blk.3"), np.float32))

        def __contains__(self, name: str) -> bool:
            return name in shapes

    file, said = File(), list[str]()
    made: Any = file
    gguf._find_i2_s(made, 6, said.append)
    assert len(seen) == 4 * 5 and sum(row[2] for row in seen) == 5, "those without a norm, or of another type, tell nothing"
    assert file.i2_s == (layout or "x86") and (("found by the zeros" if found else "taken because published") in said[0])
    seen.clear()
    gguf._find_i2_s(made, 2, said.append)
    assert len(seen) == 2 * 5


@pytest.mark.parametrize(("count", "numbers", "said", "message"), [
    (1, [0], None, ""), (2, [0, 1], 2, ""), (2, [0, 1], 3, "the parts hold 2 tensors, 3 expected"),
    (2, [0, 0], 2, "part 2 of 2 is a part of"),
    (2, [1, 1], 2, "part 1 of 2"), (1, [5], 7, ""), (3, [0, 1, 2], 3, ""),
])
def test_parts_of_a_file(
    count: int, numbers: list[int], said: int | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part says its number and how many there are; the first says how many tensors all have together."""
    paths = [tmp_path / (f"m-{i + 1:05}-of-{count:05}.gguf" if count > 1 else "m.gguf") for i in range(count)]

    def entry(value: int) -> Any:
        return SimpleNamespace(contents=lambda: value)

    def opened(path: Path) -> Any:
        i = paths.index(path)
        fields = {"split.count": entry(count), "split.no": entry(numbers[i])} if count > 1 else {}
        fields |= {"split.tensors.count": entry(said)} if said is not None and i == 0 else {}
        return SimpleNamespace(fields=fields), [SimpleNamespace(name=f"t{i}")]

    for path in paths:
        path.touch()
    monkeypatch.setattr(gguf_reader, "_open_one", opened)
    for path in paths:
        if not message:
            fields, tensors = gguf_reader.open_parts(path) if path == paths[0] else ({}, {f"t{i}": 0 for i in range(count)})
            assert list(tensors) == [f"t{i}" for i in range(count)] and (path != paths[0] or ("split.no" in fields) == (count > 1))
            continue
        with pytest.raises(HwgenError, match=message):
            gguf_reader.open_parts(paths[0])
    if count > 1:
        paths[-1].unlink()
        with pytest.raises(HwgenError, match="is missing, one of"):
            gguf_reader.open_parts(paths[0])


@pytest.mark.parametrize(("stored", "said"), [("", "safetensors, F16 + F32"), ("gptq", "safetensors, gptq")])
def test_what_a_directory_is_said_to_hold(stored: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How its matrices are stored, or by which method: what has two dimensions, the most frequent first."""
    kinds = {"a": ("F32", 2), "b": ("F16", 2), "c": ("F16", 2), "norm": ("BF16", 1), "odd": ("I8", 3)}
    tensors = SimpleNamespace(
        names=lambda: list(kinds), kind=lambda name: kinds[name][0], shape=lambda name: (4,) * kinds[name][1], bytes=77,
    )
    family = SimpleNamespace(loader=lambda: SimpleNamespace(read_shape=lambda config: SimpleNamespace(vocab=9)), engine="int4")
    config = {"quantization_config": {"quant_method": stored}} if stored else {}
    for name, value in (
        ("read_config", lambda path: config), ("read_generation", lambda path: {"eos_token_id": 5}),
        ("load_tokenizer", lambda path: None),
        ("family_of_config", lambda config: family), ("check_tokens", lambda *all_: None), ("TensorSet", lambda path: tensors),
        ("is_grouped", lambda tensors: False), ("decisions_of_directory", lambda *all_: ()),
    ):
        monkeypatch.setattr(opening, name, value)
    files = opening.open_directory(tmp_path)
    assert (files.format, files.bytes, files.stop_tokens, files.name) == (said, 77, (5,), tmp_path.name)
