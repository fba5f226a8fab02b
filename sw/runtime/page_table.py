"""Page tables of sessions in the one table of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ...errors import HwgenError
from .pages import Session

__all__ = ["PageTable"]


@dataclass(eq=False)
class _Place:
    """Entries that a session has."""

    session: Session
    start: int
    #: Entries that are kept for its pages of summaries, from ``start`` on, and for its pages behind them: a power of two each, so
    #: that a session that grows seldom moves.
    front: int
    room: int
    #: Its pages, and those of summaries, as the machine has them.
    written: list[int] = field(default_factory=list)
    summaries: list[int] = field(default_factory=list)

    @property
    def first(self) -> int:
        """Entry of its first page. Those of its pages of summaries are before it, the first one next to it."""
        return self.start + self.front

    @property
    def end(self) -> int:
        return self.start + self.front + self.room

    def write(self, write: Callable[[int, int], None]) -> None:
        """Write what has changed: ``write(entry, page)``."""
        session = self.session
        if session.pages != self.written:
            for i, page in changed(session.pages, self.written):
                write(self.first + i, page)
            self.written = list(session.pages)
        if session.summaries.pages != self.summaries:
            for i, page in changed(session.summaries.pages, self.summaries):
                write(self.first - 1 - i, page)
            self.summaries = list(session.summaries.pages)


def changed(pages: Sequence[int], written: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Pages that are not written yet, by their numbers."""
    for i, page in enumerate(pages):
        if i >= len(written) or written[i] != page:
            yield i, page


def power_of_two(count: int) -> int:
    """The least one that is ``count`` or more."""
    return 1 << max(0, count - 1).bit_length()


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
        """Entry of the first page of each of the sessions, whose pages are then all written: ``write(entry, page)``."""
        found = [self._find(session) for session in sessions]
        if None in found:  # no gap is wide enough: only these sessions, one behind the other
            self._places, at = [], 0
            for session in dict.fromkeys(sessions):
                self._places.append(_Place(session, at, len(session.summaries.pages), len(session.pages)))
                at = self._places[-1].end
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
            place.write(write)
            firsts.append(place.first)
        return firsts

    def _find(self, session: Session) -> _Place | None:
        """The place of a session, or a new one that is wide enough; None where there is none."""
        need, ahead = len(session.pages), len(session.summaries.pages)
        place = self._of.get(session)
        if place is not None:
            if need <= place.room and ahead <= place.front:
                return place
            self._places.remove(place)
            del self._of[session]
        room, front, at = power_of_two(need), power_of_two(ahead) if ahead else 0, 0
        ends = [place.start for place in self._places] + [self._entries]
        for number, end in enumerate(ends):
            if end - at >= front + room:
                new = _Place(session, at, front, room)
                self._places.insert(number, new)
                self._of[session] = new
                return new
            if number < len(self._places):
                at = self._places[number].end
        return None
