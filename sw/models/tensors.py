"""Reading and writing of safetensors files with numpy alone (bfloat16 included), so that a board needs no torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...formats import is_finite, widen_bf16

__all__ = ["TensorFile", "TensorSet", "widen", "write_tensors"]

#: safetensors name -> numpy type of the stored elements (bfloat16 as its 16 bits).
_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

#: No header of a real checkpoint is longer; a larger length means the file is not a safetensors file.
_LONGEST_HEADER = 100_000_000

_FIX = "download the file again, or export the checkpoint again"


def widen(values: npt.NDArray[Any], kind: str) -> npt.NDArray[np.float32]:
    """Stored elements of a floating-point tensor as float32."""
    if kind == "BF16":
        return widen_bf16(values)
    return values.astype(np.float32, copy=False)


class TensorFile:
    """One safetensors file, read tensor by tensor. A file that is cut short or whose header is damaged is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            file = path.open("rb")
        except OSError as error:
            raise HwgenError("checkpoint", f"{path} cannot be read: {error.strerror}", _FIX) from error
        with file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise HwgenError("checkpoint", f"{path} is truncated or no safetensors file ({size} bytes)", _FIX)
            try:
                header = json.loads(file.read(length))
            except (ValueError, RecursionError) as error:
                raise HwgenError("checkpoint", f"{path} has a damaged header", _FIX) from error
        if not isinstance(header, dict):
            raise HwgenError("checkpoint", f"{path} has a damaged header", _FIX)
        header.pop("__metadata__", None)
        self._entries: dict[str, dict[str, Any]] = header
        self._start = 8 + length
        for name, entry in header.items():
            try:
                kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
                if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                    raise ValueError(shape)
                expected = math.prod(shape) * _TYPES[kind].itemsize if kind in _TYPES else end - begin
            except (KeyError, TypeError, ValueError) as error:
                raise HwgenError("checkpoint", f"{path}: the entry of tensor {name} is damaged", _FIX) from error
            if end < begin or end - begin != expected:
                raise HwgenError(
                    "checkpoint", f"{path}: tensor {name} has {end - begin} bytes, {expected} expected", _FIX
                )
            if self._start + end > size:
                raise HwgenError(
                    "checkpoint",
                    f"{path} is truncated: tensor {name} ends at byte {self._start + end}, the file has {size}",
                    _FIX,
                )

    def names(self) -> list[str]:
        return list(self._entries)

    def kind(self, name: str) -> str:
        """safetensors type of a tensor, such as ``"BF16"`` or ``"U8"``."""
        return str(self._entries[name]["dtype"])

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def stored(self, name: str, rows: int | None = None) -> npt.NDArray[Any]:
        """The elements as stored (bfloat16 as ``uint16``), or those of the first ``rows`` rows."""
        kind = self.kind(name)
        if kind not in _TYPES:
            raise HwgenError(
                "checkpoint",
                f"{self.path}: tensor {name} has type {kind}; supported are {', '.join(_TYPES)}",
                "convert the checkpoint to one of these types",
            )
        shape = self.shape(name)
        if rows is not None:
            shape = min(rows, shape[0]), *shape[1:]
        begin, count = self._entries[name]["data_offsets"][0], math.prod(shape)
        try:
            values = np.fromfile(self.path, _TYPES[kind], count, offset=self._start + begin)
        except OSError as error:
            raise HwgenError("checkpoint", f"{self.path} cannot be read: {error.strerror}", _FIX) from error
        if values.size != count:
            raise HwgenError("checkpoint", f"{self.path} is truncated: tensor {name} is not whole", _FIX)
        return values.reshape(shape)


class TensorSet:
    """Every tensor of a checkpoint directory: ``model.safetensors``, the shards as its index places them, or the one file that
    there is. Remembers which tensors were read.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._home: dict[str, TensorFile] = {}
        self._read: set[str] = set()
        index = directory / "model.safetensors.index.json"
        one = directory / "model.safetensors"
        if one.exists():  # transformers takes it before an index, and whatever else lies there
            self._take(one)
        elif index.exists():
            self._take_shards(index)
        else:
            paths = sorted(directory.glob("*.safetensors"))
            if not paths:
                raise HwgenError(
                    "checkpoint",
                    f"{directory} has no *.safetensors file",
                    "give a directory in Hugging Face layout with config.json, *.safetensors and tokenizer.json",
                )
            if len(paths) > 1:
                raise HwgenError(
                    "checkpoint", f"{directory} has {len(paths)} *.safetensors files and no {index.name} that says what is where",
                    "download the index, or leave the one file of the model",
                )
            self._take(paths[0])

    def _take(self, path: Path) -> None:
        file = TensorFile(path)
        self._home.update(dict.fromkeys(file.names(), file))

    def _take_shards(self, index: Path) -> None:
        try:
            places = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            shards = sorted(set(places.values()))
            paths = {shard: self.directory / shard for shard in shards}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HwgenError("checkpoint", f"{index} is damaged", _FIX) from error
        files = {}
        for shard, path in paths.items():
            if Path(shard).name != shard:
                raise HwgenError("checkpoint", f"{index} names {shard}, which is not a file beside it", _FIX)
            if not path.exists():
                raise HwgenError("checkpoint", f"{path} is missing (named by {index.name})", "download every shard")
            files[shard] = TensorFile(path)
        for name, shard in places.items():
            if name not in files[shard].names():
                raise HwgenError("checkpoint", f"{paths[shard]} has no tensor {name} (which {index.name} places there)", _FIX)
            self._home[name] = files[shard]
        for shard, file in files.items():
            stray = [name for name in file.names() if name not in places]
            if stray:
                raise HwgenError("checkpoint", f"{paths[shard]} has a tensor {stray[0]} that {index.name} does not name", _FIX)

    def __contains__(self, name: str) -> bool:
        return name in self._home

    def names(self) -> list[str]:
        return list(self._home)

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(file.path.stat().st_size for file in set(self._home.values()))

    def unread(self) -> list[str]:
        """Names of the tensors whose elements nobody asked for."""
        return [name for name in self._home if name not in self._read]

    def is_read(self, name: str) -> bool:
        """Whether somebody asked for the elements of a tensor."""
        return name in self._read

    def peek(self, name: str) -> npt.NDArray[Any]:
        """The elements as stored, without counting as read."""
        return self._home[name].stored(name)

    def first_rows(self, name: str, rows: int) -> npt.NDArray[np.float32]:
        """The first rows of a floating-point matrix, without counting as read."""
        return widen(self._home[name].stored(name, rows), self.kind(name))

    def find(self, *names: str) -> str:
        """The first of ``names`` that exists; an error names them all."""
        for name in names:
            if name in self._home:
                return name
        raise HwgenError("checkpoint", f"{self.directory} has no tensor {' or '.join(names)}", _FIX)

    def kind(self, name: str) -> str:
        return self._home[name].kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._home[name].shape(name)

    def stored(self, name: str) -> npt.NDArray[Any]:
        self._read.add(name)
        return self._home[name].stored(name)

    def floats(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float32]:
        """A floating-point tensor as finite float32, of ``shape`` where one is given."""
        kind = self.kind(name)
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise HwgenError("checkpoint", f"tensor {name} has type {kind}, a floating-point type is expected", _FIX)
        if shape is not None and self.shape(name) != shape:
            raise HwgenError(
                "checkpoint", f"tensor {name} has shape {self.shape(name)}, {shape} expected",
                "config.json and the weights belong to different models",
            )
        values = widen(self.stored(name), kind)
        if not is_finite(values.reshape(-1)):
            raise HwgenError("checkpoint", f"tensor {name} holds values that are not finite", _FIX)
        return values


def write_tensors(path: Path, tensors: Mapping[str, tuple[str, npt.NDArray[Any]]]) -> None:
    """Write ``{name: (safetensors type, elements as stored)}`` as one safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, values) in tensors.items():
        if values.dtype != _TYPES[kind]:
            raise ValueError(f"{name} must be stored as {_TYPES[kind]}, not {values.dtype}")
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())
