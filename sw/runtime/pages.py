"""Sessions and the pages of the KV cache that they hold, alone or together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...errors import HwgenError
from ...registers import NUMBER_BITS
from ...rounding import ceil_div
from ..compiler.image import Image
from ..compiler.placement import FRAME_BYTES, pages_together
from ..devices.device import Bytes, Device

__all__ = ["PagePool", "Session", "Summaries"]


@dataclass
class Summaries:
    """Summaries of the blocks of a session, from the first block on (`hwgen.sw.runtime.block_summaries`)."""

    #: Elements ``[layers, kv_heads, summary_rows, head_dim]`` and bits of the scales of every block.
    blocks: list[tuple[npt.NDArray[np.int8], npt.NDArray[np.uint16]]] = field(default_factory=list)
    #: Page number of every page of summaries.
    pages: list[int] = field(default_factory=list)
    #: Blocks whose summaries these pages have.
    written: int = 0

    def drop(self, block: int) -> None:
        """Forget those from a block on: its keys change."""
        del self.blocks[block:]
        self.written = min(self.written, block)


class Session:
    """One sequence of tokens and its pages of the KV cache. Pages may be shared with other sessions."""

    def __init__(self) -> None:
        #: Tokens in the cache, first to last.
        self.tokens: list[int] = []
        #: Page number of every block of the sequence.
        self.pages: list[int] = []
        #: Keys and values are those that the machine computed: bit for bit what any sequence with the same tokens gets.
        self.exact = True
        #: Tokens that belong to the sequence and are not yet computed: the last one of an answer.
        self.pending: list[int] = []
        #: Content of the pages while they are lent to others (:meth:`PagePool.park`).
        self.parked: Bytes | None = None
        #: What a choice among its blocks looks at; of none as long as nothing was chosen.
        self.summaries = Summaries()

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return len(self.tokens)


class PagePool:
    """The pages of one image on a device, at ``addresses``. A page goes back when the last session that holds it gives it up."""

    def __init__(self, device: Device, image: Image, addresses: Sequence[int]) -> None:
        self._device = device
        #: Address of every page, bytes of a page, tokens of a page, neighbouring pages that share a buffer.
        self._addresses, self._page_bytes, self._page_tokens = addresses, image.page_bytes, image.config.kv_block
        self._together = pages_together(image.page_bytes)
        for address in addresses:
            if address % FRAME_BYTES or address >= FRAME_BYTES << NUMBER_BITS:
                raise HwgenError(
                    "device", f"a KV page lies at 0x{address:x}, which the page table cannot say", "use memory below 64 GiB"
                )
        self._free = list(range(image.pages - 1, -1, -1))
        #: Sessions that hold each page.
        self._holders = [0] * image.pages
        #: Called when pages run out: gives some back that no running session needs; False when there are none.
        self.reclaim: Callable[[], bool] = lambda: False

    @property
    def free(self) -> int:
        """Pages that no session holds."""
        return len(self._free)

    def blocks(self, positions: int) -> int:
        """Pages of ``positions`` tokens."""
        return ceil_div(positions, self._page_tokens)

    def frame(self, page: int) -> int:
        """What the page table of the machine says of a page."""
        return self._addresses[page] // FRAME_BYTES

    def address(self, page: int) -> int:
        """Where a page lies."""
        return self._addresses[page]

    def _runs(self, pages: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """Ranges of ``pages`` that lie one behind the other in a buffer, and the address of the first: of a device, few accesses
        are much faster than many.
        """
        first = 0
        for end in range(1, len(pages) + 1):
            if end == len(pages) or pages[end] != pages[end - 1] + 1 or pages[end] % self._together == 0:
                yield first, end, self._addresses[pages[first]]
                first = end

    def read(self, pages: Sequence[int]) -> Bytes:
        """Content of pages, ``[pages, page_bytes]``."""
        out = np.empty((len(pages), self._page_bytes), np.uint8)
        for first, end, address in self._runs(pages):
            data = self._device.read(address, (end - first) * self._page_bytes)
            out[first:end] = data.reshape(-1, self._page_bytes)
        return out

    def write(self, pages: Sequence[int], content: Bytes) -> None:
        """Replace the content of pages by ``[pages, page_bytes]``."""
        for first, end, address in self._runs(pages):
            self._device.write(address, content[first:end].reshape(-1))

    def _take(self) -> int:
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def _release(self, page: int) -> None:
        self._holders[page] -= 1
        if not self._holders[page]:
            self._free.append(page)

    def _shared(self, session: Session, positions: int, first: int) -> list[int]:
        """Indices of the pages from position ``first`` up to ``positions`` that a session has and others hold too."""
        blocks = range(first // self._page_tokens, min(self.blocks(positions), len(session.pages)))
        return [i for i in blocks if self._holders[session.pages[i]] > 1]

    def missing(self, session: Session, positions: int, first: int | None = None, summaries: int = 0) -> int:
        """Pages that a session has yet to get to have its own up to ``positions``, from position ``first`` on (from its end on if
        not given), and so many of summaries.
        """
        holders, pages, blocks = self._holders, session.pages, self.blocks(positions)
        missing = max(0, blocks - len(pages)) + max(0, summaries - len(session.summaries.pages))
        for page in pages[(len(session.tokens) if first is None else first) // self._page_tokens : blocks]:
            if holders[page] > 1:
                missing += 1
        return missing

    def reserve(self, session: Session, positions: int, first: int | None = None, summaries: int = 0) -> bool:
        """Pages of its own for the next tokens of a session up to ``positions``, or for those from position ``first`` on, and so
        many of summaries; False, and nothing done, when there are too few.

        A page that is shared and about to be written is copied first; summaries of what is about to be written are dropped.
        """
        while (missing := self.missing(session, positions, first, summaries)) > len(self._free):
            if not self.reclaim():
                return False
        if session.summaries.blocks:
            session.summaries.drop((session.position if first is None else first) // self._page_tokens)
        if not missing:
            return True
        for i in self._shared(session, positions, session.position if first is None else first):
            page = session.pages[i]
            session.pages[i] = self._take()
            self.write([session.pages[i]], self.read([page]))
            self._release(page)
        while len(session.pages) < self.blocks(positions):
            session.pages.append(self._take())
        while len(session.summaries.pages) < summaries:
            session.summaries.pages.append(self._take())
        return True

    def _release_all(self, session: Session) -> None:
        """Give up the pages of a session, those of summaries too: they are derived, and made again where they are needed."""
        for page in reversed([*session.pages, *session.summaries.pages]):
            self._release(page)
        session.pages, session.summaries.pages, session.summaries.written = [], [], 0

    def close(self, session: Session) -> None:
        """Give the pages of a session back. The session is empty then, and may be used again."""
        self._release_all(session)
        session.tokens, session.pending, session.summaries = [], [], Summaries()
        session.exact, session.parked = True, None

    def share(self, session: Session, positions: int) -> Session:
        """A new session with the first ``positions`` tokens of another, in the same pages."""
        new = Session()
        new.tokens = session.tokens[:positions]
        new.pages = session.pages[: self.blocks(positions)]
        new.exact = session.exact
        for page in new.pages:
            self._holders[page] += 1
        return new

    def park(self, session: Session) -> None:
        """Move the pages of a session to memory of the host, so that others can use them."""
        session.parked = self.read(session.pages)
        self._release_all(session)

    def unpark(self, session: Session, positions: int, summaries: int = 0) -> bool:
        """Bring a parked session back, with pages up to ``positions``, and so many of summaries; False, and nothing done, when too
        few are free.
        """
        if session.parked is not None:
            if not self.reserve(session, max(positions, session.position), None, summaries):
                return False
            self.write(session.pages[: len(session.parked)], session.parked)
            session.parked = None
        return True
