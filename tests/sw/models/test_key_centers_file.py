"""Centers of keys in their file: where it is, what is read again, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.key_centers import KeyCenters
from hwgen.shape import ModelShape
from hwgen.sw.models.key_centers import centers_path, read_centers, write_centers
from hwgen.sw.models.tensors import write_tensors

SHAPE = ModelShape(hidden=8, layers=2, heads=2, kv_heads=1, head_dim=4, ffn=8, vocab=5)


def centers(scale: float = 1.0) -> Any:
    rng = np.random.default_rng(1)
    return KeyCenters(*(np.float32(scale) * rng.uniform(-1, 1, (2, 4)).astype(np.float32) for _ in range(2)))


def test_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert centers_path(tmp_path) == tmp_path / "keys.centers"
    assert centers_path(tmp_path / "m.gguf") == tmp_path / "m.gguf.centers"


def test_read_again(tmp_path: Path) -> None:
    write_centers(tmp_path / "keys.centers", centers())
    found = read_centers(tmp_path / "keys.centers", SHAPE)
    for name in ("mean", "first"):
        np.testing.assert_array_equal(getattr(found, name), getattr(centers(), name))
    assert [path.name for path in tmp_path.iterdir()] == ["keys.centers"]
    with pytest.raises(HwgenError, match=r"nowhere/keys.centers cannot be written: No such file") as caught:
        write_centers(tmp_path / "nowhere" / "keys.centers", centers())
    assert caught.value.kind == "model" and caught.value.fix


@pytest.mark.parametrize("change", [
    {"mean": ("F32", np.zeros((2, 8), np.float32))}, {"mean": ("F32", np.zeros((1, 4), np.float32))},
    {"first": ("F16", np.zeros((2, 4), np.float16))}, {"more": ("F32", np.zeros((2, 4), np.float32))}, {"first": None},
])
def test_those_of_another_model(change: dict[str, Any], tmp_path: Path) -> None:
    values = {name: ("F32", np.zeros((2, 4), np.float32)) for name in ("mean", "first")} | change
    write_tensors(tmp_path / "keys.centers", {name: value for name, value in values.items() if value is not None})
    with pytest.raises(HwgenError, match=r"is not of this model, whose keys are two tensors of F32 \(2, 4\)") as caught:
        read_centers(tmp_path / "keys.centers", SHAPE)
    assert "remove keys.centers" in caught.value.fix


@pytest.mark.parametrize("name", ["mean", "first"])
@pytest.mark.parametrize(("value", "fine"), [
    (0.9999e30, True), (-0.9999e30, True), (1e30, False), (-1.1e30, False), (np.inf, False), (np.nan, False),
])
def test_values(name: str, value: float, fine: bool, tmp_path: Path) -> None:
    """Finite and below 1e30, in both tensors."""
    values = {"mean": np.ones((2, 4), np.float32), "first": np.ones((2, 4), np.float32)}
    values[name][1, 2] = value
    write_tensors(tmp_path / "keys.centers", {n: ("F32", v) for n, v in values.items()})
    if fine:
        assert getattr(read_centers(tmp_path / "keys.centers", SHAPE), name)[1, 2] == np.float32(value)
        return
    with pytest.raises(HwgenError, match="holds values that are no keys: not finite, or 1e[+]30 and more"):
        read_centers(tmp_path / "keys.centers", SHAPE)
