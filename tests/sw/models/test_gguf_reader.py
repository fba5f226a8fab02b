"""Where tensors lie in GGUF files: which type a number means, which files belong together, and what cannot be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.sw.models import gguf_reader
from hwgen.sw.models.gguf_reader import _is_wide, _open_one, _part_paths, _Place, _tensors
from hwgen.sw.models.gguf_types import WIDE_Q2_0, type_of

pytest.importorskip("gguf")

Q2_0, F32, TL2, I2_S = 42, 0, 39, 36


def place(number: int, offset: int, *shape: int) -> _Place:
    return _Place(f"t{offset}", shape, number, offset)


@pytest.mark.parametrize(("places", "size", "wide"), [
    ([place(Q2_0, 0, 4, 128)], 144, False), ([place(Q2_0, 0, 4, 128)], 143, True), ([place(Q2_0, 0, 4, 128)], 136, True),
    ([place(Q2_0, 0, 4, 128), place(F32, 144, 1)], 148, False), ([place(Q2_0, 0, 4, 128), place(F32, 136, 1)], 140, True),
    ([place(F32, 0, 1), place(Q2_0, 32, 4, 128)], 176, False), ([place(F32, 0, 1), place(Q2_0, 32, 4, 128)], 168, True),
    ([place(Q2_0, 0, 4, 64)], 10, False), ([place(F32, 0, 4, 128)], 144, False),
    ([place(Q2_0, 0, 4, 192), place(Q2_0, 216, 4, 256)], 216 + 272, True),
    ([place(Q2_0, 144, 4, 128), place(Q2_0, 0, 4, 128)], 288, False),
    ([place(Q2_0, 136, 4, 128), place(Q2_0, 0, 4, 128)], 280, True),
])
def test_blocks_of_older_files(places: list[_Place], size: int, wide: bool) -> None:
    """34 bytes for 128 codes, not 18 for 64: seen where tensors lie closer together than those could."""
    assert _is_wide(places, size) is wide


def test_tensors_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(range(200)))
    q, f = _tensors(path, [place(Q2_0, 0, 4, 128), place(F32, 144, 2, 7)], False)
    assert (q.kind, q.bytes, q.shape) == (type_of(Q2_0), 144, (4, 128)) and (f.name, f.bytes, f.offset) == ("t144", 56, 144)
    assert f.stored().tolist() == list(range(144, 200))
    assert _tensors(path, [place(Q2_0, 0, 4, 128), place(F32, 136, 16)], False)[0].kind is WIDE_Q2_0
    assert _tensors(path, [place(I2_S, 0, 2, 10)], False)[0].bytes == 37, "its rows are no blocks"
    assert _tensors(path, [place(TL2, 0, 1, 32)], False)[0].kind.name == "MXFP4"
    for number, words in ((TL2, r"tensors of type 39 \(TL2\)"), (99, r"tensors of type 99 \(unknown\)")):
        with pytest.raises(HwgenError, match=f"{words} are not supported") as caught:
            _tensors(path, [place(number, 0, 1, 32)], True)
        assert ("its tiles are described" in caught.value.fix) == (number == TL2)
    with pytest.raises(HwgenError, match="tensor t0 has rows of 96, Q2_0 has blocks of 64"):
        _tensors(path, [place(Q2_0, 0, 1, 96)], False)
    with pytest.raises(HwgenError, match="is truncated: tensor t148 ends at byte 204, the file has 200"):
        _tensors(path, [place(F32, 148, 14)], False)
    path.write_bytes(bytes(199))
    with pytest.raises(HwgenError, match="is truncated: tensor t144 is not whole"):
        f.stored()
    path.unlink()
    with pytest.raises(HwgenError, match=r"m.gguf cannot be read: No such file"):
        f.stored()


@pytest.mark.parametrize(("start", "words", "foreign"), [
    (b"GGUF\0\0\0\3", "is a big-endian GGUF file", None), (b"GGUF\0\0\0\2" + bytes(5000), "is a big-endian GGUF file", None),
    (b"GGUF\0\0\0", "is truncated or no GGUF file: short", None), (b"GGUX\0\0\0\3", "is truncated or no GGUF file: short", None),
    (b"GGUF\0\1\0\3", "is truncated or no GGUF file: short", None), (b"GGUF\1\0\0\3", "is truncated or no GGUF file: short", None),
    (b"GGUF\3\0\0\0" + b"x" * 4080 + b"bitnet-3", "", True), (b"GGUF\3\0\0\0" + b"x" * 4082 + b"bitnet-3", "", False),
])
def test_how_a_file_begins(
    start: bytes, words: str, foreign: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the other byte order; or of bitnet.cpp, whose name stands in the first 4096 bytes."""
    def parse(path: Path) -> Any:
        if foreign is None:
            raise ValueError("short")
        return "reader", []

    seen: list[bool] = []
    monkeypatch.setattr(gguf_reader, "_parse", parse)
    monkeypatch.setattr(gguf_reader, "_tensors", lambda path, places, foreign: seen.append(foreign))
    (tmp_path / "m.gguf").write_bytes(start)
    if foreign is not None:
        assert _open_one(tmp_path / "m.gguf") == ("reader", None) and seen == [foreign]
        return
    with pytest.raises(HwgenError, match=words):
        _open_one(tmp_path / "m.gguf")
    with pytest.raises(HwgenError, match=r"n.gguf cannot be read: No such file"):
        _open_one(tmp_path / "n.gguf")


@pytest.mark.parametrize("stem", ["m", "m-00001-of-00003", "line\nline"])
def test_names_of_parts(stem: str, tmp_path: Path) -> None:
    """Numbers from 1 on; whatever stands before them."""
    paths = [tmp_path / f"{stem}-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for path in paths:
        path.touch()
    assert [_part_paths(path, 3) for path in paths] == [paths] * 3
    assert _part_paths(paths[0].with_suffix(".GGUF"), 3) == paths, "a name in capitals is one, too"
    for wrong in (paths[0].with_suffix(".bin"), tmp_path / "x.gguf", paths[0].with_name(f"{stem}-1-of-3.gguf")):
        with pytest.raises(HwgenError, match="is one of 3 files of a split model, but its name lacks -0000N-of-00003.gguf"):
            _part_paths(wrong, 3)
    with pytest.raises(HwgenError, match="is one of 2 files of a split model"):
        _part_paths(paths[0], 2)
    paths[2].unlink()
    with pytest.raises(HwgenError, match="-00003-of-00003.gguf is missing, one of 3 files"):
        _part_paths(paths[0], 3)


def test_fields_and_tensors_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that says nothing of parts is whole; what it says of its tensors is not looked at. No name is there twice."""
    said: dict[str, int] = {}
    names = ["a", "b"]
    reader = SimpleNamespace(fields={})
    monkeypatch.setattr(gguf_reader, "_open_one", lambda path: (reader, [SimpleNamespace(name=name) for name in names]))
    for said in ({}, {"split.count": 0}, {"split.count": 1}, {"split.tensors.count": 5}):
        reader.fields = {name: SimpleNamespace(contents=lambda value=value: np.uint16(value)) for name, value in said.items()}
        fields, tensors = gguf_reader.open_parts(tmp_path / "m.gguf")
        assert list(tensors) == ["a", "b"] and fields == reader.fields and fields is not reader.fields
    names.append("a")
    with pytest.raises(HwgenError, match="two tensors are called a"):
        gguf_reader.open_parts(tmp_path / "m.gguf")
