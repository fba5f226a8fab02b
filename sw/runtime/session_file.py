"""Sessions on disk: tokens, keys and values in one safetensors file with a checksum.

A file is bound to the weights (``model_hash``) and to the contract of the build it was made on; any other is refused, and so
is one with a wrong byte anywhere. It appears under its name complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...contract import CONTRACT_VERSION, check_contract, contract_hash
from ...descriptors import Format
from ...errors import HwgenError
from ...files import replacing
from ...formats import four_bit_codes, four_bit_elements
from ...layout import KV_FORMATS
from ...packages import needs
from ..compiler.image import Image
from .engine import Engine
from .kv_arrays import KvArrays, pack_pages, unpack_pages
from .pages import Session
from .vector_tokens import as_words

__all__ = ["KV_BITS", "check_place", "load_session", "pack_session", "save_session", "unpack_session"]

#: Formats of a saved element: 8 as the machine keeps it, 4 rounded.
KV_BITS = (8, 4)

FORMAT = "hwgen-session-5"

#: Stands where the checksum will be while it is computed.
_NO_CHECKSUM = "0" * 64

_FIX = "delete the file, and compute the session again from its text"

#: What 4 bits of an element of 8 are times: 7 stands for the largest, since the scale belongs to that.
_STEP = 127 / 7


def _safetensors() -> Any:
    with needs("a saved session", "safetensors"):
        import safetensors.numpy
    return safetensors.numpy


def _four_bits(image: Image) -> tuple[bool, bool]:
    """Whether keys, and values, have 4 bits in the cache."""
    return Format.INT4_KEYS in KV_FORMATS[image.kv], Format.INT4_VALUES in KV_FORMATS[image.kv]


def _to_nibbles(elements: npt.NDArray[np.int8], image: Image) -> npt.NDArray[np.uint8]:
    """int8 ``[2, ..., n]`` -> two elements a byte, the even one in the low half: codes of elements that have 4 bits, others as
    ``q + 8``, rounded to -7..7.
    """
    nibbles = np.stack([
        four_bit_codes(kind) if bits else (np.rint(kind / _STEP) + 8).astype(np.uint8)
        for kind, bits in zip(elements, _four_bits(image), strict=True)
    ])
    packed: npt.NDArray[np.uint8] = (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).astype(np.uint8)
    return packed


def _from_nibbles(packed: npt.NDArray[np.uint8], image: Image) -> npt.NDArray[np.int8]:
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    return np.stack([
        four_bit_elements(kind) if bits else np.rint((kind.astype(np.int8) - 8) * _STEP).astype(np.int8)
        for kind, bits in zip(nibbles, _four_bits(image), strict=True)
    ])


def save_session(engine: Engine, session: Session, path: Path, *, kv_bits: int = 8) -> int:
    """Write a session; returns the bytes of the file. The session goes on as before.

    With ``kv_bits=4`` keys and values take half the space and come back rounded: answers may differ.
    """
    content = pack_session(engine, session, kv_bits=kv_bits)
    _write(path, content)
    return len(content)


def pack_session(engine: Engine, session: Session, *, kv_bits: int = 8) -> bytes:
    """What :func:`save_session` writes."""
    if kv_bits not in KV_BITS:
        raise HwgenError("usage", f"kv_bits must be 8 or 4, not {kv_bits!r}", "use 8 for the exact form")
    if as_words(own := [*session.tokens, *session.pending]) != own:
        raise HwgenError("session", "a session with vectors in place of tokens cannot be saved", "save it before, or keep it open")
    library = _safetensors()
    pages = engine.pages.read(session.pages) if session.parked is None else session.parked
    kv = unpack_pages(engine.image, pages, session.position)
    exact = kv_bits == 8 or all(_four_bits(engine.image))
    metadata = {
        "format": FORMAT,
        "model": engine.image.name,
        "model_hash": engine.image.model_hash,
        "contract_version": str(CONTRACT_VERSION),
        "contract_hash": f"{contract_hash(engine.config):016x}",
        "kv_bits": str(kv_bits),
        "kv": engine.image.kv,
        "exact": str(int(session.exact and exact)),  # rounded keys and values are not what the machine computes
        "sha256": _NO_CHECKSUM,
    }
    tensors = {
        "tokens": np.array(session.tokens, np.int32),
        "pending": np.array(session.pending, np.int32),
        "kv": np.ascontiguousarray(kv.elements) if kv_bits == 8 else _to_nibbles(kv.elements, engine.image),
        "kv_scales": np.ascontiguousarray(kv.scales),
    }
    content: bytes = library.save(tensors, metadata)
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(_NO_CHECKSUM.encode(), digest.encode(), 1)


def check_place(path: Path) -> None:
    """Refuse a path at which a session cannot be saved, before an answer is computed for it."""
    folder = path.absolute().parent
    reason = (
        "it is a directory" if path.is_dir()
        else f"{folder} is not a directory" if not folder.is_dir()
        else "" if os.access(folder, os.W_OK) else f"{folder} cannot be written"
    )
    if reason:
        raise HwgenError("session", f"{path} cannot be written: {reason}", "choose another place")


def _write(path: Path, content: bytes) -> None:
    """Replace a file by new content that is on the disk before it has the name."""
    try:
        with replacing(path, durable=True) as part:
            part.touch(0o600)  # what was said is for its owner
            part.write_bytes(content)
    except OSError as error:
        raise HwgenError("session", f"{path} cannot be written: {error.strerror}", "free space, or choose another place") from error


def _checked(content: bytes, path: Path | str) -> tuple[dict[str, str], dict[str, npt.NDArray[Any]]]:
    """Metadata and tensors of a session whose checksum is right."""
    library = _safetensors()
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        metadata = json.loads(content[8:end])["__metadata__"]
        digest = metadata["sha256"]
        if metadata["format"] != FORMAT:
            raise HwgenError("session", f"{path} has format {metadata['format']!r}, {FORMAT!r} expected", _FIX)
        plain = content[:end].replace(digest.encode(), _NO_CHECKSUM.encode(), 1) + content[end:]
        if hashlib.sha256(plain).hexdigest() != digest:
            raise HwgenError("session", f"{path} is damaged: its checksum is wrong", _FIX)
        return metadata, library.load(content)
    except HwgenError:
        raise
    except Exception as error:  # of JSON, of a missing key, or the library's own
        raise HwgenError("session", f"{path} is not a saved session, or is damaged", _FIX) from error


def load_session(engine: Engine, path: Path) -> Session:
    """A session from disk, in pages of its own. Nothing changes when the file is refused or pages are too few."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HwgenError("session", f"{path} cannot be read: {error.strerror}", "check the path") from error
    return unpack_session(engine, content, path)


def unpack_session(engine: Engine, content: bytes, path: Path | str) -> Session:
    """The same from the bytes of a file; ``path`` says in errors where they are from."""
    metadata, tensors = _checked(content, path)
    check_contract(engine.config, int(metadata["contract_version"]), int(metadata["contract_hash"], 16), f"session {path}")
    if metadata["kv"] != engine.image.kv:
        raise HwgenError(
            "session", f"{path} has a {metadata['kv']} cache, {engine.image.name!r} a {engine.image.kv} one",
            f"load the model with --kv {metadata['kv']}",
        )
    if metadata["model_hash"] != engine.image.model_hash:
        raise HwgenError(
            "session",
            f"{path} belongs to other weights (of model {metadata['model']!r}) than {engine.image.name!r} has",
            "load the model that the session was saved with",
        )
    elements = tensors["kv"] if metadata["kv_bits"] == "8" else _from_nibbles(tensors["kv"], engine.image)
    session = Session()
    tokens = [int(t) for t in tensors["tokens"]]
    engine.check_context(len(tokens))
    session.parked = pack_pages(engine.image, KvArrays(elements, tensors["kv_scales"]))
    session.tokens, session.exact = tokens, metadata["exact"] == "1"
    session.pending = [int(t) for t in tensors["pending"]]
    if not engine.pages.unpark(session, len(tokens)):
        raise HwgenError(
            "context",
            f"the session needs {engine.pages.blocks(len(tokens))} KV pages, {engine.pages.free} are free",
            "close another session, or give the cache more tokens",
        )
    return session
