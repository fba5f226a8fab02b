"""Documents in a prompt: their keys and values are put into the cache, and the tokens that deviate most are computed again.

What is taken over knows nothing of the text in front of it. As in CacheBlend (Yao et al., EuroSys 2025, section 4.3), how far that
matters is seen in the first layers: keys and values of the first two are computed anew for all tokens, in passes that end there,
and where those of the second deviate most from what was taken over, all layers are computed again. Every token is computed at its
own position and sees the keys before it, so passes are ragged: many short runs of one sequence. Runs of one pass do not see each
other's new keys, and what a pass costs grows with its runs; so the tokens are whole spans of `SPAN` neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
import numpy.typing as npt

from ...formats import widen_bf16
from ..devices.device import Bytes
from .documents import Document, DocumentStore, checked_share, slice_of
from .engine import Engine, PassResult, Run
from .kv_arrays import KvArrays, pack_pages, unpack_pages
from .pages import Session

__all__ = ["LOOKED_AT", "SPAN", "Placement", "chosen_spans", "place_documents"]

#: Neighbouring tokens that are computed again together.
SPAN = 8

#: Layers whose keys and values are computed for all tokens; the last of them says where the tokens deviate.
LOOKED_AT = 2

#: Positions from the first on, up to the second.
Range = tuple[int, int]


@dataclass
class Placement:
    """What was done in front of the rest of a prompt."""

    #: Tokens of the prompt that the session has now, those of them that were taken over, and of these those computed again.
    tokens: int = 0
    placed: int = 0
    recomputed: int = 0
    #: Passes that it took, and the seconds of each.
    passes: list[tuple[PassResult, float]] = field(default_factory=list)


class _Placing:
    """One prompt: ``tokens`` behind those that a session has."""

    def __init__(self, engine: Engine, session: Session, tokens: Sequence[int]) -> None:
        self.engine, self.session, self.tokens, self.first = engine, session, tokens, session.position
        self.result = Placement()
        #: The layer that says where tokens deviate: the last of those that are looked at.
        self.layer = min(LOOKED_AT, engine.image.shape.layers) - 1
        #: Its keys and values as they were taken over, by the ranges of positions.
        self.taken: list[tuple[Range, KvArrays]] = []

    def run(self, runs: Sequence[Run], layers: int | None = None) -> None:
        begin = time.monotonic()
        result = self.engine.run_pass(runs, layers=layers)
        self.result.passes.append((result, time.monotonic() - begin))

    def compute(self, end: int) -> None:
        """The prompt's own tokens up to position ``end``, behind what the session has."""
        chunk = self.engine.image.chunk
        while self.session.position < end:
            at = self.session.position - self.first
            self.run([Run(self.session, self.tokens[at : min(at + chunk, end - self.first)])])

    def take_over(self, document: Document, start: int, end: int) -> None:
        """Keys and values of a document that begins at position ``start``, from the session's end up to ``end``."""
        engine, first, block = self.engine, self.session.position, self.engine.config.kv_block
        content, own = document.at(engine.image, start, self.layer)
        engine.adopt(self.session, self.tokens[first - self.first : end - self.first])
        self.session.exact = False
        low, high = first // block, engine.pages.blocks(end)
        content = content[low - start // block : high - start // block].copy()
        pages = self.session.pages[low:high]
        for page in sorted({low, high - 1}):  # others have none of the slots of these
            inside = slice(max(0, first - page * block), min(block, end - page * block))
            self._keep_beside(content[page - low : page - low + 1], pages[page - low], inside)
        engine.pages.write(pages, content)
        self.taken.append(((first, end), slice_of(own, first - start, end - start)))
        self.result.placed += end - first

    def _keep_beside(self, content: Bytes, page: int, inside: slice) -> None:
        """Fill in what a page has outside of some slots."""
        engine, block = self.engine, self.engine.config.kv_block
        new, kept = (unpack_pages(engine.image, pages, block) for pages in (content, engine.pages.read([page])))
        kept.elements[..., inside, :], kept.scales[..., inside] = new.elements[..., inside, :], new.scales[..., inside]
        content[:] = pack_pages(engine.image, kept)

    def look(self) -> None:
        """Keys and values of the first layers, computed for all tokens from the first document on."""
        for runs in self._runs([(self.taken[0][0][0], self.session.position)]):
            self.run(runs, self.layer + 1)

    def deviations(self) -> list[tuple[Range, npt.NDArray[np.float32]]]:
        """How far keys and values of the layer that is looked at are from those that were taken over, by token."""
        pages = self.engine.pages.read(self.session.pages)
        now = unpack_pages(self.engine.image, pages, self.session.position, self.layer)
        return [((first, end), _distances(slice_of(now, first, end), taken)) for (first, end), taken in self.taken]

    def again(self, ranges: Sequence[Range]) -> None:
        """Compute tokens of the session again, in ascending order."""
        for runs in self._runs(ranges):
            self.run(runs)
            self.result.recomputed += sum(len(run.tokens) for run in runs)

    def _runs(self, ranges: Sequence[Range]) -> Iterator[list[Run]]:
        """The runs of every pass."""
        runs: list[Run] = []
        room = chunk = self.engine.image.chunk
        for first, end in ranges:
            while first < end:
                count = min(room, end - first)
                runs.append(Run(self.session, self.session.tokens[first : first + count], at=first))
                first, room = first + count, room - count
                if not room:
                    yield runs
                    runs, room = [], chunk
        if runs:
            yield runs


def _distances(new: KvArrays, old: KvArrays) -> npt.NDArray[np.float32]:
    """By position the squared distance of keys, and of values, each as a part of all of them, together."""
    a, b = (arrays.elements.astype(np.float32) * widen_bf16(arrays.scales)[..., None] for arrays in (new, old))
    far, size = ((x**2).sum(axis=(1, 2, 4)) for x in (a - b, a))
    return np.asarray((far / np.maximum(size.sum(axis=1, keepdims=True), 1e-30)).sum(axis=0), np.float32)


def chosen_spans(deviations: Sequence[tuple[Range, npt.NDArray[np.float32]]], share: float) -> list[Range]:
    """The spans whose tokens deviate most, so many that they are ``share`` of all tokens: ascending, neighbours joined."""
    spans: list[tuple[float, Range]] = []
    for (first, end), values in deviations:
        for at in range(first, end, SPAN):
            last = min(at + SPAN, end)
            spans.append((float(values[at - first : last - first].sum()), (at, last)))
    ranges: list[Range] = []
    wanted = ceil(share * sum(end - first for (first, end), _ in deviations))
    for _, (first, end) in sorted(spans, key=lambda span: (-span[0], span[1])):
        if wanted <= 0:
            break
        ranges.append((first, end))
        wanted -= end - first
    return _joined(ranges)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """The same positions, ascending, neighbouring ranges as one."""
    joined: list[Range] = []
    for first, end in sorted(ranges):
        if joined and joined[-1][1] == first:
            first = joined.pop()[0]
        joined.append((first, end))
    return joined


def _places(store: DocumentStore, tokens: Sequence[int], first: int) -> list[tuple[int, int, Document]]:
    """Where documents stand from position ``first`` on: begin, end, document. The last token is left to compute."""
    places = ((at, min(at + len(d.tokens), len(tokens) - 1), d) for at, d in store.found(tokens))
    return [(at, end, d) for at, end, d in places if end > max(at, first)]


def place_documents(
    engine: Engine, session: Session, tokens: Sequence[int], store: DocumentStore, recompute: float | None = None
) -> Placement:
    """Take over the documents that ``tokens``, which follow those of a session, have; up to the end of the last one the session
    has all tokens then. Nothing is done without one, with the share 1, or where pages for all of that are not free. ``recompute``
    in place of the share of the store.
    """
    share = store.recompute if recompute is None else checked_share(recompute)
    places = _places(store, [*session.tokens, *tokens], session.position) if share < 1 else []
    if not places or not engine.pages.reserve(session, places[-1][1]):
        return Placement()
    placing = _Placing(engine, session, tokens)
    between: list[Range] = []
    for start, end, document in places:
        if placing.taken and session.position < start:
            between.append((session.position, start))  # saw keys that are not yet computed again
        placing.compute(start)
        placing.take_over(document, start, end)
    if share:
        placing.look()
        placing.again(_joined([*chosen_spans(placing.deviations(), share), *between]))
    placing.result.tokens = session.position - placing.first
    return placing.result
