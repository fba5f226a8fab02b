"""Prefix reuse: a prompt that begins like an earlier one starts from the earlier one's pages."""

from __future__ import annotations

from collections.abc import Sequence

from .engine import Engine
from .pages import Session

__all__ = ["PrefixCache"]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Leading tokens that both have."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


class PrefixCache:
    """Token sequences whose pages are kept after their session ended, the least recently used first.

    A new session takes over the pages of the longest prefix it shares with one of them, prompt or answer; a page that both use is
    copied when one of them writes to it. Sequences are dropped when pages run out. Keys and values depend on a sequence's tokens
    alone, so an answer is bit for bit the one without reuse.
    """

    #: Sequences kept at most; looking for a prefix takes time for each.
    LIMIT = 256

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._entries: list[Session] = []
        engine.pages.reclaim = self.evict

    def __len__(self) -> int:
        return len(self._entries)

    def start(self, session: Session, prompt: Sequence[int]) -> int:
        """Give an empty session the longest kept prefix of its prompt; returns how many tokens that is.

        At least one token is left to compute.
        """
        best, length = None, 0
        for entry in self._entries:
            shared = min(common_prefix(entry.tokens, prompt), len(prompt) - 1)
            if shared > length:
                best, length = entry, shared
        if best is not None:
            self._entries.remove(best)
            self._entries.append(best)
            new = self.engine.pages.share(best, length)
            session.tokens, session.pages = new.tokens, new.pages
        return length

    def add(self, session: Session, *, whole_pages: bool = False) -> None:
        """Keep what others may take over of a session that goes on or is about to be closed: nothing where keys and values were
        rounded.

        ``whole_pages`` leaves out the last page where it is not full: a session that goes on would have to copy it.
        """
        length = session.position - session.position % (self.engine.config.kv_block if whole_pages else 1)
        if not length or not session.exact or session.parked is not None:
            return
        covered = []
        for entry in self._entries:
            shared = common_prefix(entry.tokens, session.tokens[:length])
            if shared == length:
                self._entries.remove(entry)
                self._entries.append(entry)
                return
            if shared == entry.position:
                covered.append(entry)
        self._entries.append(self.engine.pages.share(session, length))
        for entry in covered:
            self._drop(entry)
        if len(self._entries) > self.LIMIT:
            self.evict()

    def _drop(self, entry: Session) -> None:
        self._entries.remove(entry)
        self.engine.pages.close(entry)

    def evict(self) -> bool:
        """Drop the least recently used sequence; False when there is none."""
        if not self._entries:
            return False
        self._drop(self._entries[0])
        return True

    def clear(self) -> None:
        """Drop every sequence."""
        while self.evict():
            pass
