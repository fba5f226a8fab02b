"""When a matrix of floats is ternary in groups, and what its parts are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.int4 import BlockMatrix
from hwgen.sw.models import grouped_llama
from hwgen.sw.models.checkpoint import _head
from hwgen.sw.models.grouped_llama import _grouped_rows, _of_blocks, _of_floats, _split, is_grouped, is_grouped_gguf
from hwgen.sw.models.library import check_name
from hwgen.sw.models.llama import _fused_matrix

RNG = np.random.default_rng(3)
SIGNS = RNG.integers(-1, 2, (6, 256)).astype(np.float32)
SCALES = RNG.uniform(0.5, 1, (6, 2)).astype(np.float32)
GOOD = SIGNS * np.repeat(SCALES, 128, axis=1)


def test_parts() -> None:
    found = _split(GOOD)
    assert found is not None and np.array_equal(found[0], SIGNS) and np.array_equal(found[1], SCALES)
    wrong = GOOD.copy()
    wrong[5, 255] = wrong[5, 255] * 0.5 if wrong[5, 255] else SCALES[5, 1] / 2
    for values in (wrong, GOOD[:, :192], GOOD[:0]):
        assert _split(values) is None
    assert np.allclose(_of_floats(GOOD, "m").dense(), GOOD, rtol=0.01)
    with pytest.raises(HwgenError, match="m is not ternary in groups of 128 inputs"):
        _of_floats(wrong, "m")


@pytest.mark.parametrize("at_a_time", [1, 4, 4096])
def test_rows_of_a_head(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_llama, "_ROWS_AT_A_TIME", at_a_time)
    found = _grouped_rows(GOOD)
    assert found is not None and np.array_equal(found.trits, SIGNS) and np.allclose(found.dense(), GOOD, rtol=0.01)
    wrong = GOOD.copy()
    wrong[5, 0] = 9.0
    assert _grouped_rows(wrong) is None


def test_blocks() -> None:
    """Halves of a group have one scale; those of zeros may have any."""
    codes = SIGNS.astype(np.int8)
    halves = np.repeat(SCALES, 2, axis=1)
    for scale, fine in ((halves, True), (halves * np.array([[1, 2, 1, 1]], np.float32), False)):
        block = BlockMatrix(codes, 64, scale)
        if fine:
            assert np.array_equal(_of_blocks(block, "m").trits, codes)
            continue
        with pytest.raises(HwgenError, match="m is not ternary"):
            _of_blocks(block, "m")
        empty = codes.copy()
        empty[:, 64:128] = 0
        assert np.array_equal(_of_blocks(BlockMatrix(empty, 64, scale), "m").trits, empty)


class Tensors:
    """Tensors of a checkpoint, all of one type."""

    def __init__(self, values: dict[str, np.ndarray], kind: str = "F32") -> None:
        self._values, self._kind = values, kind

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def find(self, name: str) -> str:
        assert name in self._values
        return name

    def kind(self, name: str) -> str:
        return self._kind

    def shape(self, name: str) -> tuple[int, ...]:
        return self._values[name].shape

    def first_rows(self, name: str, rows: int) -> np.ndarray:
        return self._values[name][:rows]

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        assert self._values[name].shape == shape
        return self._values[name]


@pytest.mark.parametrize(("kind", "values", "grouped"), [
    ("F32", GOOD, True), ("BF16", GOOD, True), ("I8", GOOD, False), ("F16", RNG.normal(0, 1, (6, 256)), False),
    ("F32", None, False),
    ("F32", GOOD[0], False), ("Q2_0", GOOD, False),
])
def test_how_a_model_is_told(kind: str, values: Any, grouped: bool) -> None:
    """By the first rows of its first matrix, or by the type of it in a GGUF file."""
    names = ("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight")
    made: Any = Tensors({} if values is None else dict.fromkeys(names, np.asarray(values, np.float32)), kind)
    assert is_grouped(made) is grouped
    assert is_grouped_gguf(made) is (grouped or kind == "Q2_0")


@pytest.mark.parametrize(("spoilt", "grouped"), [(0, False), (7, False), (8, True), (9, True)])
def test_a_model_is_told_by_eight_rows(spoilt: int, grouped: bool) -> None:
    """The loader refuses it where another is of another kind."""
    values = np.ones((10, 256), np.float32)
    values[spoilt, 3] = 0.5
    made: Any = Tensors(dict.fromkeys(("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"), values))
    assert is_grouped(made) is is_grouped_gguf(made) is grouped


def test_heads_of_tied_models() -> None:
    """A tied model with a head of its own is not tied, unless it is the same."""
    table = np.ones((2, 3), np.float32)
    for tied, head, expected in ((True, None, False), (True, table, False), (True, 2 * table, True), (False, table, True)):
        tensors: Any = Tensors({} if head is None else {"lm_head.weight": head})
        shape: Any = SimpleNamespace(vocab=2, hidden=3, tied=tied)
        found = _head(tensors, shape, table)
        assert (found is not None) is expected and (found is None or found is head)


def test_matrices_that_lie_together() -> None:
    """Rows of the queries, then keys, then values; the gate over the upper matrix."""
    whole = {
        "self_attn.qkv_proj": np.arange(24).reshape(8, 3), "mlp.gate_up_proj": np.arange(18).reshape(6, 3),
        "self_attn.o_proj": np.ones((3, 4)),
    }
    sizes = {"q": (4, 3), "k": (2, 3), "v": (2, 3), "gate": (3, 3), "up": (3, 3), "o": (3, 4)}
    tensors: Any = Tensors({f"p.{name}.weight": values for name, values in whole.items()})
    for end, rows in (("self_attn.q_proj", (0, 4)), ("self_attn.k_proj", (4, 6)), ("self_attn.v_proj", (6, 8))):
        assert np.array_equal(_fused_matrix(tensors, f"p.{end}", sizes), whole["self_attn.qkv_proj"][slice(*rows)])
    for end, rows in (("mlp.gate_proj", (0, 3)), ("mlp.up_proj", (3, 6))):
        assert np.array_equal(_fused_matrix(tensors, f"p.{end}", sizes), whole["mlp.gate_up_proj"][slice(*rows)])
    assert np.array_equal(_fused_matrix(tensors, "p.self_attn.o_proj", sizes), whole["self_attn.o_proj"])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "a\0b", "stories"])
def test_names_that_models_cannot_have(name: str) -> None:
    with pytest.raises(HwgenError):
        check_name(name)
    check_name("a-b.c_1")
