"""A compiled model in one file: what a board needs to run it, so that a board never sees a checkpoint.

A file is a preamble (magic, bytes and CRC-32 of the header), a header of JSON, and sections that begin at multiples of 4096
bytes: checksums, program, tokenizer, rows of keys, constants, embedding. Every block of a section has a CRC-32 in the checksums
(of the constants one of its sectors' sums: `sector_checksum`), which have theirs in the header. The constants go through a window
straight into the buffers of a device; embedding rows stay in the file and are read one by one, each with its checksum. A file
appears under its name complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...boards import Board
from ...config import BuildConfig, ConfigError
from ...contract import CONTRACT_VERSION, check_contract, contract_hash
from ...descriptors import pack_program, unpack_program
from ...errors import HwgenError
from ...files import replacing
from ...rounding import align, ceil_div
from ...shape import ModelShape
from ..models.model import Model
from ..models.open import IMAGE_SUFFIX
from ..models.tokenizer import Tokenizer
from ..progress import Ticker
from .file_sections import MISSING, FileConstants, FileRows, Section, read_section, sector_checksum
from .image import ROWS, WINDOW, Image
from .pass_costs import pass_costs
from .placement import REGION_ALIGNMENT, Region

__all__ = ["CompiledModel", "check_same_build", "is_image_file", "load_image", "save_image"]

MAGIC = b"HWIMAGE2"

#: Bytes before the header: magic, bytes of the header (8), its CRC-32 (4), zeros (4).
PREAMBLE = 24

#: Bytes of the constants that share a checksum.
BLOCK = 1 << 20

FIX = "compile the model again: hwgen compile"


@dataclass(frozen=True, kw_only=True)
class CompiledModel:
    """What is in an image file: a model that needs no compiler any more."""

    path: Path
    image: Image
    #: Board that it was compiled for, and its part; empty where the configuration has no board.
    board: str
    part: str
    #: One of :data:`hwgen.sw.compiler.compile.HEADS`.
    head: str
    #: Token ids that end a generation.
    stop_tokens: tuple[int, ...]
    _tokenizer: Tokenizer | None

    @property
    def name(self) -> str:
        """Name printed in reports."""
        return self.image.name

    @property
    def shape(self) -> ModelShape:
        """Sizes and constants."""
        return self.image.shape

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        if self._tokenizer is None:
            raise HwgenError("tokenizer", f"{self.path} has no tokenizer", "give token ids, or compile a model that has one")
        return self._tokenizer


def is_image_file(name: object) -> bool:
    """Whether a model is given as an image file."""
    return str(name).endswith(IMAGE_SUFFIX)


def check_same_build(compiled: CompiledModel, config: BuildConfig) -> None:
    """Refuse an image for a build that it was not compiled for."""
    if contract_hash(config) != contract_hash(compiled.image.config):
        raise HwgenError(
            "contract",
            f"{compiled.path} was compiled for {compiled.board} (build {compiled.image.config.name!r}), not for build "
            f"{config.name!r}",
            "leave out what chooses a board, or compile the model for this one: hwgen compile --board",
        )


# ---- writing ---------------------------------------------------------------------------------------------------------
class _Writer:
    """Writes sections in order, and keeps a checksum of every block."""

    def __init__(self, file: BinaryIO, sections: dict[str, Section], checksums: int) -> None:
        self._file, self._sections = file, sections
        self.checksums = np.zeros(checksums, "<u4")

    def section(self, name: str, parts: Iterator[Any], checksum: Callable[[Any], int] = zlib.crc32) -> None:
        """The bytes of a section, in ``parts`` that end where blocks end."""
        section = self._sections[name]
        self._file.seek(section.offset)
        number = section.first
        for part in parts:
            data = np.frombuffer(part, np.uint8)
            self._file.write(data.data)
            for start in range(0, data.size, section.block):
                self.checksums[number] = checksum(data[start : start + section.block])
                number += 1


def _sections(image: Image, small: dict[str, bytes]) -> tuple[dict[str, tuple[int, int]], int]:
    """``(bytes, block)`` of the sections by name, and blocks of all together."""
    row = 2 * image.shape.hidden
    sizes = {
        **{name: (len(data), max(1, len(data))) for name, data in small.items()},
        "constants": (image.constants.bytes, BLOCK),
        "embedding": (image.shape.vocab * row, row),
    }
    return sizes, sum(ceil_div(size, block) for size, block in sizes.values())


def _place(sizes: dict[str, tuple[int, int]], start: int) -> tuple[dict[str, Section], int]:
    """Sections one behind the other from ``start`` on, and where the last one ends."""
    sections, first = {}, 0
    for name, (size, block) in sizes.items():
        start = align(start, REGION_ALIGNMENT)
        sections[name] = Section(start, size, block, first)
        first += ceil_div(size, block)
        start += size
    return sections, start


def _text(model: Model | None) -> tuple[dict[str, Any] | None, bytes]:
    """What the header says of tokens, and the tokenizer."""
    if model is None:
        return None, b""
    tokenizer = model.tokenizer
    text = {"names": tokenizer.names, "chat_template": tokenizer.chat_template, "stop_tokens": list(model.stop_tokens)}
    return text, tokenizer.to_json().encode()


def save_image(
    path: Path, image: Image, model: Model | None, board: Board, head: str, progress: Callable[[str], None] = lambda text: None
) -> tuple[int, str]:
    """Write an image with the tokenizer of ``model`` (None: without one); bytes of the file, and hash of the model. Constants are
    written as they are packed, so no second copy of them is held.
    """
    text, tokenizer = _text(model)
    small = {
        "program": pack_program(image.descriptors), "tokenizer": tokenizer,
        "key_rows": b"" if image.key_rows is None else image.key_rows.tobytes(),
    }
    sizes, blocks = _sections(image, small)
    header: dict[str, Any] = {
        "contract_version": CONTRACT_VERSION,
        "contract_hash": f"{contract_hash(image.config):016x}",
        "config": image.config.to_dict(),
        "shape": image.shape.to_dict(),
        "name": image.name,
        "board": [board.name, board.part],
        "head": head,
        **{name: getattr(image, name) for name in ("row_bytes", "chunk", "context", "page_bytes", "pages")},
        "symbols": {name: [r.offset, r.bytes] for name, r in image.symbols.items()},
        "text": text,
        "pass_costs": pass_costs(image).to_list(),
    }

    def encoded(start: int, model_hash: str, checksum: int) -> tuple[bytes, dict[str, Section], int]:
        """The header where checksums begin at ``start``, the sections then, and the end of the last one."""
        sections, end = _place(sizes, start + 4 * blocks)
        values = {
            "model_hash": model_hash, "checksums": [start, blocks, f"{checksum:08x}"], "bytes": end,
            "sections": {name: section.to_list() for name, section in sections.items()},
        }
        return json.dumps(header | values).encode(), sections, end

    room = align(PREAMBLE + len(encoded(1 << 40, "0" * 64, 0)[0]), REGION_ALIGNMENT)  # longest numbers
    _, sections, end = encoded(room, "", 0)
    try:
        with replacing(path) as part, part.open("wb") as file:
            writer = _Writer(file, sections, blocks)
            for name, data in small.items():
                if data:
                    writer.section(name, iter([data]))
            model_hash = _write_model(writer, image, Ticker(progress))
            file.seek(room)
            file.write(writer.checksums.tobytes())
            content = encoded(room, model_hash, zlib.crc32(writer.checksums.tobytes()))[0].ljust(room - PREAMBLE)
            file.seek(0)
            file.write(MAGIC + len(content).to_bytes(8, "little") + zlib.crc32(content).to_bytes(4, "little") + bytes(4) + content)
            file.truncate(end)
    except OSError as error:
        raise HwgenError("usage", f"{path} cannot be written: {error.strerror}", "give --out on a disk with room") from error
    return end, model_hash


def _write_model(writer: _Writer, image: Image, ticker: Ticker) -> str:
    """Constants and embedding; the hash of the model."""
    digest = hashlib.sha256(json.dumps(image.shape.to_dict(), sort_keys=True).encode())

    def constants() -> Iterator[Any]:
        window, total = np.empty(WINDOW, np.uint8), image.constants.bytes
        with image.constants.reading() as read:
            for first in range(0, total, WINDOW):
                part = window[: total - first]
                read(part)
                digest.update(part.data)
                ticker.tick(f"{first >> 20} of {total >> 20} MiB written")
                yield part

    def embedding() -> Iterator[Any]:
        for first in range(0, image.shape.vocab, ROWS):
            part = image.embedding.gather(range(first, min(first + ROWS, image.shape.vocab)))
            digest.update(part.data)
            yield part

    writer.section("constants", constants(), sector_checksum)
    writer.section("embedding", embedding())
    return digest.hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------
def _read_header(path: Path, file: BinaryIO) -> dict[str, Any]:
    """The header of a whole file of this contract version, its checksum compared."""
    preamble = file.read(PREAMBLE)
    if preamble[: len(MAGIC)] != MAGIC:
        raise HwgenError("model", f"{path} is not an image that hwgen compile wrote", FIX)
    content = file.read(int.from_bytes(preamble[8:16], "little"))
    if zlib.crc32(content) != int.from_bytes(preamble[16:20], "little"):
        raise HwgenError("model", f"{path} is damaged: the checksum of its header is wrong", "copy the file again, or " + FIX)
    header: dict[str, Any] = json.loads(content)
    version = header["contract_version"]
    if version != CONTRACT_VERSION:  # before anything else is looked at: fields may differ
        raise HwgenError("contract", f"{path} has contract version {version}, this hwgen has version {CONTRACT_VERSION}", FIX)
    size = path.stat().st_size
    if size != header["bytes"]:
        raise HwgenError(
            "model", f"{path} is cut short: {size:,} bytes of {header['bytes']:,}", "copy the file again, or " + FIX
        )
    return header


def load_image(path: Path) -> CompiledModel:
    """Open an image file. Constants and embedding stay in it until they are wanted; everything else is read and checked."""
    try:
        with path.open("rb") as file:
            header = _read_header(path, file)
            start, blocks, checksum = header["checksums"]
            file.seek(start)
            table = file.read(4 * blocks)
            if zlib.crc32(table) != int(checksum, 16):
                raise HwgenError("model", f"{path} is damaged: the checksum of its checksums is wrong", MISSING)
            checksums = np.frombuffer(table, "<u4")
            sections = {name: Section(*values) for name, values in header["sections"].items()}
            small = {name: read_section(path, file, sections[name], checksums) for name in ("program", "tokenizer", "key_rows")}
    except OSError as error:
        raise HwgenError("model", f"{path} cannot be read: {error.strerror}", "check the path") from error
    try:
        config = BuildConfig.from_dict(header["config"])
    except ConfigError as error:
        raise HwgenError("contract", f"{path} has a configuration that this hwgen refuses: {error}", FIX) from error
    check_contract(config, header["contract_version"], int(header["contract_hash"], 16), str(path))
    text = header["text"]
    key_rows = np.frombuffer(small["key_rows"], "<u2").reshape(header["shape"]["layers"], -1) if small["key_rows"] else None
    image = Image(
        config=config,
        shape=ModelShape(**header["shape"]),
        name=header["name"],
        descriptors=tuple(unpack_program(small["program"])),
        constants=FileConstants(path, sections["constants"], checksums),
        embedding=FileRows(path, sections["embedding"], checksums),
        symbols={name: Region(*values) for name, values in header["symbols"].items()},
        key_rows=key_rows,
        stored_hash=header["model_hash"],
        stored_costs=header["pass_costs"],
        **{name: header[name] for name in ("row_bytes", "chunk", "context", "page_bytes", "pages")},
    )
    tokenizer = None
    if text is not None:
        tokenizer = Tokenizer.from_json(str(small["tokenizer"], "utf-8"), text["names"], text["chat_template"])
    name, part = header["board"]
    return CompiledModel(
        path=path, image=image, board=name, part=part, head=header["head"],
        stop_tokens=tuple(text["stop_tokens"]) if text else (), _tokenizer=tokenizer,
    )
