"""Types of GGUF tensors: values are those of the format's own library; of types that it does not know, those written by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.int4 import BlockMatrix, Int4Matrix, to_machine
from hwgen.shape import ModelShape
from hwgen.sw.models.gguf_file import GgufFile
from hwgen.sw.models.gguf_i2s import LAYOUTS, find_layout
from hwgen.sw.models.gguf_types import WIDE_Q2_0, TensorType, type_of
from hwgen.sw.models.open import open_model
from hwgen.ternary import TernaryMatrix
from hwgen.weights import dense, random_weights

from .llama_files import SHAPE, add_stored, interleave, write_bitnet, write_gguf

gguf = pytest.importorskip("gguf")

#: Rows long enough for blocks of 256.
WIDE = replace(SHAPE, hidden=256, layers=1, head_dim=64, ffn=512)
WEIGHTS = random_weights(WIDE, 2, LLAMA, "int4")

#: Where the numbers of half precision of a block begin.
HALVES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "TQ1_0": (52,), "TQ2_0": (64,)}


def random_blocks(name: str, rows: int, inputs: int, seed: int = 1) -> np.ndarray:
    """Any bytes, but numbers of half precision that are finite and of both signs ``[rows, bytes]``."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, inputs // block, size), dtype=np.uint8)
    for at in HALVES[name]:
        halves = rng.normal(0, 0.01, data.shape[:2]).astype(np.float16)
        data[..., at : at + 2] = halves[..., None].view(np.uint8)
    if name == "TQ2_0":
        data[..., :64] &= 0b10101010
    return data.reshape(rows, -1)


def kind_of(name: str) -> TensorType:
    found = type_of(int(gguf.GGMLQuantizationType[name]))
    assert found is not None
    return found


@pytest.mark.parametrize(("name", "group"), [("Q4_0", 32), ("Q4_1", 32), ("Q4_K", 32), ("TQ1_0", 128), ("TQ2_0", 128)])
def test_blocks_as_they_are(name: str, group: int) -> None:
    """Codes and scales make the values of the library, up to one rounding of a float32."""
    if name in HALVES:
        data = random_blocks(name, 6, 512)
    else:
        w = np.random.default_rng(3).normal(0, 1, (6, 512)).astype(np.float32)
        data = gguf.quantize(w, gguf.GGMLQuantizationType[name])
    matrix = kind_of(name).matrix(data, (6, 512))
    assert isinstance(matrix, BlockMatrix) and matrix.group == group
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType[name])
    scale = np.repeat(matrix.scale, group, axis=1)
    assert (np.abs(matrix.dense() - expected) <= 32 * scale * 2**-23 + np.abs(expected) * 2**-22).all()
    assert len(np.unique(expected)) > 12 or name.startswith("T")


def test_q4_k_on_the_machine() -> None:
    """Only scales and midpoints are rounded, to the units of their row; codes are those of the file."""
    data = random_blocks("Q4_K", 16, 1024, 5)
    expected = gguf.dequantize(data, gguf.GGMLQuantizationType.Q4_K)
    matrix = kind_of("Q4_K").matrix(data, (16, 1024))
    assert isinstance(matrix, BlockMatrix)
    stored = to_machine(matrix)
    np.testing.assert_array_equal(stored.codes, matrix.codes)
    half_scale, half_midpoint = 8 * 0.5, 8 * 0.5  # at the largest code, in units of the row
    assert (np.abs(stored.dense() - expected) <= stored.row_scale[:, None] * (half_scale + half_midpoint) * 1.001).all()


@pytest.mark.parametrize("name", ["Q5_0", "Q5_1", "Q8_0", "Q5_K", "Q6_K", "IQ4_NL", "BF16", "F16"])
def test_floats_of_the_library(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    w = np.random.default_rng(3).normal(0, 1, (6, 512)).astype(np.float32)
    data = random_blocks(name, 6, 512) if name in HALVES else gguf.quantize(w, kind)
    matrix = kind_of(name).matrix(data.reshape(-1).view(np.uint8), (6, 512))
    assert isinstance(matrix, np.ndarray)
    np.testing.assert_array_equal(matrix, gguf.dequantize(data, kind))


@pytest.mark.parametrize("shape", [(128,), (3, 64), (2, 3, 32)])
@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "F16"])
def test_tensors_of_any_dimensions(name: str, shape: tuple[int, ...]) -> None:
    """Blocks lie along the last."""
    kind, w = gguf.GGMLQuantizationType[name], np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)
    data = gguf.quantize(w.reshape(-1, shape[-1]), kind)
    found = kind_of(name).floats(data.reshape(-1).view(np.uint8), shape)
    assert found.shape == shape and found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(-1, shape[-1]), gguf.dequantize(data, kind))


def two_bits(codes: np.ndarray, d: np.ndarray, block: int) -> np.ndarray:
    """Q2_0, weight by weight: d, then weight j plus 1 in bits 2 (j % 4) of byte j / 4."""
    rows, inputs = codes.shape
    out = np.zeros((rows, inputs // block, 2 + block // 4), np.uint8)
    out[..., :2] = d.astype(np.float16)[..., None].view(np.uint8)
    for r in range(rows):
        for i in range(inputs):
            out[r, i // block, 2 + i % block // 4] |= (int(codes[r, i]) + 1) << (2 * (i % 4))
    return out


def base3(codes: np.ndarray, d: np.ndarray) -> np.ndarray:
    """PTQ1_0, byte by byte: 16 bytes of five, 8 bytes of five, 2 bytes of four trits, d. The trits of a byte are 3^4, 3^3, ...,
    scaled to 256 so that a product by three moves the next one out at the top.
    """
    rows, inputs = codes.shape
    out = np.zeros((rows, inputs // 128, 28), np.uint8)
    out[..., 26:] = d.astype(np.float16)[..., None].view(np.uint8)
    for r in range(rows):
        for b in range(inputs // 128):
            trits, first, byte = codes[r, 128 * b :] + 1, 0, 0
            for count, deep in ((16, 5), (8, 5), (2, 4)):
                for m in range(count):
                    value = sum(int(trits[first + n * count + m]) * 3 ** (4 - n) for n in range(deep))
                    out[r, b, byte] = -(-value * 256 // 243)
                    byte += 1
                first += count * deep
    return out


@pytest.mark.parametrize(("number", "block", "top"), [(42, 64, 3), (42, 128, 3), (142, 128, 3), (143, 128, 2)])
def test_types_of_prism(number: int, block: int, top: int) -> None:
    """Codes as they were written, scales of either sign; a digit 3 of Q2_0 means 2."""
    rng = np.random.default_rng(number)
    codes, d = rng.integers(-1, top, (4, 256)), rng.normal(0, 1, (4, 256 // block)).astype(np.float16).astype(np.float32)
    data = base3(codes, d) if number == 143 else two_bits(codes, d, block)
    kind = WIDE_Q2_0 if (number, block) == (42, 128) else type_of(number)
    assert kind is not None
    matrix = kind.matrix(data.reshape(-1), (4, 256))
    assert isinstance(matrix, BlockMatrix) and matrix.group == block and matrix.midpoint is None
    np.testing.assert_array_equal(matrix.dense(), codes * np.repeat(d, block, axis=1))


@pytest.mark.parametrize("block", [64, 128])
def test_either_q2_0(block: int, tmp_path: Path) -> None:
    """The number 42 had blocks of 128 before it had those of 64: the distance of tensors tells."""
    rng = np.random.default_rng(7)
    writer, values = gguf.GGUFWriter(tmp_path / "m.gguf", "llama"), {}
    for name in "ab":
        codes, d = rng.integers(-1, 2, (16, 256)), rng.uniform(0.5, 1, (16, 256 // block)).astype(np.float16).astype(np.float32)
        add_stored(writer, name, (16, 256), 42, two_bits(codes, d, block))
        values[name] = codes * np.repeat(d, block, axis=1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "m.gguf")
    for name, expected in values.items():
        np.testing.assert_array_equal(file.floats(name, (16, 256)), expected)


def test_mixed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q4_K_M as people have it: most matrices Q4_K, some Q6_K, which are rounded again, and the loss is said."""
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    stored: dict[str, tuple[int, np.ndarray]] = {}
    for number, (name, place) in enumerate((
        ("q", "attn_q"), ("k", "attn_k"), ("v", "attn_v"), ("o", "attn_output"), ("gate", "ffn_gate"), ("up", "ffn_up"),
        ("down", "ffn_down"),
    )):
        kind = "Q6_K" if name in ("v", "down") else "Q4_K"
        rows, inputs = LLAMA.matrices(WIDE)[name]
        data = random_blocks(kind, rows, inputs, number)
        stored[f"blk.0.{place}.weight"] = int(gguf.GGMLQuantizationType[kind]), data
    write_gguf(tmp_path / "m.gguf", WEIGHTS, "F16", stored=stored)
    said: list[str] = []
    model = open_model(tmp_path / "m.gguf", said.append, quantized=True)
    for name, matrix in model.weights.layers[0].matrices.items():
        place = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "down": "ffn_down"}.get(name, f"ffn_{name}")
        number, data = stored[f"blk.0.{place}.weight"]
        expected = gguf.dequantize(data, gguf.GGMLQuantizationType(number))
        w = interleave(dense(matrix), 64) if name in "qk" else dense(matrix)
        error = np.linalg.norm(w - expected) / np.linalg.norm(expected)
        assert isinstance(matrix, Int4Matrix) == (name in ("v", "down")) and error < (0.15 if name in ("v", "down") else 1e-6)
    line = next(text for text in said if "4-bit" in text)
    assert "2 matrices (2 of Q6_K) made 4-bit to nearest in groups of 32" in line and "relative error" in line
    again = open_model(tmp_path / "m.gguf", said.append, quantized=True)
    assert "2 of them from" in said[-1]
    for name in ("v", "down"):
        one, two = (m.weights.layers[0].matrices[name] for m in (model, again))
        for part in ("codes", "scales", "midpoints", "row_scale"):
            np.testing.assert_array_equal(getattr(one, part), getattr(two, part))
    kept = sorted((tmp_path / "cache" / "int4").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes()[:100])  # damaged: made again
    open_model(tmp_path / "m.gguf", said.append, quantized=True)
    assert "1 of them from" in said[-1] and kept[0].stat().st_size > 100


TERNARY = ModelShape(hidden=128, layers=2, heads=2, kv_heads=1, head_dim=64, ffn=256, vocab=263, activation="silu", max_context=64)


def i2_s(layout: str, matrix: TernaryMatrix) -> tuple[int, np.ndarray]:
    """A matrix as bitnet.cpp writes it, digit by digit."""
    rows, inputs = matrix.shape
    digits, out = (matrix.trits + 1).astype(int), np.zeros(rows * inputs // 4 + 32, np.uint8)
    for r in range(rows):
        for c in range(inputs):
            if layout == "rows":
                byte, shift = r // 4 * inputs + c, 6 - 2 * (r % 4)
            else:
                run = 128 if layout == "x86" else 64
                n = r * inputs + c
                byte, shift = n // run * (run // 4) + n % (run // 4), 6 - 2 * (n % run // (run // 4))
            out[byte] |= digits[r, c] << shift
    out[rows * inputs // 4 :][:4] = np.array([matrix.scale], np.float32).view(np.uint8)
    return 36, out


def trained(shape: ModelShape) -> Any:
    """Random weights whose columns have more zeros where the gain before them is large."""
    weights, rng = random_weights(shape, 5), np.random.default_rng(1)
    before = {"q": "input_layernorm", "k": "input_layernorm", "v": "input_layernorm", "o": "attn_sub_norm",
              "gate": "post_attention_layernorm", "up": "post_attention_layernorm", "down": "ffn_sub_norm"}
    layers = []
    for layer in weights.layers:
        matrices = {}
        for name, matrix in layer.matrices.items():
            zero = rng.random(matrix.shape) < 0.6 * layer.norms[before[name]] / 1.5
            matrices[name] = replace(matrix, trits=np.where(zero, 0, matrix.trits).astype(np.int8))
        layers.append(layer.with_matrices(matrices))
    return replace(weights, layers=tuple(layers))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_i2_s(layout: str, tmp_path: Path) -> None:
    """The layout is found by the weights; trits and scales are those that were written."""
    weights, said = trained(TERNARY), []
    write_bitnet(tmp_path / "m.gguf", weights, "bitnet-b1.58", pack=lambda matrix: i2_s(layout, matrix))
    loaded = open_model(tmp_path / "m.gguf", said.append)
    assert f"I2_S in the layout {layout!r}, found by the zeros of its columns" in said
    for read, written in zip(loaded.weights.layers, weights.layers, strict=True):
        for name, matrix in read.matrices.items():
            np.testing.assert_array_equal(matrix.trits, written.matrices[name].trits)
            assert matrix.scale == written.matrices[name].scale


def test_i2_s_that_does_not_tell(tmp_path: Path) -> None:
    """Random weights: the published layout is taken, and that is said. A digit 3 and a scale of 0 are refused."""
    weights, said = random_weights(TERNARY, 5), []
    write_bitnet(tmp_path / "m.gguf", weights, "bitnet-b1.58", pack=lambda matrix: i2_s("x86", matrix))
    loaded = open_model(tmp_path / "m.gguf", said.append)
    assert any("layout 'x86', taken because published files have it" in text and "take TQ1_0" in text for text in said)
    np.testing.assert_array_equal(loaded.weights.layers[1].matrices["o"].trits, weights.layers[1].matrices["o"].trits)

    one_layer = replace(weights, shape=replace(TERNARY, layers=1), layers=weights.layers[:1])
    for place, value, words in ((slice(1), 255, "holds the digit 3"), (slice(-32, None), 0, "has the scale 0.0")):

        def damaged(matrix: TernaryMatrix, place: slice = place, value: int = value) -> tuple[int, np.ndarray]:
            number, data = i2_s("x86", matrix)
            data[place] = value
            return number, data

        write_bitnet(tmp_path / "n.gguf", one_layer, "bitnet-b1.58", pack=damaged)
        with pytest.raises(HwgenError, match=words):
            open_model(tmp_path / "n.gguf")


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The 4-bit model is the same without it, and where to put it is said once a matrix."""
    write_gguf(tmp_path / "m.gguf", random_weights(replace(SHAPE, layers=1), 2, LLAMA, "int4"), "F16")
    said: list[str] = []
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "m.gguf"))
    without = open_model(tmp_path / "m.gguf", said.append, quantized=True).weights.layers[0]
    assert sum("cannot be written (Not a directory); set HWGEN_CACHE to another directory" in text for text in said) == 7
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    for name, matrix in open_model(tmp_path / "m.gguf", quantized=True).weights.layers[0].matrices.items():
        np.testing.assert_array_equal(matrix.dense(), without.matrices[name].dense())


def test_sizes_that_have_no_4_bit_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float model of odd sizes can be read; made 4-bit it would not fit into the machine's groups."""
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path / "cache"))
    weights = random_weights(replace(SHAPE, layers=1, ffn=172), 2, LLAMA)
    layer, rng = weights.layers[0], np.random.default_rng(1)
    floats = {name: rng.normal(0, 1, matrix.shape).astype(np.float32) for name, matrix in layer.matrices.items()}
    write_gguf(tmp_path / "m.gguf", replace(weights, layers=(layer.with_matrices(floats),)), "F32")
    assert open_model(tmp_path / "m.gguf").shape.ffn == 172
    with pytest.raises(HwgenError, match="layer 0 down cannot be made 4-bit: inputs must be a multiple of 16, not 172") as error:
        open_model(tmp_path / "m.gguf", quantized=True)
    assert error.value.kind == "architecture" and error.value.fix == "choose a model whose sizes are multiples of 16"


def test_a_layout_counts_as_found_where_it_is_far_above_chance() -> None:
    """As many zeros as the gain is large, in columns of two matrices: one alone does not tell enough."""
    inputs, rows = 29, 512
    order = np.random.default_rng(3).permutation(inputs)  # such that the other layouts see little of it
    trits = (np.random.default_rng(1).random((rows, inputs)) > np.linspace(0.1, 0.9, inputs)[order]).astype(np.int8)
    _, data = i2_s("x86", TernaryMatrix(trits, np.float32(1)))
    gains = np.linspace(1, 2, inputs).astype(np.float32)[order]
    part = (data, rows, inputs, gains)
    assert find_layout([part]) is None and find_layout([part] * 2) == "x86"
    assert find_layout([]) is None
