"""4-bit safetensors of others: GPTQ, AWQ, compressed-tensors. Matrices are packed digit by digit, or by the format's library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import itemgetter, methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import numpy as safetensors

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.golden.float_llama import FloatLlama
from hwgen.int4 import BlockMatrix
from hwgen.shape import ModelShape
from hwgen.sw.models.config_json import config_of, read_config
from hwgen.sw.models.llama import load_weights, read_shape
from hwgen.weights import ModelWeights, random_weights

from .llama_files import HF

SHAPE = ModelShape(
    hidden=64, layers=1, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=64, activation="silu", max_context=128, rope_theta=5000.0,
    tied=False, rms_eps=1e-6,
)
WEIGHTS = random_weights(SHAPE, 2, LLAMA, "int4")

Tensors = dict[str, np.ndarray]


def parts(shape: tuple[int, int], group: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits ``[rows, inputs]``, zeros and scales ``[rows, groups]``."""
    rng, (rows, inputs) = np.random.default_rng(seed), shape
    groups = -(-inputs // group)
    q, zero = rng.integers(0, 16, shape), rng.integers(0, 16, (rows, groups))
    return q, zero, rng.uniform(0.01, 0.03, (rows, groups)).astype(np.float16)


def put(words: np.ndarray, at: tuple[int, ...], nibble: int, value: int) -> None:
    words[at] |= np.uint32(int(value) << 4 * nibble)


def gptq(place: str, q: np.ndarray, zero: np.ndarray, scale: np.ndarray, plus: int = 1) -> Tensors:
    rows, inputs = q.shape
    weight, zeros = np.zeros((inputs // 8, rows), np.uint32), np.zeros((zero.shape[1], rows // 8), np.uint32)
    for r in range(rows):
        for i in range(inputs):
            put(weight, (i // 8, r), i % 8, q[r, i])
        for g in range(zero.shape[1]):
            put(zeros, (g, r // 8), r % 8, (zero[r, g] - plus) % 16)
    return {f"{place}.qweight": weight.view(np.int32), f"{place}.qzeros": zeros.view(np.int32), f"{place}.scales": scale.T.copy(),
            f"{place}.g_idx": (np.arange(inputs) // -(-inputs // zero.shape[1])).astype(np.int32)}


def awq(place: str, q: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> Tensors:
    rows, inputs = q.shape
    weight, zeros = np.zeros((inputs, rows // 8), np.uint32), np.zeros((zero.shape[1], rows // 8), np.uint32)
    for word in range(rows // 8):
        for nibble, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            for i in range(inputs):
                put(weight, (i, word), nibble, q[8 * word + column, i])
            for g in range(zero.shape[1]):
                put(zeros, (g, word), nibble, zero[8 * word + column, g])
    return {f"{place}.qweight": weight.view(np.int32), f"{place}.qzeros": zeros.view(np.int32), f"{place}.scales": scale.T.copy()}


def compressed(place: str, q: np.ndarray, zero: np.ndarray, scale: np.ndarray, symmetric: bool = False) -> Tensors:
    """Packed by the format's own library."""
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    pack = helpers.pack_to_int32
    out = {
        f"{place}.weight_packed": pack(torch.from_numpy((q - 8).astype(np.int8)), 4).numpy(),
        f"{place}.weight_scale": scale, f"{place}.weight_shape": np.array(q.shape, np.int64),
    }
    if not symmetric:
        packed = pack(torch.from_numpy((zero - 8).astype(np.int8)), 4, packed_dim=0).numpy()
        out[f"{place}.weight_zero_point"] = np.ascontiguousarray(packed)
    return out


def is_symmetric(options: dict[str, Any]) -> bool:
    return bool(options.get("sym")) or "'symmetric': True" in str(options)


def write(
    path: Path, options: dict[str, Any], group: int, pack: Callable[..., Tensors],
    edit: Callable[[Tensors], object] = lambda tensors: None,
) -> ModelWeights:
    """A checkpoint, and the same model with its matrices as floats, from the definition ``scale (q - zero)``."""
    path.mkdir(exist_ok=True)
    tensors: Tensors = {
        "model.embed_tokens.weight": WEIGHTS.embedding, "model.norm.weight": WEIGHTS.norm, "lm_head.weight": WEIGHTS.head_rows,
    }
    layer, matrices = WEIGHTS.layers[0], {}
    for seed, (name, size) in enumerate(LLAMA.matrices(SHAPE).items()):
        q, zero, scale = parts(size, group, seed)
        if is_symmetric(options):
            zero = np.full_like(zero, 8)
        tensors |= pack(f"model.layers.0.{HF[name]}", q, zero, scale)
        s, z = (np.repeat(v, group, axis=1)[:, : size[1]] for v in (scale.astype(np.float32), zero))
        matrices[name] = (s * (q - z)).astype(np.float32)
    tensors |= {f"model.layers.0.{name}.weight": gain for name, gain in layer.norms.items()}
    edit(tensors)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **config_of(SHAPE), "quantization_config": options}
    (path / "config.json").write_text(json.dumps(config))
    safetensors.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return replace(WEIGHTS, layers=(layer.with_matrices(matrices),))


def load(path: Path) -> ModelWeights:
    config = read_config(path)
    return load_weights(path, config, read_shape(config))


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False, "damp_percent": 0.01}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}


def scheme(symmetric: bool, **weights: Any) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"], "kv_cache_scheme": None, "config_groups": {"group_0": {
            "targets": ["Linear"], "input_activations": None, "output_activations": None, "weights": {
                "num_bits": 4, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 32, "dynamic": False,
                "actorder": None, "observer": "minmax", "block_structure": None, **weights,
            },
        }},
    }


#: One rounding of a float32 of the largest products here: the loader keeps code and scale, these files code, zero and scale.
ROUNDING = 0.03 * 32 * 2**-24


@pytest.mark.parametrize(("options", "group", "pack", "own"), [
    (GPTQ, 32, gptq, 32), (GPTQ | {"sym": True, "group_size": 16}, 16, gptq, 16),
    (GPTQ | {"checkpoint_format": "gptq_v2"}, 32, lambda *a: gptq(*a, plus=0), 32),
    (AWQ, 32, awq, 32), (AWQ | {"group_size": 16}, 16, awq, 16),
    (scheme(True), 32, lambda *a: compressed(*a, symmetric=True), 32),
    (scheme(False, group_size=16), 16, compressed, 16),
], ids=["gptq", "gptq-16-symmetric", "gptq-v2", "awq", "awq-16", "compressed", "compressed-16-zeros"])
def test_values(options: dict[str, Any], group: int, pack: Callable[..., Tensors], own: int, tmp_path: Path) -> None:
    """4-bit blocks of the same values, up to one rounding of a float32."""
    expected, weights = write(tmp_path, options, group, pack), load(tmp_path)
    for name, matrix in weights.layers[0].matrices.items():
        assert isinstance(matrix, BlockMatrix) and matrix.group == own and (matrix.midpoint is None) == is_symmetric(options)
        np.testing.assert_allclose(matrix.dense(), expected.layers[0].matrices[name], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("size", [96, -1, None, 48])
def test_large_groups_are_cut(size: int | None, tmp_path: Path) -> None:
    """Groups that the machine has not: each becomes several of the same scale. ``-1``, or no word of it: a scale a row."""
    options = {name: value for name, value in (GPTQ | {"group_size": size}).items() if value is not None}

    def pack(place: str, q: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> Tensors:
        tensors = gptq(place, q, zero, scale)
        tensors.pop(f"{place}.g_idx")
        return tensors

    expected, weights = write(tmp_path, options, 48 if size == 48 else 96, pack), load(tmp_path)
    for name, matrix in weights.layers[0].matrices.items():
        assert matrix.group == (16 if size == 48 else 64 if size != 96 and matrix.shape[1] == 64 else 32)
        np.testing.assert_allclose(matrix.dense(), expected.layers[0].matrices[name], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("options", "group", "pack"), [
    ({"quant_method": "awq", "bits": 4}, 128, awq), ({"quant_method": "awq", "w_bit": 4, "q_group_size": 32}, 32, awq),
    ({"quant_method": "awq", "bits": 4, "w_bit": 4, "group_size": 32, "q_group_size": 16}, 32, awq),
], ids=["awq", "awq-other-names", "awq-both-names"])
def test_fields_that_are_left_out(options: dict[str, Any], group: int, pack: Callable[..., Tensors], tmp_path: Path) -> None:
    expected, weights = write(tmp_path, options, group, pack), load(tmp_path)
    for name, matrix in weights.layers[0].matrices.items():
        np.testing.assert_allclose(matrix.dense(), expected.layers[0].matrices[name], rtol=0, atol=ROUNDING)


def test_a_scheme_that_says_little(tmp_path: Path) -> None:
    """Of compressed-tensors: symmetric groups in its own packing, and a scale a row has no size."""
    def pack(*given: Any) -> Tensors:
        return compressed(*given, symmetric=True)

    expected = write(tmp_path, scheme(True, strategy="channel", group_size=None), 96, pack)
    weights = {"num_bits": 4, "type": "int", "strategy": "channel"}
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, matrix in load(tmp_path).layers[0].matrices.items():
        assert matrix.midpoint is None
        np.testing.assert_allclose(matrix.dense(), expected.layers[0].matrices[name], rtol=0, atol=ROUNDING)


def test_act_order_becomes_floats(tmp_path: Path) -> None:
    """Groups that are no runs of inputs have no form on the machine: the values are read, to be made 4-bit again."""
    order = np.random.default_rng(1).permutation(64) // 32

    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("q_proj.g_idx")]:
            tensors[name] = order.astype(np.int32)

    write(tmp_path, GPTQ, 32, gptq, edit)
    matrices = load(tmp_path).layers[0].matrices
    q, zero, scale = parts((64, 64), 32, 0)
    assert isinstance(matrices["q"], np.ndarray) and isinstance(matrices["k"], BlockMatrix)
    np.testing.assert_array_equal(matrices["q"], scale.astype(np.float32)[:, order] * (q - zero[:, order]))


def test_zero_biases(tmp_path: Path) -> None:
    """Quantisers write a bias of zeros for every matrix; one of other values is asked for by the family, or refused."""
    bias = {f"model.layers.0.{place}.bias": np.zeros(32, np.float16) for place in ("self_attn.k_proj", "self_attn.v_proj")}
    write(tmp_path, GPTQ, 32, gptq, lambda t: t.update(bias))
    load(tmp_path)
    bias["model.layers.0.self_attn.k_proj.bias"][3] = 1
    write(tmp_path, GPTQ, 32, gptq, lambda t: t.update(bias))
    with pytest.raises(HwgenError, match=r"self_attn.k_proj.bias is no part of a llama model"):
        load(tmp_path)


def test_logits_of_transformers(tmp_path: Path) -> None:
    """compressed-tensors, read by its own library inside transformers, which multiplies in the type of the scales."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    write(tmp_path, scheme(True), 32, lambda p, q, z, scale: compressed(p, q, z, scale.astype(np.float32), symmetric=True))
    config = transformers.CompressedTensorsConfig(run_compressed=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, dtype=torch.float32).eval()
    tokens = torch.arange(60)[None] % SHAPE.vocab
    with torch.no_grad():
        expected = theirs(tokens).logits
    torch.testing.assert_close(FloatLlama(load(tmp_path))(tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("options", "words"), [
    (GPTQ | {"bits": 8}, "quantization_config.bits is 8; supported: 4"), (GPTQ | {"lm_head": True}, "lm_head is True"),
    (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; supported: 'gptq' or 'gptq_v2'"),
    (GPTQ | {"rotation": "hadamard"}, r"the field rotation \('hadamard'\) is not known"),
    (GPTQ | {"group_size": "x"}, "group_size is 'x'"), (GPTQ | {"group_size": 0}, "group_size is 0; supported: a number of inputs"),
    (GPTQ | {"group_size": -2}, "group_size is -2; supported: a number of inputs, or -1"),
    (AWQ | {"version": "gemv"}, "version is 'gemv'; supported: 'gemm'"), (AWQ | {"bits": 3}, "bits is 3"),
    (scheme(True, num_bits=8), "num_bits is 8"), (scheme(True, type="float"), "weights.type is 'float'"),
    (scheme(True, strategy="tensor"), "strategy is 'tensor'; supported: 'group' or 'channel'"),
    (scheme(True) | {"format": "nvfp4-pack-quantized"}, "format is 'nvfp4-pack-quantized'"),
    (scheme(True) | {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is {'num_bits': 8}"),
    ({"quant_method": "fp8"}, "quant_method is 'fp8'; supported: 'hwgen_int4', 'gptq', 'awq', 'compressed-tensors' or float"),
])
def test_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path, options, 32, awq if options is AWQ else gptq)
    with pytest.raises(HwgenError, match=words) as error:
        load(tmp_path)
    assert error.value.kind == "architecture" and error.value.fix and "\n" not in str(error.value)


def test_damaged(tmp_path: Path) -> None:
    def edit(change: Callable[[Tensors], object]) -> None:
        write(tmp_path, GPTQ, 32, gptq, change)

    place = "model.layers.0.self_attn.q_proj"
    def other(part: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        edit(lambda t: t.update({f"{place}.{part}": change(t[f"{place}.{part}"])}))

    for group in (-1, 2, 7):
        other("g_idx", partial(np.full_like, fill_value=group))
        with pytest.raises(HwgenError, match="q_proj.g_idx names groups that are not there"):
            load(tmp_path)
    for kind, name in ((np.int16, "I16"), (np.uint32, "U32")):
        other("qweight", methodcaller("astype", kind))
        with pytest.raises(HwgenError, match=rf"q_proj.qweight is {name} \(8, 64\), I32 \(8, 64\) expected"):
            load(tmp_path)
    other("qweight", itemgetter(slice(4)))
    with pytest.raises(HwgenError, match=r"q_proj.qweight is I32 \(4, 64\), I32 \(8, 64\) expected"):
        load(tmp_path)
    edit(lambda t: t.pop(f"{place}.qzeros"))
    with pytest.raises(HwgenError, match="has no tensor model.layers.0.self_attn.q_proj.qzeros"):
        load(tmp_path)


def groups(**fields: Any) -> dict[str, Any]:
    """A scheme of compressed-tensors with other fields beside its weights."""
    return scheme(False) | {"config_groups": {"group_0": scheme(False)["config_groups"]["group_0"] | fields}}


@pytest.mark.parametrize(("options", "words"), [
    (scheme(True) | {"config_groups": {}}, "config_groups is {}; supported: one scheme for all matrices"),
    (groups(input_activations={"num_bits": 8}), "input_activations is {'num_bits': 8}; supported: absent"),
    (groups(format="float-quantized"), "config_groups: format is 'float-quantized'; supported: 'pack-quantized'"),
    (groups(weights=[4]), r"config_groups.weights is \[4\]; supported: an object"),
    (groups(weights=None), "num_bits is None; supported: 4"), (groups(rotation="hadamard"), "the field rotation"),
    (GPTQ | {"group_size": 24}, "q_proj has groups of 24 inputs; multiples of 16 load"),
    (GPTQ | {"dynamic": {"-:.*": {}}}, "dynamic is"), (AWQ | {"w_bit": 8}, "w_bit is 8; supported: 4"),
    ({"quant_method": "awq"}, "quantization_config.bits is None; supported: 4"),
    ({"quant_method": "hwgen_int4", "group": 24}, "group is 24; supported: one of"),
])
def test_schemes_that_are_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    def pack(place: str, q: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> Tensors:
        tensors = gptq(place, q, zero, scale)
        tensors.pop(f"{place}.g_idx")
        return tensors

    write(tmp_path, options, 24 if options.get("group_size") == 24 else 32, pack)
    with pytest.raises(HwgenError, match=words) as error:
        load(tmp_path)
    assert error.value.kind == "architecture" and error.value.fix


@pytest.mark.parametrize("symmetric", [True, False])
def test_order_of_compressed_tensors(symmetric: bool, tmp_path: Path) -> None:
    """``weight_g_idx`` that says nothing (-1, or runs of inputs), that makes groups of no runs, and that is damaged."""
    own = np.random.default_rng(1).permutation(64) // 32
    place = "model.layers.0.self_attn.q_proj"

    def loaded(index: np.ndarray) -> Any:
        write(
            tmp_path, scheme(symmetric), 32, lambda *parts: compressed(*parts, symmetric=symmetric),
            lambda t: t.update({f"{place}.weight_g_idx": index.astype(np.int32)}),
        )
        return load(tmp_path).layers[0].matrices["q"]

    plain = loaded(np.arange(64) // 32)
    assert isinstance(plain, BlockMatrix)
    np.testing.assert_array_equal(loaded(np.full(64, -1)).dense(), plain.dense())
    q, zero, scale = parts((64, 64), 32, 0)
    middle = 8 if symmetric else zero[:, own]
    np.testing.assert_array_equal(loaded(own), scale.astype(np.float32)[:, own] * (q - middle))
    with pytest.raises(HwgenError, match="q_proj.weight_g_idx names groups that are not there"):
        loaded(own + 1)


def test_a_shape_that_is_another(tmp_path: Path) -> None:
    change = {"model.layers.0.self_attn.q_proj.weight_shape": np.array([64, 60], np.int64)}
    write(tmp_path, scheme(False), 32, compressed, lambda t: t.update(change))
    with pytest.raises(HwgenError, match=r"q_proj.weight_shape says \(64, 60\), \(64, 64\) expected"):
        load(tmp_path)


@pytest.mark.parametrize(("options", "pack", "ffn", "words"), [
    (GPTQ, gptq, 104, "down_proj: inputs must be a multiple of 16, not 104"),
    (GPTQ, gptq, 100, "gate_proj has 100 rows and 64 inputs, words of eight digits hold multiples of 8"),
    (AWQ, awq, 100, "gate_proj has 100 rows, words of eight digits hold multiples of 8"),
    (scheme(False), compressed, 100, "down_proj: inputs must be a multiple of 16, not 100"),
], ids=["gptq", "gptq-words", "awq-words", "compressed"])
def test_sizes_that_the_machine_has_not(
    options: dict[str, Any], pack: Callable[..., Tensors], ffn: int, words: str, tmp_path: Path
) -> None:
    """Rows that no whole word of digits holds are left out of the tensors."""
    def packed(place: str, q: np.ndarray, zero: np.ndarray, scale: np.ndarray) -> Tensors:
        rows = len(q) if pack is compressed else len(q) // 8 * 8
        inputs = q.shape[1] if pack is not gptq else q.shape[1] // 8 * 8
        tensors = pack(place, q[:rows, :inputs], zero[:rows], scale[:rows])
        return {name: values for name, values in tensors.items() if not name.endswith("g_idx")}

    write(tmp_path, options, 32, packed)
    config = json.loads((tmp_path / "config.json").read_text())
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    for name, size in LLAMA.matrices(replace(SHAPE, ffn=ffn)).items():
        for part in [part for part in tensors if HF[name] in part]:
            tensors.pop(part)
        tensors |= packed(f"model.layers.0.{HF[name]}", *parts(size, 32, 1))
    safetensors.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": ffn}))
    with pytest.raises(HwgenError, match=words) as error:
        load(tmp_path)
    assert error.value.kind == "architecture" and error.value.fix
