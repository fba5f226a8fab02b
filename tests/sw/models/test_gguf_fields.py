"""What fields and names of tensors of a GGUF file lead to, without a file: made-up ones behind the reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.shape import ModelShape
from hwgen.sw.models import gguf as opener
from hwgen.sw.models import gguf_classes
from hwgen.sw.models.fields import Fields
from hwgen.sw.models.four_bits import as_stored
from hwgen.sw.models.gguf import _activation, _family, _find_i2_s, _read, _refuse_tensors, read_gguf_shape
from hwgen.sw.models.gguf_classes import finish_shape, finish_weights, fused_in, read_rotary
from hwgen.sw.models.gguf_file import GgufFile
from hwgen.sw.models.gguf_reader import GgufTensor
from hwgen.sw.models.gguf_types import type_of
from hwgen.sw.models.rotary_scaling import Rotary, yarn_attention, yarn_factors
from hwgen.weights import random_weights

from .llama_files import SHAPE as FILE_SHAPE
from .llama_files import add_stored, write_gguf

gguf = pytest.importorskip("gguf")

SIZES = {
    "general.architecture": "llama", "llama.embedding_length": 64, "llama.context_length": 128, "llama.block_count": 2,
    "llama.attention.head_count": 4, "llama.feed_forward_length": 96, "llama.attention.layer_norm_rms_epsilon": 1e-6,
}

SHAPE = ModelShape(
    hidden=64, layers=2, heads=4, kv_heads=4, head_dim=16, ffn=96, vocab=11, activation="silu", max_context=128, rms_eps=1e-6,
)


class Made(GgufFile):
    """Fields by name, and tensors by name as the number of a type and values, or a shape alone."""

    def __init__(self, fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
        def entry(value: Any) -> Any:
            return SimpleNamespace(contents=lambda: value)

        self.path, self.i2_s = Path("m.gguf"), "x86"
        self.fields = Fields({name: None if value is None else entry(value) for name, value in fields.items()}, "m.gguf")
        self._tensors, self.values = {}, dict[str, np.ndarray]()
        for name, said in tensors.items():
            number, values = said if isinstance(said[-1], np.ndarray) else (0, np.zeros(said, np.float32))
            kind = type_of(number)
            assert kind is not None
            self._tensors[name], self.values[name] = GgufTensor(name, kind, values.shape, self.path, 0, 1), values

    def floats(self, name: str, shape: tuple[int, ...]) -> Any:
        assert self.values[name].shape == shape
        return self.values[name]


def made(fields: Mapping[str, Any] | None = None, tensors: Mapping[str, Any] | None = None) -> Made:
    return Made(SIZES | dict(fields or {}), {"token_embd.weight": (11, 64), "output_norm.weight": (64,), **(tensors or {})})


def shape_of(**changes: Any) -> ModelShape:
    """Of a llama with these fields, dots as ``__``."""
    file = made({f"llama.{name.replace('__', '.')}": value for name, value in changes.items()})
    return read_gguf_shape(file, "llama", _family(file))


# ---- shapes ----------------------------------------------------------------------------------------------------------
def test_what_a_file_may_leave_out() -> None:
    assert shape_of() == SHAPE
    assert shape_of(embedding_length=67) == ModelShape(**{**SHAPE.to_dict(), "hidden": 67})  # type: ignore[arg-type]  # sizes
    file = made(tensors={"output.weight": (11, 64)})
    assert not read_gguf_shape(file, "llama", _family(file)).tied
    one = shape_of(attention__head_count=1)
    assert (one.heads, one.kv_heads, one.head_dim) == (1, 1, 64)
    assert shape_of(attention__head_count_kv=2, attention__key_length=8).group == 2


@pytest.mark.parametrize("fields", [
    {"attention__sliding_window": 128}, {"attention__sliding_window": 129}, {"attention__sliding_window": 0}, {"expert_count": 0},
    {"attention__causal": True}, {"attention__value_length": 16}, {"rope__dimension_count": 16}, {"vocab_size": 11},
    {"rope__freq_base": 1e4}, {"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, {"rope__scaling__attn_factor": 1.0},
])
def test_values_that_change_nothing(fields: dict[str, Any]) -> None:
    assert shape_of(**fields) == SHAPE


@pytest.mark.parametrize(("fields", "words"), [
    ({"attention__sliding_window": 127}, "sliding_window is 127, shorter than the context of 128"),
    ({"attention__sliding_window": [128]}, r"sliding_window is \[128\], shorter"),
    ({"expert_count": 1}, "mixtures of experts"), ({"attention__causal": False}, "attention that sees later tokens"),
    ({"attention__value_length": 8}, "attention.value_length is 8, only the head dimension 16 is supported"),
    ({"rope__dimension_count": 32}, "rope.dimension_count is 32, only the head"), ({"vocab_size": 12}, "vocab_size is 12, but the"),
    ({"vocab_size": 10}, "vocab_size is 10, but the"), ({"attention__head_count": 0}, "head_count is 0"),
    ({"attention__head_count": -1}, "head_count is -1"),
    ({"block_count": 3}, "3 layers and heads of 16 are more than its 2 tensors can hold"),
    ({"attention__key_length": 65537}, "2 layers and heads of 65537 are more than its 2 tensors can hold"),
    ({"attention__layer_norm_rms_epsilon": 1}, "epsilon is 1.0, a number from 0 to 1"),
    ({"attention__layer_norm_rms_epsilon": -0.5}, "epsilon is -0.5, a number from 0 to 1"),
    ({"hidden_activation": "relu2"}, "hidden_activation is 'relu2'; supported: silu, swish"),
    ({"attention__head_count_kv": 3}, "heads must be a multiple of kv_heads"),
])
def test_values_that_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(HwgenError, match=words) as error:
        shape_of(**fields)
    assert error.value.kind == "architecture" and error.value.fix


def test_values_at_their_limits() -> None:
    assert shape_of(attention__key_length=1 << 16).head_dim == 1 << 16
    assert shape_of(attention__layer_norm_rms_epsilon=0).rms_eps == 0
    assert shape_of(hidden_activation="swish").activation == "silu"


@pytest.mark.parametrize(("fields", "tensors", "engine", "name"), [
    ({}, {}, "int4", "llama"), ({}, {"blk.0.ffn_up.weight": (35, np.zeros((4, 256)))}, "ternary", "llama"),
    ({}, {"blk.0.ffn_up.weight": (36, np.zeros((4, 256)))}, "ternary", "llama"),
    ({}, {"blk.0.ffn_up.weight": (4, 256)}, "int4", "llama"),
    ({}, {"blk.0.attn_q.weight": (42, np.zeros((4, 256)))}, "grouped", "llama"),
    ({"general.architecture": "smollm3"}, {"blk.0.attn_q.weight": (42, np.zeros((4, 256)))}, "int4", "llama"),
    ({"general.architecture": "bitnet", "general.type": "model"}, {}, "ternary", "bitnet"),
    ({"general.architecture": "qwen3"}, {}, "int4", "qwen3"),
])
def test_families(fields: dict[str, Any], tensors: dict[str, Any], engine: str, name: str) -> None:
    """By the architecture, and by the types of matrices where it has several."""
    family = _family(made(fields, tensors))
    assert (family.engine, family.name) == (engine, name)


def test_gate_functions() -> None:
    for fields, arch, expected in (
        ({}, "bitnet", "silu"), ({}, "bitnet-25", "relu2"), ({"bitnet.hidden_activation": "relu_sqr"}, "bitnet", "relu2"),
    ):
        file = made({"general.architecture": arch, **fields})
        assert _activation(file, arch, _family(file)) == expected


# ---- tensors ---------------------------------------------------------------------------------------------------------
MATRICES = {
    "attn_q": (64, 64), "attn_k": (64, 64), "attn_v": (64, 64), "attn_output": (64, 64), "ffn_gate": (96, 64), "ffn_up": (96, 64),
    "ffn_down": (64, 96),
}


def layers(count: int) -> dict[str, Any]:
    sizes = MATRICES | {"attn_norm": (64,), "ffn_norm": (64,)}
    return {f"blk.{i}.{name}.weight": size for i in range(count) for name, size in sizes.items()}


@pytest.mark.parametrize(("more", "words"), [
    ({"blk.0.x.weight": (1,)}, "tensor blk.0.x.weight is no part of a llama model of 2 layers"),
    ({"blk.2.attn_q.weight": (1,)}, "tensor blk.2.attn_q.weight is no part"),
    ({"a": (1,), "b": (1,), "c": (1,)}, "tensor a, and 2 more is no part"), ({"a": (1,), "b": (1,)}, "tensor a, and 1 more is no"),
    ({"blk.0.attn_q.scale": (1,)}, "tensor blk.0.attn_q.scale is no part"), ({"blk.1.attn_q.bias": (1,)}, "attn_q.bias is no part"),
])
def test_tensors_that_are_no_part_of_a_model(more: dict[str, Any], words: str) -> None:
    file = made(tensors=layers(2))
    _refuse_tensors(file, _family(file), SHAPE)
    with pytest.raises(HwgenError, match=words):
        _refuse_tensors(made(tensors=layers(2) | more), _family(file), SHAPE)


def test_tensors_that_some_models_have() -> None:
    """Scales beside ternary matrices, biases of Qwen 2."""
    file = made({"general.architecture": "bitnet"}, {
        "blk.1.ffn_down.scale": (1,), "blk.0.attn_sub_norm.weight": (64,), "rope_freqs.weight": (8,), "output.weight": (11, 64),
        "rope_factors_long.weight": (8,), "rope_factors_short.weight": (8,),
    })
    _refuse_tensors(file, _family(file), SHAPE)
    file = made({"general.architecture": "qwen2"}, {"blk.1.attn_q.bias": (64,)})
    _refuse_tensors(file, _family(file), SHAPE)
    with pytest.raises(HwgenError, match=r"attn_output.bias is no part"):
        _refuse_tensors(made({"general.architecture": "qwen2"}, {"blk.0.attn_output.bias": (64,)}), _family(file), SHAPE)


def test_layers_are_read_in_their_order() -> None:
    """Every matrix is told with its place and its type."""
    rng = np.random.default_rng(1)
    tensors = {name: (0, rng.normal(0, 1, size).astype(np.float32)) for name, size in layers(2).items()}
    file, ticks, kept = made(tensors=tensors), list[str](), list[tuple[str, str]]()
    file.matrix = file.floats  # type: ignore[method-assign]  # of floats
    weights = _read(file, _family(file), SHAPE, ticks.append, lambda where, kind, m: (kept.append((where, kind)), m)[1])
    assert ticks == ["reading layer 1 of 2", "reading layer 2 of 2"] and weights.layer is LLAMA and weights.head is None
    assert kept == [(f"layer {i} {name}", "F32") for i in range(2) for name in ("q", "k", "v", "o", "gate", "up", "down")]
    for i, layer in enumerate(weights.layers):
        for name, place in (("up", "ffn_up"), ("down", "ffn_down"), ("o", "attn_output")):
            assert layer.matrices[name] is file.values[f"blk.{i}.{place}.weight"]
        assert layer.norms["input_layernorm"] is file.values[f"blk.{i}.attn_norm.weight"]
    untied = made(tensors=tensors | {"output.weight": (0, np.ones((11, 64), np.float32))})
    untied.matrix = untied.floats  # type: ignore[method-assign]  # of floats
    shape = read_gguf_shape(untied, "llama", _family(untied))
    head = _read(untied, _family(untied), shape, ticks.append, as_stored).head
    assert head is not None and head.shape == (11, 64) and (head == 1).all()


@pytest.mark.parametrize(("count", "seen"), [(3, 3), (4, 4), (6, 4)])
def test_layouts_are_looked_for_in_the_first_layers(count: int, seen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In matrices of the type that have the gain before them."""
    tensors: dict[str, Any] = {"blk.0.ffn_up.weight": (36, np.zeros((4, 64)))}
    for i in range(count):
        tensors |= {f"blk.{i}.attn_q.weight": (36, np.zeros((8, 64))), f"blk.{i}.attn_norm.weight": (64,)}
        tensors |= {f"blk.{i}.attn_k.weight": (8, 64), f"blk.{i}.attn_v.weight": (36, np.zeros(64))}
    file, said = made(tensors=tensors), list[str]()
    file.stored = lambda name: name  # type: ignore[method-assign, assignment, return-value]  # by its name
    found: list[Any] = []

    def look(matrices: Any) -> str | None:
        found.extend(matrices)
        return "rows"

    monkeypatch.setattr(opener.gguf_i2s, "find_layout", look)
    _find_i2_s(file, count, said.append)
    assert [matrix[:3] for matrix in found] == [(f"blk.{i}.attn_q.weight", 8, 64) for i in range(seen)]
    assert all(gain is file.values[f"blk.{i}.attn_norm.weight"] for i, (*_, gain) in enumerate(found))
    assert file.i2_s == "rows" and said == ["I2_S in the layout 'rows', found by the zeros of its columns"]
    monkeypatch.setattr(opener.gguf_i2s, "find_layout", lambda matrices: None)
    _find_i2_s(file, count, said.append)
    assert file.i2_s == "rows" and "'rows', taken because published files have it" in said[1]


@pytest.mark.parametrize(("tensors", "looked"), [
    ({}, False), ({"x": (36, np.zeros((4, 64)))}, True), ({"x": (36, np.zeros((4, 64))), "y": (4, 64)}, True),
])
def test_layouts_are_looked_for_where_it_matters(tensors: dict[str, Any], looked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(opener, "_find_i2_s", lambda file, layers, progress: calls.append((layers, progress)))
    monkeypatch.setattr(opener, "_read", lambda file, family, shape, tick, keep: (shape, keep))
    file = made(tensors=tensors)
    read: Any = opener._weights(file, _family(file), SHAPE, print, as_stored)
    assert read == (SHAPE, as_stored) and calls == [(2, print)] * looked


def test_what_is_said_of_a_file(tmp_path: Path) -> None:
    """Types of the layers' matrices, bytes of all tensors, and a name; the reader beneath knows tensors of no dimension."""
    weights = random_weights(replace(FILE_SHAPE, tied=False, layers=1), 2, LLAMA, "int4")
    write_gguf(tmp_path / "m.gguf", weights, "F16")
    files = opener.open_gguf(tmp_path / "m.gguf")
    floats = 2 * 263 * 64 + 3 * 64
    assert (files.format, files.name, files.bytes) == ("GGUF, F16", "m", 4 * floats + 2 * weights.shape.linear_weights)
    assert opener.open_gguf(tmp_path / "m.gguf", "other").name == "other"
    writer = gguf.GGUFWriter(tmp_path / "n.gguf", "llama")
    add_stored(writer, "x", (), 0, np.array([7.0], np.float32))
    add_stored(writer, "y", (2, 3), 0, np.arange(6, dtype=np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    file = GgufFile(tmp_path / "n.gguf")
    assert (file.shape("x"), file.shape("y"), file.size) == ((1,), (2, 3), 28)
    assert file.floats("x", (1,)).tolist() == [7.0] and file.floats("y", (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    for rows in (1, 2, 5):
        assert file.first_rows("y", rows).tolist() == [[0, 1, 2], [3, 4, 5]][:rows]


# ---- architectures ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["bitnet", "llama", "phi3", "qwen2"])
def test_most_architectures_have_nothing_more(arch: str) -> None:
    """Not even a field of others is looked at."""
    file, parts, norm = made({"granite.embedding_scale": 2.0}), list[Any](), np.ones(4, np.float32)
    assert finish_shape(file, arch, SHAPE) is SHAPE and finish_weights(file, arch, SHAPE, parts, norm) == (parts, norm)
    assert file.fields.left({}) == list(file.fields) and (fused_in(arch, "q") is not None) == (arch == "phi3")
    assert fused_in(arch, "o") is None


@pytest.mark.parametrize(("count", "unrotated"), [(3, ()), (4, (3,)), (7, (3,)), (8, (3, 7))])
def test_layers_that_are_not_rotated(count: int, unrotated: tuple[int, ...]) -> None:
    shape = ModelShape(**{**SHAPE.to_dict(), "layers": count})  # type: ignore[arg-type]  # sizes
    assert finish_shape(made(), "smollm3", shape).unrotated == unrotated


def test_epsilon_of_granite() -> None:
    assert finish_shape(made({"granite.embedding_scale": 4.0}), "granite", SHAPE).rms_eps == SHAPE.rms_eps / 16
    assert finish_shape(made(), "granite", SHAPE) == SHAPE
    with pytest.raises(HwgenError, match=r"granite.residual_scale is 0.0, a positive number"):
        finish_shape(made({"granite.residual_scale": 0}), "granite", SHAPE)


PLACE = "llama.rope.scaling"


def rotary_of(tensors: Mapping[str, Any] | None = None, base: float | None = 500.0, **fields: Any) -> Rotary:
    said = {f"{PLACE}.{name}": value for name, value in fields.items()}
    return read_rotary(made({**said, "llama.rope.freq_base": base}, tensors), "llama", 8, 128)


YARN: Callable[..., tuple[float, ...]] = yarn_factors


@pytest.mark.parametrize(("fields", "expected"), [
    ({}, Rotary(500.0)), ({"base": None}, Rotary(10000.0)), ({"base": 1.0}, Rotary(1.0)),
    ({"factor": 2.0, "type": "linear"}, Rotary(500.0, (2.0,) * 4)), ({"factor": 1.0}, Rotary(500.0)),
    ({"factor": 0.0}, Rotary(500.0)), ({"factor": 0.0, "type": "linear"}, Rotary(500.0)),
    ({"factor": 2.0, "type": "none"}, Rotary(500.0)), ({"type": "linear"}, Rotary(500.0)),
    ({"factor": 4.0, "type": "yarn"}, Rotary(
        500.0, YARN(factor=4.0, fast=32.0, slow=1.0, original=128.0, theta=500.0, head_dim=8), yarn_attention(4.0)
    )),
    ({"factor": 4.0, "type": "yarn", "yarn_beta_fast": 9.0, "yarn_beta_slow": 2.0, "original_context_length": 64,
      "attn_factor": 2.0},
     Rotary(500.0, YARN(factor=4.0, fast=9.0, slow=2.0, original=64.0, theta=500.0, head_dim=8), 2 * yarn_attention(4.0))),
    *[({"factor": 4.0, "type": "yarn", "original_context_length": length}, Rotary(
        500.0, YARN(factor=4.0, fast=32.0, slow=1.0, original=float(length), theta=500.0, head_dim=8), yarn_attention(4.0)
    )) for length in (950, 951)],  # pairs that turn just less than 32 times, and just more often
    ({"factor": 4.0, "type": "yarn", "yarn_attn_factor": 0.5}, Rotary(
        500.0, YARN(factor=4.0, fast=32.0, slow=1.0, original=128.0, theta=500.0, head_dim=8), 0.5 * yarn_attention(4.0)
    )),
])
def test_rotary_fields(fields: dict[str, Any], expected: Rotary) -> None:
    assert rotary_of(**fields) == expected


@pytest.mark.parametrize(("fields", "words"), [
    ({"factor": 2.0}, "factor is 2, but there is no llama.rope.scaling.type"), ({"base": 0}, "freq_base is 0.0, a positive"),
    ({"type": "su"}, "type is 'su'; supported"), ({"attn_factor": 0.5}, "attn_factor is 0.5; supported: 1.0"),
    ({"attn_factor": 2.0, "type": "linear"}, "attn_factor is 2.0"), ({"type": "yarn", "base": 1.0}, "yarn wants one above 1"),
    ({"type": "yarn", "yarn_beta_slow": 0}, "yarn_beta_slow is 0.0"), ({"type": "linear", "factor": -1}, "factor is -1.0"),
])
def test_rotary_fields_that_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(HwgenError, match=words):
        rotary_of(**fields)


def test_the_older_field_of_a_factor() -> None:
    assert read_rotary(made({"llama.rope.scale_linear": 3.0}), "llama", 8, 128).factors == (3.0,) * 4
    both = made({"llama.rope.scale_linear": 3.0, f"{PLACE}.factor": 2.0, f"{PLACE}.type": "linear"})
    assert read_rotary(both, "llama", 8, 128).factors == (2.0,) * 4


def test_rotary_factors_in_tensors() -> None:
    """Each divides its frequency, besides a factor for all; ones change nothing."""
    def freqs(*values: float) -> dict[str, Any]:
        return {"rope_freqs.weight": (0, np.array(values, np.float32))}

    assert rotary_of(freqs(1, 1, 1, 1)) == Rotary(500.0) and rotary_of(freqs(1, 1, 1, 2)).factors == (1, 1, 1, 2)
    assert rotary_of(freqs(1, 1, 1, 1), factor=2.0, type="linear").factors == (2, 2, 2, 2)
    assert rotary_of(freqs(1, 1.5, 2, 4), factor=2.0, type="linear").factors == (2, 3, 4, 8)
    for wrong in (0, -1):
        with pytest.raises(HwgenError, match=r"rope_freqs.weight has factors that are not above 0"):
            rotary_of(freqs(1, 1, wrong, 1))


def test_short_rotary_factors() -> None:
    """For the original context; the context of the model is that, or shorter."""
    def short(*values: float) -> dict[str, Any]:
        return {gguf_classes.SHORT_FACTORS: (0, np.array(values, np.float32))}

    assert rotary_of(short(1, 2, 3, 4), original_context_length=64) == Rotary(500.0, (1, 2, 3, 4), 1.0, 64)
    found = rotary_of(short(1, 1, 1, 0.5), original_context_length=64, type="longrope", attn_factor=1.25)
    assert found == Rotary(500.0, (1, 1, 1, 0.5), 1.25, 64)
    for wrong in (0, -1):
        with pytest.raises(HwgenError, match="has factors that are not above 0"):
            rotary_of(short(1, 1, wrong, 1), original_context_length=64)
    with pytest.raises(HwgenError, match=r"type is 'yarn', but there is a tensor rope_factors_short.weight"):
        rotary_of(short(1, 2, 3, 4), original_context_length=64, type="yarn")
    for limit, context in ((64, 64), (127, 127), (200, 128)):
        file = made({f"{PLACE}.original_context_length": limit}, {gguf_classes.SHORT_FACTORS: (0, np.ones(8, np.float32))})
        assert read_gguf_shape(file, "llama", _family(file)).max_context == context
