"""Where fields and tensors lie in a GGUF file, or in the parts of a split one. Parsing is the ``gguf`` package's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...packages import needs
from .gguf_types import I2_S, Q2_0, TILES, WIDE_Q2_0, TensorType, name_of, size_of, type_of

__all__ = ["AGAIN", "GgufTensor", "open_parts"]

AGAIN = "download the file again, or export it again"

#: Name of a part of a split file.
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE | re.DOTALL)

_NO_TILES = "its tiles are described by a file of bitnet.cpp that is not inside; take I2_S, TQ1_0, TQ2_0 or the safetensors"

_PLAIN = "take a file with Q4_K, Q4_0, Q4_1, Q8_0, F16, BF16 or F32 tensors"


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a file: nothing of it is read before it is asked for."""

    name: str
    kind: TensorType
    #: Rows first, as numpy has it.
    shape: tuple[int, ...]
    path: Path
    offset: int
    bytes: int

    def stored(self) -> npt.NDArray[np.uint8]:
        """The bytes as they are in the file."""
        try:
            data = np.fromfile(self.path, np.uint8, self.bytes, offset=self.offset)
        except OSError as error:
            raise HwgenError("checkpoint", f"{self.path} cannot be read: {error.strerror}", AGAIN) from error
        if data.size != self.bytes:
            raise HwgenError("checkpoint", f"{self.path} is truncated: tensor {self.name} is not whole", AGAIN)
        return data


@dataclass(frozen=True)
class _Place:
    """What the directory of a file says about a tensor."""

    name: str
    shape: tuple[int, ...]
    number: int
    offset: int


def _parse(path: Path) -> tuple[Any, list[_Place]]:
    """The library's reader of one file, and its directory of tensors: their types may be some that the library does not know."""
    with needs("reading GGUF files", "hwgen[gguf]"):
        import gguf

    places: list[_Place] = []

    class Reader(gguf.GGUFReader):
        """The library's reader without its views of tensors, which end at a type of another program."""

        def _build_tensors(self, start_offs: int, fields: Sequence[Any]) -> None:
            for field in fields:
                _, name, _, dims, number, offset = field.parts
                shape = tuple(int(n) for n in reversed(dims.tolist())) or (1,)
                places.append(_Place(str(bytes(name), "utf-8"), shape, int(number[0]), int(start_offs + offset[0])))

    return Reader(path), places


def _is_wide(places: list[_Place], size: int) -> bool:
    """Whether Q2_0 means blocks of 128 in 34 bytes, as in Prism's older files, not 64 in 18: the tensors then lie closer together
    than tensors of 18 bytes a block could.
    """
    ends = sorted({place.offset for place in places} | {size})
    own, wide = type_of(Q2_0), WIDE_Q2_0
    assert own is not None
    room = {begin: end - begin for begin, end in zip(ends, ends[1:], strict=False)}
    return any(room.get(p.offset, 0) < size_of(own, p.shape) for p in places if p.number == Q2_0 and not p.shape[-1] % wide.block)


def _tensors(path: Path, places: list[_Place], foreign: bool) -> list[GgufTensor]:
    """Tensors with their types and sizes. ``foreign``: made by bitnet.cpp, whose types have numbers of others."""
    size = path.stat().st_size
    known = {place.number: type_of(place.number) for place in places}
    if Q2_0 in known and _is_wide(places, size):
        known[Q2_0] = WIDE_Q2_0
    found: list[GgufTensor] = []
    for place in places:
        kind = known[place.number]
        if kind is None or (foreign and place.number in TILES):
            raise HwgenError(
                "architecture", f"{path}: tensors of type {place.number} ({name_of(place.number)}) are not supported",
                _NO_TILES if place.number in TILES else _PLAIN,
            )
        inputs = place.shape[-1]
        if inputs % kind.block and kind.number != I2_S:
            raise HwgenError(
                "checkpoint", f"{path}: tensor {place.name} has rows of {inputs}, {kind.name} has blocks of {kind.block}", AGAIN
            )
        length = size_of(kind, place.shape)
        if place.offset + length > size:
            raise HwgenError(
                "checkpoint", f"{path} is truncated: tensor {place.name} ends at byte {place.offset + length}, the file has {size}",
                AGAIN,
            )
        found.append(GgufTensor(place.name, kind, place.shape, path, place.offset, length))
    return found


def _open_one(path: Path) -> tuple[Any, list[GgufTensor]]:
    try:
        with path.open("rb") as file:
            start = file.read(1 << 12)
        if start[:4] == b"GGUF" and len(start) >= 8 and start[4:6] == b"\0\0":  # the version, 2 or 3, of a big-endian file
            raise HwgenError(
                "checkpoint", f"{path} is a big-endian GGUF file; a little-endian one is wanted",
                "convert it with `gguf-convert-endian FILE little`",
            )
        reader, places = _parse(path)
    except OSError as error:
        raise HwgenError("checkpoint", f"{path} cannot be read: {error.strerror}", AGAIN) from error
    except HwgenError:
        raise
    except Exception as error:  # the reader lets numpy's errors through
        raise HwgenError("checkpoint", f"{path} is truncated or no GGUF file: {error}", AGAIN) from error
    return reader, _tensors(path, places, b"bitnet-" in start)


def _part_paths(path: Path, count: int) -> list[Path]:
    """The files of a split model, of which ``path`` is one."""
    named = _PART.fullmatch(path.name)
    if named is None or int(named["count"]) != count:
        raise HwgenError(
            "checkpoint", f"{path} is one of {count} files of a split model, but its name lacks -0000N-of-{count:05}.gguf",
            "give the parts their names back, or merge them with `llama-gguf-split --merge`",
        )
    paths = [path.with_name(f"{named['stem']}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    for part in paths:
        if not part.exists():
            raise HwgenError("checkpoint", f"{part} is missing, one of {count} files of a split model", "download every part")
    return paths


def _number(reader: Any, name: str, default: int) -> int:
    entry = reader.fields.get(name)
    return default if entry is None else int(entry.contents())


def open_parts(path: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    """Fields (as the library has them) and tensors of a file, or of all parts of a split model of which it is one; fields are
    those of the first part, which has all of them.
    """
    reader, _ = first = _open_one(path)
    count = _number(reader, "split.count", 1)
    parts = [first] if count <= 1 else [_open_one(part) for part in _part_paths(path, count)]
    tensors: dict[str, GgufTensor] = {}
    for number, (part, found) in enumerate(parts):
        if count > 1 and (_number(part, "split.no", -1), _number(part, "split.count", -1)) != (number, count):
            raise HwgenError("checkpoint", f"{path}: part {number + 1} of {count} is a part of another model", AGAIN)
        for tensor in found:
            if tensor.name in tensors:
                raise HwgenError("checkpoint", f"{path}: two tensors are called {tensor.name}", AGAIN)
            tensors[tensor.name] = tensor
    expected = _number(parts[0][0], "split.tensors.count", len(tensors))
    if count > 1 and expected != len(tensors):
        raise HwgenError("checkpoint", f"{path}: the parts hold {len(tensors)} tensors, {expected} expected", AGAIN)
    return dict(parts[0][0].fields), tensors
