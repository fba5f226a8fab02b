"""The memory image of one model on one build: bytes, where everything lies, and the program that uses it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...contract import CONTRACT_VERSION, check_contract, contract_hash
from ...descriptors import Descriptor, Format, Opcode, pack_program, unpack_program
from ...errors import HwgenError
from ...files import replacing
from ...operators import OPERATORS, Memory
from ...rounding import align
from ...shape import ModelShape
from .placement import REGION_ALIGNMENT, Region
from .programs import SlicedProgram, pack_slices, unpack_slices

__all__ = ["Image", "relocate"]

_MAGIC = b"HWGENIMG"


def relocate(descriptors: Iterable[Descriptor], base: int, cache: int | None = None) -> list[Descriptor]:
    """The same operators with every memory address moved by ``base``, or by ``cache`` where it is in the KV pages."""
    by = {None: 0, Memory.CONSTANTS: base, Memory.CACHE: base if cache is None else cache}
    return [replace(d, stream_address=d.stream_address + by[OPERATORS[d.opcode].memory]) for d in descriptors]


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A compiled model. Addresses count from the start of the image; :meth:`program` gives them a base.

    The constant part (``data``) is written to the device once; logits and KV pages behind it belong to the machine.
    """

    config: BuildConfig
    shape: ModelShape
    #: Name of the model.
    name: str
    #: Operators of one pass, addresses relative to the image.
    descriptors: tuple[Descriptor, ...]
    #: Constant bytes from offset 0; the program's place is filled by :meth:`program`.
    data: npt.NDArray[np.uint8]
    #: Regions by name: ``program``, ``embedding``, ``rotary``, ``layers.0.qkv``, ..., ``head``, ``slices``, ``logits``,
    #: ``kv``.
    symbols: dict[str, Region]
    #: Bytes of the whole image, logits and KV pages included.
    total_bytes: int
    #: Tokens in one pass at most (the build's chunk, or fewer where the scratch memory is smaller).
    chunk: int
    #: Longest context in tokens.
    context: int
    #: Bytes of one KV page (``kv_block`` positions of every layer and head).
    page_bytes: int
    #: The same pass in slices, where the scratch memory has room for a token of another session between them.
    sliced: SlicedProgram | None = None

    @property
    def int4_kv(self) -> bool:
        """Keys and values in the cache have 4 bits."""
        return any(d.opcode is Opcode.KV_WRITE and Format.INT4_KV in d.format for d in self.descriptors)

    @property
    def pages(self) -> int:
        """KV pages of the image."""
        return self.symbols["kv"].bytes // self.page_bytes

    def memory_bytes(self, spare: int = 1 << 20) -> int:
        """Memory of a device for the image and ``spare`` bytes, in whole pages of its allocator."""
        return align(self.total_bytes + spare, REGION_ALIGNMENT)

    def program(self, base: int) -> bytes:
        """Bytes of the program for an image at address ``base``."""
        return pack_program(relocate(self.descriptors, base))

    def slices(self, base: int) -> tuple[bytes, tuple[int, ...]]:
        """Bytes of region ``slices`` for an image at ``base``; address of the program beside the slices, then of each slice."""
        if self.sliced is None:
            return b"", ()
        moved = SlicedProgram(
            tuple(relocate(self.sliced.beside, base)), tuple(tuple(relocate(part, base)) for part in self.sliced.slices)
        )
        data, offsets = pack_slices(moved)
        start = base + self.symbols["slices"].offset
        return data, tuple(start + offset for offset in offsets)

    def header(self) -> dict[str, Any]:
        """What the file states about the image, as JSON values."""
        return {
            "contract_version": CONTRACT_VERSION,
            "contract_hash": f"{contract_hash(self.config):016x}",
            "config": self.config.to_dict(),
            "shape": self.shape.to_dict(),
            "name": self.name,
            "bytes": self.total_bytes,
            "chunk": self.chunk,
            "context": self.context,
            "page_bytes": self.page_bytes,
            "symbols": {name: [r.offset, r.bytes] for name, r in self.symbols.items()},
        }

    def save(self, path: Path) -> None:
        """Write the image: magic, header length, JSON header, constant bytes."""
        text = json.dumps(self.header()).encode()
        with replacing(path) as part, part.open("wb") as file:
            file.write(_MAGIC + len(text).to_bytes(8, "little") + text)
            data = self.data.copy()
            program = np.frombuffer(self.program(0), np.uint8)
            data[: program.size] = program
            slices = np.frombuffer(self.slices(0)[0], np.uint8)
            start = self.symbols["slices"].offset if slices.size else 0
            data[start : start + slices.size] = slices
            file.write(data.tobytes())

    @classmethod
    def load(cls, path: Path) -> Image:
        """Read an image; one of another contract version, or cut short, is refused."""
        fix = "compile the model again"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise HwgenError("model", f"{path} cannot be read: {error.strerror}", fix) from error
        start = len(_MAGIC) + 8
        length = int.from_bytes(content[len(_MAGIC) : start], "little")
        if content[: len(_MAGIC)] != _MAGIC or len(content) < start + length:
            raise HwgenError("model", f"{path} is not an hwgen image, or is cut short", fix)
        try:
            header = json.loads(content[start : start + length])
            version, found = header["contract_version"], int(header["contract_hash"], 16)
        except (ValueError, KeyError) as error:
            raise HwgenError("model", f"{path} has a damaged header", fix) from error
        if version != CONTRACT_VERSION:  # before the configuration is read: its fields may differ
            raise HwgenError(
                "contract", f"{path} has contract version {version}, this hwgen has version {CONTRACT_VERSION}", fix
            )
        config = BuildConfig.from_dict(header["config"])
        check_contract(config, version, found, str(path))
        symbols = {name: Region(*values) for name, values in header["symbols"].items()}
        data = np.frombuffer(content, np.uint8, offset=start + length)
        if data.size != symbols["logits"].offset:
            raise HwgenError("model", f"{path} is cut short: {data.size} bytes of {symbols['logits'].offset}", fix)
        program = symbols["program"]
        descriptors = tuple(unpack_program(data[program.offset : program.offset + program.bytes].tobytes()))
        sliced = symbols.get("slices")
        return cls(
            config=config,
            shape=ModelShape(**header["shape"]),
            name=header["name"],
            descriptors=descriptors,
            data=data,
            symbols=symbols,
            total_bytes=header["bytes"],
            chunk=header["chunk"],
            context=header["context"],
            page_bytes=header["page_bytes"],
            sliced=unpack_slices(data[sliced.offset : sliced.offset + sliced.bytes].tobytes()) if sliced else None,
        )
