"""Random models: what the compiler asks of them, packed as real ones are, and the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA, QWEN2, QWEN3, DecoderLayer
from hwgen.formats import round_bf16, widen_bf16
from hwgen.layout import pack_trits, unpack_trits
from hwgen.numerics import GROUP
from hwgen.published import PUBLISHED
from hwgen.rounding import ceil_div
from hwgen.sw.models.random_model import RandomModel, RandomTernary, random_model, sized_model
from hwgen.vocabulary import HEAD_LARGEST
from hwgen.weights import random_weights

from .llama_files import SHAPE

WIDE = replace(SHAPE, hidden=128, heads=8, ffn=256)

ENGINES = ("ternary", "grouped", "int4")


@pytest.mark.parametrize("inputs", [5, 64, 61, 62, 63, 4])
def test_packed_trits_are_those_of_a_matrix(inputs: int) -> None:
    """Bytes that a real matrix of the same trits has, whatever is left of the last one; every trit equally likely."""
    packed = RandomTernary(300, inputs, 1.0, (1, 2)).packed()
    trits = unpack_trits(packed)[:, :inputs]
    np.testing.assert_array_equal(pack_trits(trits), packed)
    assert abs(trits.mean()) < 0.1 and abs((trits == 0).mean() - 1 / 3) < 0.1
    rng, (whole, rest) = np.random.default_rng((1, 2)), divmod(inputs, 5)
    np.testing.assert_array_equal(packed[:, :whole], rng.integers(0, 243, (300, whole), dtype=np.uint8))
    if rest:
        assert np.unique(packed[:, -1] - rng.integers(0, 3**rest, 300, dtype=np.uint8)).size == 1, "the padding of all rows"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", [LLAMA, QWEN2, QWEN3], ids=lambda layer: layer.name)
def test_what_a_model_has(engine: str, layer: DecoderLayer) -> None:
    """Sizes and types of the parts are those of a model of real weights."""
    model, real = sized_model(WIDE, engine, layer), random_weights(WIDE, 1, layer, engine)
    assert model.layer is layer and model.engine == engine and len(model.layers) == len(real.layers) == WIDE.layers
    for found, wanted in zip(model.layers, real.layers, strict=True):
        for part in ("norms", "biases"):
            mine, theirs = getattr(found, part), getattr(wanted, part)
            assert {n: (v.shape, v.dtype) for n, v in mine.items()} == {n: (v.shape, v.dtype) for n, v in theirs.items()}
        assert found.matrices.keys() == wanted.matrices.keys()
        for name, matrix in found.matrices.items():
            other: Any = wanted.matrices[name]
            for part in ("codes", "scales", "midpoints", "row_scale") if engine == "int4" else ("codes",) * (engine == "grouped"):
                if getattr(other, part) is not None:
                    assert getattr(matrix, part).dtype == getattr(other, part).dtype
            if engine != "int4":
                assert matrix.packed().shape == other.packed().shape and matrix.packed().dtype == np.uint8
                assert float(np.float32(matrix.scale)) == matrix.scale > 0
            else:
                assert matrix.codes.shape == other.codes.shape and matrix.group == 128
    assert model.norm.shape == (WIDE.hidden,) and model.on_machine() is model
    for number in (-1, WIDE.layers, WIDE.layers + 1):
        with pytest.raises(IndexError):
            model.layers[number]
    assert not hasattr(model.layers[0].matrices["q"], "_nothing")


@pytest.mark.parametrize("engine", ENGINES)
def test_heads(engine: str) -> None:
    model = RandomModel(WIDE, LLAMA, engine, 7)
    table = widen_bf16(model.embedding_bits())
    assert table.shape == (WIDE.vocab, WIDE.hidden) and np.abs(table).min() >= 0.125 and np.abs(table).max() < 1
    assert 0.4 < (table < 0).mean() < 0.6
    integers, scales = model.quantized_head()
    assert integers.shape == table.shape and np.abs(integers).max() == HEAD_LARGEST[engine]
    part, some = model.quantized_head(slice(10, 30))
    assert part.shape == (20, WIDE.hidden) and some.shape == (20,)
    ternary, row_scales = model.short_head()
    assert (ternary.rows, ternary.inputs) == table.shape and row_scales.shape == scales.shape == (WIDE.vocab,)
    assert (widen_bf16(np.concatenate((row_scales, scales, some))) > 0).all()
    if engine == "grouped":
        assert model.grouped_head is not None
        assert model.grouped_head.codes.shape == (WIDE.vocab, WIDE.hidden // GROUP) and model.grouped_head.codes.min() >= 64
    else:
        assert model.grouped_head is None


def test_the_seed_decides() -> None:
    """Fewer layers are the first ones of the whole model; another seed is another model."""
    name = next(iter(PUBLISHED))
    one, two, other = random_model(name, 1, 3), random_model(name, 1, 2, context=1 << 20), random_model(name, 2, 2)
    assert two.shape == replace(one.shape, layers=2, max_context=1 << 20) and one.engine == two.engine
    assert random_model(name).shape == PUBLISHED[name].shape
    for i in range(2):
        for gain in one.layers[i].norms:
            np.testing.assert_array_equal(one.layers[i].norms[gain], two.layers[i].norms[gain])
        matrices = [model.layers[i].matrices["k"] for model in (one, two, other)]
        np.testing.assert_array_equal(matrices[0].packed(), matrices[1].packed())
        assert (matrices[0].packed() != matrices[2].packed()).any()
    assert (one.norm == two.norm).all() and (one.norm != other.norm).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_each_part_has_a_stream_of_its_own(engine: str) -> None:
    """Numbers of numpy's generator: of parts of the model behind 2^20, where no layer is, of a layer by its number."""
    model: Any = RandomModel(WIDE, QWEN2, engine, 7)

    def stream(*numbers: int) -> np.random.Generator:
        return np.random.default_rng((7, *numbers))

    head, most, (vocab, hidden) = 1 << 20, HEAD_LARGEST[engine], (WIDE.vocab, WIDE.hidden)
    np.testing.assert_array_equal(model.norm, stream(head, 0).uniform(0.5, 1.5, hidden).astype(np.float32))
    bits = stream(head, 1).integers(0, 1 << 16, (vocab, hidden), dtype=np.uint16)
    np.testing.assert_array_equal(model.embedding_bits() & 0x807F, bits & 0x807F)
    for rows, low, high in ((slice(None), 0, vocab), (slice(10, 30), 10, 30), (slice(vocab - 9, None), vocab - 9, vocab)):
        integers, scales = model.quantized_head(rows)
        rng = stream(head, 2, low)
        np.testing.assert_array_equal(integers, rng.integers(-most, most + 1, (high - low, hidden), dtype=np.int8))
        np.testing.assert_array_equal(scales, rng.integers(0x3900, 0x3A00, high - low, dtype=np.uint16))
    ternary, row_scales = model.short_head()
    np.testing.assert_array_equal(row_scales, stream(head, 3).integers(0x3900, 0x3A00, vocab, dtype=np.uint16))
    whole = stream(head, 4).integers(0, 243, (vocab, hidden // 5), dtype=np.uint8)
    np.testing.assert_array_equal(ternary.packed()[:, : hidden // 5], whole)
    if engine == "grouped":
        groups = model.grouped_head.packed().reshape(-1, ceil_div(GROUP, 5))
        whole = stream(head, 5).integers(0, 243, (len(groups), GROUP // 5), dtype=np.uint8)
        np.testing.assert_array_equal(groups[:, : GROUP // 5], whole)
        codes = stream(head, 5, 1).integers(64, 256, (vocab, hidden // GROUP), dtype=np.uint8)
        np.testing.assert_array_equal(model.grouped_head.codes, codes)
    rng = stream(head, 6)
    np.testing.assert_array_equal(model.key_centers.mean, rng.normal(0, 0.5, (WIDE.layers, 32)).astype(np.float32))
    np.testing.assert_array_equal(model.key_centers.first, rng.normal(0, 1, (WIDE.layers, 32)).astype(np.float32))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_layer_is_drawn_by_its_number(engine: str) -> None:
    """First the scales of its matrices, where they have one, then gains, then biases."""
    rng, layer = np.random.default_rng((7, 1)), RandomModel(WIDE, QWEN2, engine, 7).layers[1]
    matrices: dict[str, Any] = dict(layer.matrices)
    assert {name: m.seed for name, m in matrices.items()} == {n: (7, 1, i) for i, n in enumerate(QWEN2.matrices(WIDE))}
    for matrix in matrices.values():
        if engine != "int4":
            scale = rng.uniform(0.7, 1.3) * (1.5 / matrix.inputs) ** 0.5 / (150 if engine == "grouped" else 1)
            assert matrix.scale == float(np.float32(scale))
    for name, size in QWEN2.norms(WIDE).items():
        np.testing.assert_array_equal(layer.norms[name], rng.uniform(0.5, 1.5, size).astype(np.float32))
    for name, size in QWEN2.biases(WIDE).items():
        np.testing.assert_array_equal(layer.biases[name], round_bf16(rng.normal(0, 0.5, size)))
    assert len(layer.biases) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_every_value_of_its_range_is_drawn(engine: str) -> None:
    """Codes, digits and scales from the smallest to the largest, and none beyond."""
    large = replace(WIDE, vocab=6000)
    model: Any = RandomModel(large, LLAMA, engine, 3)
    integers, scales = model.quantized_head()
    most = {"ternary": 121, "grouped": 121, "int4": 127}[engine]
    assert (integers.min(), integers.max(), scales.min(), scales.max()) == (-most, most, 0x3900, 0x39FF)
    _, row_scales = model.short_head()
    assert (row_scales.min(), row_scales.max()) == (0x3900, 0x39FF)
    bits = model.embedding_bits()
    fields = bits >> 7 & 0xFF
    assert (np.unique(fields).tolist(), (bits >> 15).max(), (bits & 127).min(), (bits & 127).max()) == ([124, 125, 126], 1, 0, 127)
    matrix = model.layers[0].matrices["down"]
    if engine == "int4":
        parts = {name: getattr(matrix, name) for name in ("codes", "scales", "midpoints")}
        assert {name: (int(p.min()), int(p.max())) for name, p in parts.items() if p.size > 5000} == {"codes": (-8, 7)}
        assert parts["scales"].min() >= 60 and parts["scales"].max() <= 255 and np.abs(parts["midpoints"]).max() <= 80
        unit = matrix.row_scale * 160 * 4.6 * 256**0.5
        assert 0.7 <= unit.min() < 0.75 and 1.25 < unit.max() <= 1.3
    else:
        assert set(np.unique(unpack_trits(matrix.packed()))) == {-1, 0, 1}
        assert 0.7 <= matrix.scale / (1.5 / 256) ** 0.5 * (150 if engine == "grouped" else 1) <= 1.3
    if engine == "grouped":
        codes = model.grouped_head.codes
        assert (codes.min(), codes.max(), matrix.codes.min() >= 64) == (64, 255, True)
        assert model.grouped_head.scale == np.float32((1.5 / 128) ** 0.5 / 150)
    for gains in (model.norm, model.layers[0].norms["input_layernorm"]):
        assert 0.5 <= gains.min() < 0.55 and 1.45 < gains.max() <= 1.5


def test_small_models_have_every_code_of_a_scale() -> None:
    """Of an INT4 matrix with many groups."""
    wide: Any = RandomModel(replace(WIDE, hidden=2048, heads=8, ffn=4096), LLAMA, "int4", 1).layers[0].matrices["gate"]
    assert (wide.scales.min(), wide.scales.max(), wide.midpoints.min(), wide.midpoints.max()) == (60, 255, -80, 80)
