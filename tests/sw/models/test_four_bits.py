"""4-bit matrices made while a model is read: what is kept, under which name, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.int4 import Int4Matrix, round_to_nearest
from hwgen.sw.models.four_bits import OnTheFly, as_stored
from hwgen.ternary import quantize_ternary


def same(a: Int4Matrix, b: Int4Matrix) -> bool:
    assert a.midpoints is not None and b.midpoints is not None
    parts = ((a.codes, b.codes), (a.scales, b.scales), (a.midpoints, b.midpoints), (a.row_scale, b.row_scale))
    return a.group == b.group and all(np.array_equal(x, y) for x, y in parts)


def test_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    rng, said = np.random.default_rng(1), list[str]()
    ws = [rng.normal(0, 1, (6, 64)).astype(np.float32) for _ in range(2)]
    first = OnTheFly(progress=said.append)
    first.report()
    assert said == []
    made = [first(f"m{i}", "F32", w) for i, w in enumerate(ws)]
    for w, matrix in zip(ws, made, strict=True):
        assert isinstance(matrix, Int4Matrix) and same(matrix, round_to_nearest(w, 32, midpoints=True))
    assert len(list((tmp_path / "int4").glob("*.safetensors"))) == 2 and first.found == 0
    lost = sum(float(((w - m.dense()) ** 2).sum()) for w, m in zip(ws, made, strict=True))  # type: ignore[union-attr]  # 4-bit, as above
    whole = sum(float((w**2).sum()) for w in ws)
    assert (first.lost, first.whole) == (pytest.approx(lost), pytest.approx(whole))
    again = OnTheFly(progress=said.append)
    assert same(again("m", "BF16", np.asfortranarray(ws[0])), made[0]) and again.found == 1  # type: ignore[arg-type]  # 4-bit
    other = OnTheFly(64)
    assert other("m", "F32", ws[0]).group == 64 and other.found == 0  # type: ignore[union-attr]  # likewise
    assert OnTheFly()("m", "F32", ws[0].reshape(3, 128)).shape == (3, 128)
    first.report()
    again("m", "F32", ws[1])
    again.report()
    assert said[0].startswith("2 matrices (2 of F32) made 4-bit to nearest in groups of 32 with scale and midpoint: relative error")
    assert said[0].endswith(f"{(lost / whole) ** 0.5:.2%}") and said[1].endswith(f"; 2 of them from {tmp_path / 'int4'}")
    assert said[1].startswith("2 matrices (1 of BF16, 1 of F32)")


def test_what_is_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    w = np.random.default_rng(2).normal(0, 1, (4, 32)).astype(np.float32)
    made = OnTheFly()("m", "F32", w)
    (file,) = (tmp_path / "int4").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    again = OnTheFly()
    assert same(again("m", "F32", w), made) and again.found == 0 and file.read_bytes() == whole  # type: ignore[arg-type]  # 4-bit

    def removed(path: Path) -> None:
        path.unlink()
        raise HwgenError("checkpoint", "damaged")

    with monkeypatch.context() as patch:  # another process came first
        patch.setattr("hwgen.sw.models.four_bits.TensorFile", removed)
        assert same(OnTheFly()("m", "F32", w), made) and file.read_bytes() == whole  # type: ignore[arg-type]  # 4-bit
    monkeypatch.setenv("HWGEN_CACHE", str(file))  # no directory
    said: list[str] = []
    assert same(OnTheFly(progress=said.append)("m", "F32", w), made) and "cannot be written" in said[0]  # type: ignore[arg-type]  # 4-bit


def test_a_matrix_of_zeros_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    said: list[str] = []
    made = OnTheFly(progress=said.append)
    made("m", "F32", np.zeros((2, 32), np.float32))
    made.report()
    assert said == [
        "1 matrices (1 of F32) made 4-bit to nearest in groups of 32 with scale and midpoint: relative error of the weights 0.00%"
    ]


def test_what_is_left_as_it_is() -> None:
    ternary, quantizer = quantize_ternary(np.ones((2, 16), np.float32)), OnTheFly()
    assert quantizer("m", "TQ2_0", ternary) is ternary and not quantizer.kinds
    w = np.zeros((2, 16), np.float32)
    assert as_stored("m", "F32", w) is w
    with pytest.raises(HwgenError, match="m cannot be made 4-bit: inputs must be a multiple of 16") as caught:
        quantizer("m", "F32", np.zeros((2, 17), np.float32))
    assert caught.value.kind == "architecture" and "multiples of 16" in caught.value.fix
