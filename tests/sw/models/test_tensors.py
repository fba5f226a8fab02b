from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.formats import pack_bf16
from hwgen.sw.models.tensors import TensorFile, TensorSet, write_tensors


def write(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    values = {"a": rng.normal(size=(3, 5)).astype(np.float32), "b": rng.integers(0, 255, (7,), np.uint8)}
    write_tensors(path, {"a": ("F32", values["a"]), "b": ("U8", values["b"]), "c": ("BF16", pack_bf16(values["a"]))})
    return values


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    values = write(tmp_path / "x.safetensors")
    tensors = TensorSet(tmp_path)
    assert sorted(tensors.names()) == ["a", "b", "c"]
    np.testing.assert_array_equal(tensors.floats("a"), values["a"])
    np.testing.assert_array_equal(tensors.stored("b"), values["b"])
    assert tensors.floats("c").dtype == np.float32
    np.testing.assert_allclose(tensors.floats("c"), values["a"], rtol=2**-8)


def test_the_library_reads_it_too(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    values = write(tmp_path / "x.safetensors")
    loaded = safetensors.load_file(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(loaded["a"].numpy(), values["a"])
    np.testing.assert_array_equal(loaded["c"].float().numpy(), TensorSet(tmp_path).floats("c"))


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    write(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(HwgenError, match=r"truncated|damaged") as caught:
        TensorFile(path)
    assert caught.value.kind == "checkpoint" and caught.value.fix


def test_damaged_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    text = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 7]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(HwgenError, match="tensor a has 7 bytes, 8 expected"):
        TensorFile(path)
    path.write_bytes((5).to_bytes(8, "little") + b"hello")
    with pytest.raises(HwgenError, match="damaged header"):
        TensorFile(path)


def test_shards(tmp_path: Path) -> None:
    write_tensors(tmp_path / "one.safetensors", {"a": ("F32", np.ones(2, np.float32))})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(HwgenError, match=r"two\.safetensors is missing"):
        TensorSet(tmp_path)
    write_tensors(tmp_path / "two.safetensors", {"b": ("F16", np.ones(3, np.float16))})
    assert sorted(TensorSet(tmp_path).names()) == ["a", "b"]
    with pytest.raises(HwgenError, match="no tensor c or d"):
        TensorSet(tmp_path).find("c", "d")
    index.write_text("{")
    with pytest.raises(HwgenError, match="damaged"):
        TensorSet(tmp_path)


def test_the_index_says_what_is_taken_from_where(tmp_path: Path) -> None:
    """A stale copy in another shard is not used; a tensor that is elsewhere than the index says, or not in it, is refused."""
    index = tmp_path / "model.safetensors.index.json"
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    write_tensors(tmp_path / "one.safetensors", {"a": ("F32", ones)})
    write_tensors(tmp_path / "two.safetensors", {"a": ("F32", zeros), "b": ("F32", ones)})
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    tensors = TensorSet(tmp_path)
    np.testing.assert_array_equal(tensors.floats("a"), ones)
    assert tensors.unread() == ["b"]
    for places, words in (
        ({"a": "one.safetensors", "b": "one.safetensors"}, "one.safetensors has no tensor b"),
        ({"a": "two.safetensors"}, "two.safetensors has a tensor b that"),
        ({"a": "../one.safetensors"}, "not a file beside it"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(HwgenError, match=words):
            TensorSet(tmp_path)


def test_several_files_without_an_index(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_tensors(tmp_path / f"{name}.safetensors", {name: ("F32", np.ones(2, np.float32))})
    with pytest.raises(HwgenError, match=r"2 \*.safetensors files and no model.safetensors.index.json"):
        TensorSet(tmp_path)
    write_tensors(tmp_path / "model.safetensors", {"a": ("F32", np.ones(2, np.float32))})
    assert TensorSet(tmp_path).names() == ["a"]


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": ("F32", np.array([1, np.inf], np.float32))})
    with pytest.raises(HwgenError, match="tensor a holds values that are not finite"):
        TensorSet(tmp_path).floats("a")
    with pytest.raises(HwgenError, match=r"tensor a has shape \(2,\), \(3,\) expected"):
        TensorSet(tmp_path).floats("a", (3,))


def header(path: Path, entries: object) -> Path:
    """A file with this header and 16 bytes of content."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    return path


@pytest.mark.parametrize("entry", [
    {"shape": [-2, -2]}, {"shape": [2, -1, -2]}, {"shape": 4}, {"shape": [4.0]}, {"shape": ["4"]}, {"shape": [[4]]},
    {"shape": [True, 4]}, {"shape": None}, {"dtype": ["F32"]}, {"data_offsets": [0.0, 16.0]}, {"data_offsets": [-16, 0]},
    {"data_offsets": ["0", "16"]}, {"data_offsets": 16}, {"shape": [2**62, 4]}, {"dtype": "F8_E4M3", "data_offsets": [8, 4]},
])
def test_entries_of_any_type(entry: dict[str, object], tmp_path: Path) -> None:
    """What stands in the header of a tensor is sizes that fit, or the file is refused."""
    whole = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    assert TensorFile(header(tmp_path / "x.safetensors", {"a": whole})).stored("a").shape == (4,)
    with pytest.raises(HwgenError, match="tensor a is damaged|tensor a has") as error:
        TensorFile(header(tmp_path / "x.safetensors", {"a": whole | entry}))
    assert error.value.kind == "checkpoint" and "\n" not in str(error.value)


@pytest.mark.parametrize("entries", [[1, 2], "a", b"[" * 100_000, b"\xff"])
def test_headers_that_are_no_object(entries: object, tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="damaged header"):
        TensorFile(header(tmp_path / "x.safetensors", entries))


def test_types_that_no_matrix_has(tmp_path: Path) -> None:
    """A type of another runtime is refused when it is read; whole numbers are no floats."""
    entry = {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}
    file = TensorFile(header(tmp_path / "model.safetensors", {"a": entry}))
    with pytest.raises(HwgenError, match="tensor a has type F8_E4M3; supported are F64, F32"):
        file.stored("a")
    header(tmp_path / "model.safetensors", {"a": entry | {"dtype": "U8"}})
    with pytest.raises(HwgenError, match="tensor a has type U8, a floating-point type is expected"):
        TensorSet(tmp_path).floats("a")
    with pytest.raises(ValueError, match="a must be stored as float32, not float64"):
        write_tensors(tmp_path / "x.safetensors", {"a": ("F32", np.ones(2))})


def test_a_file_that_changes_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path)
    file = TensorFile(path)
    path.write_bytes(path.read_bytes()[:-90])
    with pytest.raises(HwgenError, match="truncated: tensor a is not whole"):
        file.stored("a")
    path.unlink()
    with pytest.raises(HwgenError, match="cannot be read: No such file"):
        file.stored("a")
    with pytest.raises(HwgenError, match="cannot be read: No such file"):
        TensorFile(path)


@pytest.mark.parametrize("length", range(1, 9))
def test_elements_begin_at_multiples_of_eight(length: int, tmp_path: Path) -> None:
    """The header is filled up with spaces, as few as that needs."""
    values = np.arange(3, dtype=np.float32)
    write_tensors(tmp_path / "model.safetensors", {"a" * length: ("F32", values)})
    data = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].decode()
    assert size % 8 == 0 and text.startswith('{"__metadata__":') and len(text) - len(text.rstrip(" ")) < 8
    assert data[8 + size :] == values.tobytes()
    np.testing.assert_array_equal(TensorSet(tmp_path).floats("a" * length), values)


def test_files_without_tensors(tmp_path: Path) -> None:
    """A header that ends the file is whole; one that would end behind it is not, nor one that is longer than any."""
    path = tmp_path / "model.safetensors"
    write_tensors(path, {})
    data = path.read_bytes()
    assert TensorFile(path).names() == [] and TensorSet(tmp_path).bytes == 0
    size = int.from_bytes(data[:8], "little")
    for spoilt in (data[:-1], (size + 1).to_bytes(8, "little") + data[8:], data[:7]):
        path.write_bytes(spoilt)
        with pytest.raises(HwgenError, match=rf"is truncated or no safetensors file \({len(spoilt)} bytes\)"):
            TensorFile(path)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert TensorFile(path).names() == []


def test_headers_that_are_longer_than_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(tmp_path / "x", {"a": ("U8", np.zeros(500, np.uint8))})
    length = int.from_bytes((tmp_path / "x").read_bytes()[:8], "little")
    monkeypatch.setattr("hwgen.sw.models.tensors._LONGEST_HEADER", length)
    assert TensorFile(tmp_path / "x").names() == ["a"]
    monkeypatch.setattr("hwgen.sw.models.tensors._LONGEST_HEADER", length - 1)
    with pytest.raises(HwgenError, match="is truncated or no safetensors file"):
        TensorFile(tmp_path / "x")


def test_tensors_of_several_files(tmp_path: Path) -> None:
    """Sizes are those of the files; what is looked at does not count as read."""
    first, second = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(4, dtype=np.float16).reshape(2, 2)
    write_tensors(tmp_path / "1.safetensors", {"a": ("F32", first), "b": ("F32", first)})
    write_tensors(tmp_path / "2.safetensors", {"c": ("F16", second)})
    index = {"weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    tensors = TensorSet(tmp_path)
    assert tensors.bytes == sum((tmp_path / f"{n}.safetensors").stat().st_size for n in (1, 2))
    for rows, expected in ((1, first[:1]), (3, first), (9, first), (0, first[:0])):
        np.testing.assert_array_equal(tensors.first_rows("a", rows), expected)
    np.testing.assert_array_equal(tensors.first_rows("c", 1), [[0, 1]])
    np.testing.assert_array_equal(tensors.peek("a"), first)
    assert tensors.unread() == ["a", "b", "c"] and not tensors.is_read("a") and tensors.shape("c") == (2, 2)
    np.testing.assert_array_equal(tensors.floats("a", (3, 2)), first)
    assert tensors.unread() == ["b", "c"] and tensors.is_read("a") and tensors.find("x", "c", "a") == "c"


def test_tensors_of_no_size(tmp_path: Path) -> None:
    """No rows, no dimensions; a file that ends with its last tensor is whole."""
    values = {"none": np.zeros((0, 4), np.float32), "one": np.array(7, np.float32)}
    write_tensors(tmp_path / "model.safetensors", {name: ("F32", value) for name, value in values.items()})
    tensors = TensorSet(tmp_path)
    assert tensors.floats("none").shape == (0, 4) and tensors.floats("one").shape == () and tensors.floats("one") == 7
