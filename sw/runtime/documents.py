"""Documents: texts whose keys and values are computed once, and taken over wherever a prompt has the text.

They are computed twice, behind a usual beginning of a prompt, and behind that and a text of this package, `lead`: keys and values
of what begins a prompt draw attention as first tokens do (Xiao et al., *Efficient Streaming Language Models with Attention Sinks*,
ICLR 2024, section 3.1), and where several texts of a prompt do so, answers suffer. APE (Yang et al., ICLR 2025) gives all texts one
prefix to that end. Neither knows what stands in front of it in another prompt: `hwgen.sw.runtime.document_passes` computes some of
the tokens again for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from ...errors import HwgenError
from ..compiler.image import Image
from ..devices.device import Bytes
from .engine import Engine
from .key_rotation import moved
from .kv_arrays import KvArrays, pack_pages, unpack_pages
from .pages import Session
from .prefix_cache import PrefixCache

__all__ = ["Computed", "Document", "DocumentStore", "checked_share", "compute_document", "lead", "slice_of"]

#: Tokens of a document at least: shorter ones are computed as fast as they are looked for. A document is found by so many.
SHORTEST = 8

#: Tokens of the text in front of a document that does not begin a prompt, at most.
LEAD = 512


def lead() -> str:
    """Prose that says nothing that a document would: what stands in front of a document while it is computed as a later one."""
    return Path(__file__).with_name("lead.txt").read_text(encoding="utf-8")


def slice_of(arrays: KvArrays, first: int, end: int) -> KvArrays:
    """Keys and values of the positions from ``first`` up to ``end``."""
    return KvArrays(arrays.elements[..., first:end, :], arrays.scales[..., first:end])


@dataclass(eq=False)
class Computed:
    """Keys and values of a text as the machine computed them, from position ``position`` on."""

    position: int
    arrays: KvArrays


@dataclass(eq=False)
class Document:
    """A text, its tokens, and their keys and values as they were computed at one position or more."""

    text: str
    tokens: tuple[int, ...]
    computed: tuple[Computed, ...]
    #: The same at the position that was asked for last, as pages of the cache, and of one layer: prompts of a kind have a document
    #: at the same position time and again, and the host's work is then to write the pages.
    _placed: tuple[int, int, Bytes, KvArrays] | None = field(default=None, init=False)

    def nearest(self, position: int) -> Computed:
        """The keys and values that are taken over at a position: those with the least factor between the tokens up to there and up
        to where they were computed, as attention is divided among what stands in front.
        """
        def factor(computed: Computed) -> Fraction:
            here, there = position + 1, computed.position + 1
            return Fraction(max(here, there), min(here, there))

        return min(self.computed, key=factor)

    def at(self, image: Image, position: int, layer: int) -> tuple[Bytes, KvArrays]:
        """Pages with keys and values from ``position`` on, in their slots of the first page's block; and those of a layer."""
        if self._placed is None or self._placed[:2] != (position, layer):
            # Every move begins at what the machine computed, so that rounding does not add up.
            computed = self.nearest(position)
            arrays = moved(image, computed.arrays, position - computed.position)
            pages = pack_pages(image, _behind(position % image.config.kv_block, arrays))
            own = KvArrays(arrays.elements[:, layer : layer + 1].copy(), arrays.scales[:, layer : layer + 1].copy())
            self._placed = position, layer, pages, own
        return self._placed[2:]


def _behind(positions: int, arrays: KvArrays) -> KvArrays:
    """The same behind so many positions of zeros."""
    widths = ((0, 0),) * 3 + ((positions, 0),)
    return KvArrays(np.pad(arrays.elements, (*widths, (0, 0))), np.pad(arrays.scales, widths))


def compute_document(
    engine: Engine, text: str, tokens: Sequence[int], before: Sequence[int], prefixes: PrefixCache | None = None,
    front: Sequence[int] = (),
) -> Document:
    """Compute a document behind the tokens ``before``, and behind these and ``front``, of which the first `LEAD` are taken, and no
    more than the context has room for, or none where pages for them are not free. ``prefixes`` keep what stands in front.
    """
    if len(tokens) < SHORTEST:
        raise HwgenError("usage", f"a document must have {SHORTEST} tokens or more, not {len(tokens)}", "give a longer text")
    engine.check_context(len(before) + len(tokens) + 1)
    computed = [_compute(engine, before, tokens, prefixes)]
    if front := front[: min(LEAD, engine.image.context - len(before) - len(tokens) - 1)]:
        try:
            computed.append(_compute(engine, [*before, *front], tokens, prefixes))
        except HwgenError as error:
            if error.kind != "context":
                raise
    return Document(text, tuple(tokens), tuple(computed))


def _compute(engine: Engine, before: Sequence[int], tokens: Sequence[int], prefixes: PrefixCache | None) -> Computed:
    """Keys and values behind other tokens."""
    session, whole = Session(), [*before, *tokens]
    reused = 0 if prefixes is None else prefixes.start(session, whole)
    try:
        for first in range(reused, len(whole), engine.image.chunk):
            engine.forward(session, whole[first : first + engine.image.chunk], logits=False)
        arrays = unpack_pages(engine.image, engine.pages.read(session.pages), len(whole))
        if prefixes is not None:
            prefixes.add(session)
    finally:
        engine.pages.close(session)
    own = slice_of(arrays, len(before), len(whole))
    return Computed(len(before), KvArrays(np.ascontiguousarray(own.elements), own.scales.copy()))


class DocumentStore:
    """The documents of a model. ``recompute``: the share of a document's tokens that is computed again in a prompt, 0 to 1; with 1
    documents are not used at all, so that every prompt has the bits that it has without them.
    """

    def __init__(self, recompute: float = 0.15) -> None:
        self.recompute = checked_share(recompute)
        self._documents: dict[tuple[int, ...], Document] = {}

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def texts(self) -> list[str]:
        """Of all documents, longer ones first: they are made tokens by themselves wherever they stand."""
        return sorted((d.text for d in self._documents.values()), key=len, reverse=True)

    def add(self, document: Document) -> None:
        self._documents[document.tokens] = document

    def get(self, tokens: Sequence[int]) -> Document | None:
        """The document that has these tokens."""
        return self._documents.get(tuple(tokens))

    def remove(self, document: Document) -> None:
        """Forget a document; nothing happens where it is not here."""
        self._documents.pop(document.tokens, None)

    def found(self, tokens: Sequence[int]) -> list[tuple[int, Document]]:
        """Where documents stand in a list of tokens, none over another: first to last, longer ones preferred."""
        starts: dict[tuple[int, ...], list[Document]] = {}
        for document in sorted(self._documents.values(), key=lambda d: -len(d.tokens)):
            starts.setdefault(document.tokens[:SHORTEST], []).append(document)
        places: list[tuple[int, Document]] = []
        at, text = 0, tuple(tokens)
        while at < len(text):
            here = next((d for d in starts.get(text[at : at + SHORTEST], ()) if text[at : at + len(d.tokens)] == d.tokens), None)
            if here is not None:
                places.append((at, here))
            at += 1 if here is None else len(here.tokens)
        return places


def checked_share(recompute: float) -> float:
    """Refuse what is no share."""
    if not 0 <= recompute <= 1:
        raise HwgenError("usage", f"recompute must be 0 to 1, not {recompute!r}", "give the share of tokens to compute again")
    return float(recompute)
