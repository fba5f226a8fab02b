"""Page tables of sessions in the one table of the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...errors import HwgenError
from .pages import Session

__all__ = ["PageTable"]


@dataclass(eq=False)
class _Place:
    """Entries that a session has."""

    session: Session
    first: int
    #: Entries that are kept for it: a power of two, so that a session that grows seldom moves.
    room: int
    #: Its pages as the machine has them.
    written: list[int] = field(default_factory=list)


class PageTable:
    """Keeps the pages of every session in neighbouring entries, and writes those that have changed. Sessions that have no run in
    a pass give way when entries run out.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        #: By their first entry, and by whose they are.
        self._places: list[_Place] = []
        self._of: dict[Session, _Place] = {}

    def place(self, sessions: Sequence[Session], write: Callable[[int, int], None]) -> list[int]:
        """First entry of each of the sessions, whose pages are then all written: ``write(entry, page)``."""
        found = [self._find(session) for session in sessions]
        if None in found:  # no gap is wide enough: only these sessions, one behind the other
            self._places, at = [], 0
            for session in dict.fromkeys(sessions):
                self._places.append(_Place(session, at, len(session.pages)))
                at += len(session.pages)
            self._of = {place.session: place for place in self._places}
            if at > self._entries:
                self._places, self._of = [], {}
                raise HwgenError(
                    "context", f"the sessions of a pass have more KV pages than the table of {self._entries} entries",
                    "run fewer at a time, or build with larger page_entries",
                )
            found = [self._of[session] for session in sessions]
        firsts = []
        for place in found:
            assert place is not None
            pages = place.session.pages
            if pages != place.written:
                for i, page in enumerate(pages):
                    if i >= len(place.written) or place.written[i] != page:
                        write(place.first + i, page)
                place.written = list(pages)
            firsts.append(place.first)
        return firsts

    def _find(self, session: Session) -> _Place | None:
        """The place of a session, or a new one that is wide enough; None where there is none."""
        need = len(session.pages)
        place = self._of.get(session)
        if place is not None:
            if need <= place.room:
                return place
            self._places.remove(place)
            del self._of[session]
        room, at = 1 << max(0, need - 1).bit_length(), 0
        ends = [place.first for place in self._places] + [self._entries]
        for number, end in enumerate(ends):
            if end - at >= room:
                new = _Place(session, at, room)
                self._places.insert(number, new)
                self._of[session] = new
                return new
            if number < len(self._places):
                at = end + self._places[number].room
        return None
