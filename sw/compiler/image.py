"""A compiled model on one build: its program, its bytes, and the buffers of contiguous memory that it needs."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import DESCRIPTOR_BYTES, PROGRAM_PADDING, Descriptor, Fetch, Format, Opcode, pack_program
from ...layout import kv_format_name
from ...operators import OPERATORS, Memory
from ...rounding import align
from ...shape import ModelShape
from ...vocabulary import logits_bytes
from .constants import Constants, EmbeddingRows
from .placement import REGION_ALIGNMENT, Region, contiguous_bytes, pages_together

__all__ = ["Image", "Places"]

#: Bytes of a buffer of constants, where no region is larger: others measured on a PYNQ-Z2 that 196 MiB in one piece could not be
#: had of a contiguous area of 288 MiB, and the same in smaller pieces could.
CONSTANTS_BUFFER = 64 << 20

#: Bytes of the embedding rows of all tokens at most, where the machine finds those of the tokens that it chose. Whether so many are
#: left of contiguous memory beside a model and its cache is the board's to say; more than these never are.
LOOP_TABLE = 1 << 30

#: Bytes that are read at a time where all of them are wanted.
WINDOW = 1 << 22

#: Embedding rows that are read at a time where all of them are wanted.
ROWS = 4096


@dataclass(frozen=True)
class Places:
    """Addresses of the buffers that the program refers to."""

    #: The constants, a buffer for each of `Image.constant_parts`.
    constants: tuple[int, ...]
    #: Embedding rows of a pass.
    rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A compiled model. Addresses of its operators are offsets in buffers; :meth:`program` gives them places.

    Contiguous memory holds five kinds of buffers (:meth:`buffers`), apart because the host's cache maintenance walks whole ones:
    constants (a few, written once), program (written once), embedding rows of a pass (written before every pass), logits (read),
    and KV pages (read and written in pieces). The embedding itself stays with the host.
    """

    config: BuildConfig
    shape: ModelShape
    #: Name of the model.
    name: str
    #: Operators of one pass.
    descriptors: tuple[Descriptor, ...]
    #: What the machine reads and never writes.
    constants: Constants
    #: The embedding, by row.
    embedding: EmbeddingRows
    #: Regions of the constants by name: ``rotary``, ``layers.0.qkv.0``, ..., ``head``.
    symbols: dict[str, Region]
    #: Bytes from one embedding row of a pass to the next.
    row_bytes: int
    #: Tokens in one pass at most (the build's chunk, or fewer where the scratch memory is smaller).
    chunk: int
    #: Longest context in tokens.
    context: int
    #: Bytes of one KV page (``kv_block`` positions of every layer and head).
    page_bytes: int
    #: KV pages, of all sessions together.
    pages: int
    #: What is added to rotated keys, bf16 bits ``[layers, kv_heads * head_dim]``; None where nothing is.
    key_rows: npt.NDArray[np.uint16] | None = None
    #: :attr:`model_hash` where it is known already.
    stored_hash: str | None = None
    #: What passes cost, as `pass_costs.PassCosts` has it, where it is known already.
    stored_costs: tuple[Sequence[int], Sequence[float], Sequence[float], float] | None = None

    @property
    def head(self) -> str:
        """LM head: "exact", or "shortlist", which writes no logits."""
        return "shortlist" if any(d.fetch is Fetch.SHORTLIST for d in self.descriptors) else "exact"

    @property
    def engine(self) -> str:
        """Linear engine that it needs: "ternary", "grouped" or "int4"."""
        formats = {d.format for d in self.descriptors if d.opcode is Opcode.LINEAR}
        kinds = {Format.FP8: "int4", Format.GROUPED: "grouped"}
        return next((engine for kind, engine in kinds.items() if any(kind in f for f in formats)), "ternary")

    @property
    def kv(self) -> str:
        """Format of keys and values in the cache, of `hwgen.layout.KV_FORMATS`."""
        return kv_format_name(next(d.format for d in self.descriptors if d.opcode is Opcode.KV_WRITE))

    # ---- memory --------------------------------------------------------------------------------------------------
    @property
    def program_bytes(self) -> int:
        """Bytes of the program of a pass."""
        return align((len(self.descriptors) + PROGRAM_PADDING) * DESCRIPTOR_BYTES, REGION_ALIGNMENT)

    @property
    def logits_bytes(self) -> int:
        """Bytes that the machine writes as logits of a token."""
        return logits_bytes(self.config, self.shape.vocab)

    @property
    def page_buffers(self) -> list[int]:
        """Bytes of every buffer of KV pages: `pages_together` pages each, the last one what is left."""
        together = pages_together(self.page_bytes)
        return [min(together, self.pages - first) * self.page_bytes for first in range(0, self.pages, together)]

    @cached_property
    def constant_parts(self) -> tuple[Region, ...]:
        """The constants in parts that have buffers of their own, of `CONSTANTS_BUFFER` bytes at most or of one region. What a
        descriptor reads lies in one region.
        """
        cuts = sorted({0, *(r.offset for r in self.symbols.values() if r.offset % REGION_ALIGNMENT == 0)})
        starts = [0]
        for cut, following in pairwise([*cuts, self.constants.bytes]):
            if following - starts[-1] > CONSTANTS_BUFFER and cut > starts[-1]:
                starts.append(cut)
        return tuple(Region(start, end - start) for start, end in pairwise([*starts, self.constants.bytes]))

    def buffers(self) -> dict[str, list[int]]:
        """Bytes of the buffers of contiguous memory, by what is in them."""
        return {
            "constants": [part.bytes for part in self.constant_parts],
            "program": [self.program_bytes],
            "rows": [self.chunk * self.row_bytes],
            "logits": [(1 if self.head == "shortlist" else self.chunk) * self.logits_bytes],
            "pages": self.page_buffers,
        }

    @property
    def loop_buffers(self) -> list[int]:
        """Bytes of what a loop reads besides, where there is room: the embedding rows of all tokens, and a program that reads those
        of a pass there. None where the rows are too many.
        """
        table = self.shape.vocab * self.row_bytes
        return [table, self.program_bytes] if table <= LOOP_TABLE else []

    @property
    def contiguous_bytes(self) -> int:
        """Contiguous memory of a board that the image takes, with what Linux loses between buffers."""
        return sum(contiguous_bytes(size) for sizes in self.buffers().values() for size in sizes)

    def memory_bytes(self, spare: int = 1 << 20) -> int:
        """Memory of a simulated device for the buffers and ``spare`` bytes."""
        buffers = [self.loop_buffers, *self.buffers().values()]
        needed = sum(align(size, REGION_ALIGNMENT) for sizes in buffers for size in sizes)
        return align(needed + spare, REGION_ALIGNMENT)

    # ---- content -------------------------------------------------------------------------------------------------
    def _relocated(self, descriptors: Iterable[Descriptor], places: Places) -> Iterator[Descriptor]:
        """The same operators with addresses in memory in place of offsets in buffers. Those of KV pages count from the page."""
        starts = [part.offset for part in self.constant_parts]
        for d in descriptors:
            if d.fetch is Fetch.TOKEN:
                yield replace(d, stream_address=d.stream_address + places.rows)
            elif OPERATORS[d.opcode].memory is Memory.CONSTANTS:
                part = bisect_right(starts, d.stream_address) - 1
                yield replace(d, stream_address=d.stream_address - starts[part] + places.constants[part])
            else:
                yield d

    def first_layers(self, layers: int) -> tuple[Descriptor, ...]:
        """Operators that end with keys and values of the first ``layers`` layers in the cache. What the last of them does for its
        outputs is left out.
        """
        if not 1 <= layers <= self.shape.layers:
            raise ValueError(f"layers must be 1 to {self.shape.layers}, not {layers}")
        last = layers - 1
        end = next(i for i, d in enumerate(self.descriptors) if d.opcode is Opcode.KV_WRITE and d.layer == last)
        return tuple(
            d for d in self.descriptors[: end + 1]
            if d.layer != last or (d.opcode is not Opcode.ATTENTION and Format.UNMIX not in d.format)
        )

    def program(self, places: Places, layers: int | None = None) -> bytes:
        """What the buffer ``program`` must hold; with ``layers`` a program of the operators of :meth:`first_layers`."""
        if layers is not None:
            return pack_program(self._relocated(self.first_layers(layers), places))
        return pack_program(self._relocated(self.descriptors, places)).ljust(self.program_bytes, b"\0")

    def rows(self, tokens: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Embedding rows of tokens as the machine reads them, ``[tokens, row_bytes]``."""
        found = self.embedding.gather(tokens).view(np.uint8).reshape(len(tokens), -1)
        if found.shape[1] == self.row_bytes:
            return found
        out = np.zeros((len(tokens), self.row_bytes), np.uint8)
        out[:, : found.shape[1]] = found
        return out

    @cached_property
    def model_hash(self) -> str:
        """SHA-256 over shape, constants and embedding; what a saved session is bound to."""
        if self.stored_hash is not None:
            return self.stored_hash
        digest = hashlib.sha256(json.dumps(self.shape.to_dict(), sort_keys=True).encode())
        window = np.empty(min(WINDOW, self.constants.bytes), np.uint8)
        with self.constants.reading() as read:
            for first in range(0, self.constants.bytes, WINDOW):
                part = window[: self.constants.bytes - first]
                read(part)
                digest.update(part.data)
        for first in range(0, self.shape.vocab, ROWS):
            digest.update(self.embedding.gather(range(first, min(first + ROWS, self.shape.vocab))).data)
        return digest.hexdigest()
