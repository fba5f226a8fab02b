"""Tokenizers of SentencePiece, rebuilt with the ``tokenizers`` library: of the pieces that a GGUF file has, or of a file
``tokenizer.model``.

That file is a message of Protocol Buffers. The few fields that say something are taken out of it here, because the generated reader
in ``sentencepiece`` asks for a newer ``protobuf`` than PYNQ allows; tests hold the result against ``sentencepiece`` itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import HwgenError
from ...packages import needs

__all__ = ["CONTROL", "NORMAL", "USER_DEFINED", "Piece", "SentencePieces", "build_tokenizer", "read_pieces"]

#: Kinds of pieces in the format.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_UNIGRAM, _BPE = 1, 2

#: So much below every other score is that of a piece that no text is cut into.
_NEVER = 100.0


@dataclass(frozen=True)
class Piece:
    """A token."""

    text: str
    score: float = 0.0
    kind: int = NORMAL


@dataclass
class SentencePieces:
    """What a SentencePiece model says of itself; the defaults are those of the format."""

    pieces: list[Piece] = field(default_factory=list)
    unigram: bool = True
    byte_fallback: bool = False
    #: Ids of special pieces, negative where there is none.
    unknown: int = 0
    begin: int = 1
    end: int = 2
    #: A space before every text; runs of spaces, and those at the ends, are one or none.
    prefix: bool = True
    trim: bool = True
    #: Replacements of characters, compiled.
    charsmap: bytes = b""


def _ranked(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Merges in their order: those that make the piece with the best score first."""
    ids = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == NORMAL}
    merges = []
    for piece in pieces:
        if piece.kind == NORMAL:
            text = piece.text
            parts = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
            merges += [(-piece.score, ids[a], ids[b], a, b) for a, b in parts]
    return [(a, b) for *_, a, b in sorted(merges)]


def build_tokenizer(said: SentencePieces, *, first_only: bool = False) -> Any:
    """The tokenizer, without anything before or behind a text. ``first_only``: the space before a text does not stand behind
    special tokens within it, nor behind pieces that are cut out of it first (which is so wherever there are some).
    """
    first_only = first_only or any(piece.kind == USER_DEFINED for piece in said.pieces)
    with needs("a tokenizer", "tokenizers"):
        import tokenizers as lib
    unknown = said.pieces[said.unknown].text
    if said.unigram:
        usual = (NORMAL, UNKNOWN, USER_DEFINED)
        never = min((p.score for p in said.pieces if p.kind in usual), default=0.0) - _NEVER
        scores = [(p.text, p.score if p.kind in usual else never) for p in said.pieces]
        model: Any = lib.models.Unigram(scores, said.unknown, said.byte_fallback)
    else:
        ids = {piece.text: i for i, piece in enumerate(said.pieces)}
        model = lib.models.BPE(ids, _ranked(said.pieces), unk_token=unknown, fuse_unk=True, byte_fallback=said.byte_fallback)
    inner = lib.Tokenizer(model)
    steps: list[Any] = [lib.normalizers.Precompiled(said.charsmap)] if said.charsmap else []
    if said.trim:
        steps += [lib.normalizers.Strip(), lib.normalizers.Replace(lib.Regex(" {2,}"), " ")]
    if said.prefix and not first_only:
        steps.append(lib.normalizers.Prepend("▁"))
    if not first_only:
        steps.append(lib.normalizers.Replace(" ", "▁"))
    if steps:
        inner.normalizer = lib.normalizers.Sequence(steps)
    if first_only:
        scheme = "first" if said.prefix else "never"
        inner.pre_tokenizer = lib.pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    strip = [lib.decoders.Strip(" ", 1, 0)] if said.prefix else []
    inner.decoder = lib.decoders.Sequence(
        [lib.decoders.Replace("▁", " "), lib.decoders.ByteFallback(), lib.decoders.Fuse(), *strip]
    )
    added = lib.AddedToken
    inner.add_special_tokens([added(p.text, normalized=False, special=True) for p in said.pieces if p.kind == CONTROL])
    inner.add_tokens([added(p.text, normalized=False) for p in said.pieces if p.kind == USER_DEFINED])
    return inner


# ---- tokenizer.model ---------------------------------------------------------------------------------------------
def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the fields of a message: whole numbers, bytes, or the four bytes of a float."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value - (1 << 64) if value >> 63 else value
            continue
        size = {1: 8, 5: 4}.get(wire)
        if size is None and wire == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("no message of Protocol Buffers")
        yield number, data[at : at + size]
        at += size


def _piece(message: bytes) -> Piece:
    found = dict(_fields(message))
    return Piece(found[1].decode(), struct.unpack("<f", found.get(2, bytes(4)))[0], int(found.get(3, NORMAL)))


def _is_whole(charsmap: bytes) -> bool:
    """Whether no text leads out of compiled replacements, which the library does not check: the size of a double array (of
    Darts-clone, in blocks of 256 units), the array, the texts that its values point to.
    """
    size = int.from_bytes(charsmap[:4], "little")
    if not 0 < size <= len(charsmap) - 4 or size % 1024:
        return False
    units = np.frombuffer(charsmap, "<u4", size // 4, 4)
    value = units >> 31 == 1
    child = np.arange(len(units)) ^ (units >> 10) << ((units & 0x200) >> 6)
    texts = len(charsmap) - 4 - size
    return bool((child[~value] | 0xFF < len(units)).all() and (units[value] & 0x7FFFFFFF < texts).all())


def _parse(data: bytes) -> SentencePieces:
    """Fields by their numbers in sentencepiece_model.proto."""
    said, kind = SentencePieces(), _UNIGRAM
    for number, value in _fields(data):
        if number == 1:
            said.pieces.append(_piece(value))
        elif number == 2:  # TrainerSpec
            trainer = dict(_fields(value))
            kind, said.byte_fallback = trainer.get(3, _UNIGRAM), bool(trainer.get(35, 0))
            said.unknown, said.begin, said.end = trainer.get(40, 0), trainer.get(41, 1), trainer.get(42, 2)
            if trainer.get(24, 0):
                raise ValueError("its spaces stand behind words (treat_whitespace_as_suffix), which is not supported")
        elif number == 3:  # NormalizerSpec
            normalizer = dict(_fields(value))
            said.charsmap, said.prefix, said.trim = normalizer.get(2, b""), bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
            if not normalizer.get(5, 1):
                raise ValueError("it does not escape spaces, which is not supported")
    if not all(isinstance(number, int) for number in (kind, said.unknown, said.begin, said.end)):
        raise ValueError("its kind and its special pieces are no numbers")
    if said.charsmap and not _is_whole(said.charsmap):
        raise ValueError("its replacements of characters are damaged")
    if kind not in (_UNIGRAM, _BPE):
        raise ValueError(f"its kind {kind} is not supported; supported: unigram and BPE")
    if not said.pieces or not 0 <= said.unknown < len(said.pieces):
        raise ValueError("it has no pieces, or no piece for what is unknown")
    if said.trim and any(piece.kind == USER_DEFINED for piece in said.pieces):
        raise ValueError("it trims spaces and has pieces that are cut out of a text first, which is not supported")
    said.unigram = kind == _UNIGRAM
    return said


def read_pieces(path: Path) -> SentencePieces:
    """What a file ``tokenizer.model`` says."""
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise HwgenError("tokenizer", f"{path} cannot be read: {error.strerror}", "download the file again") from error
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, struct.error) as error:
        what = str(error) if isinstance(error, ValueError) else "no SentencePiece model"
        raise HwgenError(
            "tokenizer", f"{path}: {what}",
            "let transformers write tokenizer.json (AutoTokenizer, save_pretrained), or download the file again",
        ) from error
