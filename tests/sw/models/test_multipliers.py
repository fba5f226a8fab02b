"""Granite's multipliers in weights, and fields that are all accounted for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwgen.decoder import LLAMA
from hwgen.errors import HwgenError
from hwgen.sw.models.fields import Fields
from hwgen.sw.models.multipliers import Multipliers, fold_multipliers, read_multipliers
from hwgen.weights import dense, random_weights

from .llama_files import SHAPE


def test_multipliers_that_are_folded() -> None:
    """Queries times a sqrt(d), outputs times r / m, the final gain by s; nothing else changes."""
    weights = random_weights(SHAPE, 1, LLAMA, "int4")
    layers, norm = fold_multipliers(Multipliers(12.0, 0.25, 0.5, 8.0), SHAPE, list(weights.layers), weights.norm)
    factors = {"q": 0.5 * 4, "o": 0.25 / 12, "down": 0.25 / 12}
    assert SHAPE.head_dim == 16 and len(layers) == SHAPE.layers and norm.dtype == np.float32
    np.testing.assert_array_equal(norm, weights.norm / 8)
    for folded, layer in zip(layers, weights.layers, strict=True):
        assert folded.norms is layer.norms
        for name, matrix in layer.matrices.items():
            np.testing.assert_allclose(dense(folded.matrices[name]), factors.get(name, 1) * dense(matrix), rtol=3e-7)


@pytest.mark.parametrize(("said", "expected"), [
    ({}, (1, 1, 1, 1)), ({"embedding_multiplier": 12, "logits_scaling": 0.5}, (12, 1, 1, 0.5)),
    ({"residual_multiplier": 999999.0, "attention_multiplier": 1.1e-6}, (1, 999999, 1.1e-6, 1)),
])
def test_multipliers_that_are_read(said: dict[str, float], expected: tuple[float, ...]) -> None:
    assert read_multipliers(Fields(said, "c")) == Multipliers(*expected)


@pytest.mark.parametrize("value", [0, -1.0, 1e-6, 1e6, True, "1", float("nan")])
def test_multipliers_that_are_refused(value: Any) -> None:
    with pytest.raises(HwgenError, match="residual_multiplier"):
        read_multipliers(Fields({"residual_multiplier": value}, "c"))


def test_fields_that_nobody_asked_for() -> None:
    fields = Fields({"a": 1, "b": None, "c": 3, "general.x": 4, "d": "x" * 90, "e": 5, "f": 6}, "file")
    assert list(fields) == ["a", "c", "general.x", "d", "e", "f"] and len(fields) == 6 and "b" not in fields
    assert fields["a"] == 1 and fields.get("b", 7) == 7 and fields.where == "file"
    assert fields.left({"c": "a note", "general.*": "who made it"}) == ["d", "e", "f"]
    assert fields.left({"general.*": "", "general": ""}) == ["c", "d", "e", "f"]
    assert fields.left({}) == ["c", "general.x", "d", "e", "f"]
    with pytest.raises(HwgenError, match=r"^file: the field d \('x{56}\.\.\.\) is not known, and 2 more: e, f \(fix\)$") as caught:
        fields.refuse_left({"c": "", "general.*": ""}, "fix")
    assert caught.value.kind == "architecture"
    with pytest.raises(HwgenError, match=r"the field f \(6\) is not known \(fix\)$"):
        fields.refuse_left({"c": "", "general.*": "", "d": "", "e": ""}, "fix")
    with pytest.raises(HwgenError, match="and 4 more: general.x, d, e "):
        fields.refuse_left({}, "fix")
    fields.refuse_left({"*": "everything"}, "fix")


@pytest.mark.parametrize(("length", "shown"), [(58, "'" + "x" * 58 + "'"), (59, "'" + "x" * 56 + "...")])
def test_long_values_are_cut(length: int, shown: str) -> None:
    with pytest.raises(HwgenError) as caught:
        Fields({"d": "x" * length}, "file").refuse_left({}, "fix")
    assert caught.value.message == f"file: the field d ({shown}) is not known"


def test_a_shape_is_not_changed_by_folding() -> None:
    shape = replace(SHAPE, head_dim=64)
    weights = random_weights(shape, 1, LLAMA, "int4")
    layers, _ = fold_multipliers(Multipliers(1, 1, 1, 1), shape, list(weights.layers), weights.norm)
    np.testing.assert_array_equal(dense(layers[0].matrices["q"]), 8 * dense(weights.layers[0].matrices["q"]))
