"""Patterns that the host writes, fetched through one memory port at a time, and back: which byte lanes of which port are wrong.

The LM head brings fetched bytes back to memory as they are. With a query of one element that is not zero, the logit of a row is
that element of the row times scales that the host knows; so one pass gives one byte of every row, and as many passes as a vector
has elements give all of them. The query is left on the chip by a pass of its own, through a port that was found to be good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Descriptor, Fetch, Flag, Opcode
from ...formats import pack_bf16, round_bf16
from ...layout import blob_beats, head_block_beats, pack_head, pad_beats
from ...rounding import align, ceil_div
from ..devices.device import Device
from .bare_program import ALIGNMENT, BareProgram

__all__ = ["PortFault", "PortPatterns"]

#: Blocks of rows in the pattern.
BLOCKS = 32

#: A logit and a byte times a scale are taken for equal up to this part of a byte's step.
EXPLAINED = 0.01

#: Scales of rows beyond this are not looked for; bf16 goes up to 3.4e38.
LARGEST = 1e38


@dataclass(frozen=True)
class PortFault:
    """What was wrong with the bytes that came through one port."""

    port: int
    #: Bytes that were wrong, and bytes compared.
    wrong: int
    compared: int
    #: Byte lanes of the port on which they lie, and the bits that differed in any of them.
    lanes: tuple[int, ...]
    bits: int
    #: The first of them: its offset in the pattern, what the host wrote, what came.
    offset: int
    written: int
    read: int

    def __str__(self) -> str:
        lanes = ", ".join(map(str, self.lanes))
        return (
            f"port {self.port}: {self.wrong} of {self.compared} bytes are wrong, on byte lane{'s' * (len(self.lanes) > 1)} "
            f"{lanes}, bits 0x{self.bits:02x}; the first at offset 0x{self.offset:x}: "
            f"0x{self.written:02x} written, 0x{self.read:02x} read"
        )


class PortPatterns:
    """The pattern in the memory of a device. ``seed`` chooses its bytes."""

    def __init__(self, device: Device, seed: int = 1) -> None:
        c = self.config = device.config
        self.rows = BLOCKS * c.kv_block
        rng = np.random.default_rng(seed)
        #: The bytes of the pattern as rows of one vector ``[rows, width]``; all 256 values come.
        self.pattern = rng.integers(-128, 128, (self.rows, c.width), dtype=np.int8)
        packed = pack_head(c, self.pattern, pack_bf16(np.ones(self.rows))).reshape(-1)
        queries = [blob_beats(c, pack_bf16(row).view(np.uint8)).reshape(-1) for row in np.eye(c.width, dtype=np.float32)]
        gains = blob_beats(c, np.ones(c.width, np.float32).view(np.uint8)).reshape(-1)
        parts = {"pattern": packed, "gains": gains, "queries": np.concatenate(queries)}
        self._places: dict[str, int] = {}
        size = 0
        for name, data in parts.items():
            self._places[name], size = size, align(size + data.size, ALIGNMENT)
        logits = pad_beats(c, ceil_div(4 * self.rows, c.beat_bytes)) * c.beat_bytes
        self._places["logits"], size = size, size + align(logits, ALIGNMENT)
        self._query_beats, self._gain_beats = queries[0].size // c.beat_bytes, gains.size // c.beat_bytes
        self._program = BareProgram(device, 8, size)
        for name, data in parts.items():
            self._program.write(self._places[name], data)
        self.device = device

    def _at(self, name: str) -> int:
        return self._program.data + self._places[name]

    def _load_query(self, element: int, ports: int) -> None:
        """Leave a query with 1 in one element in the machine; its scale is 1/127 times 127."""
        c = self.config
        load: dict[str, Any] = {"fetch": Fetch.STREAM, "token_count": 1, "vectors": 1}
        row = self._at("queries") + element * self._query_beats * c.beat_bytes
        self._program.load([
            Descriptor(**load, opcode=Opcode.EMBED, stream_address=row, stream_beats=self._query_beats, dst_stride=1),
            Descriptor(**load, opcode=Opcode.PARAM, stream_address=self._at("gains"), stream_beats=self._gain_beats),
            Descriptor(
                opcode=Opcode.NORM, flags=Flag.TO_QUERY, token_count=1, vectors=1, src_stride=1, scalar0=1.0
            ),
        ])
        self._program.run(ports)

    def _fetch(self, ports: int) -> npt.NDArray[np.float32]:
        """The logits of every row for the query that is there."""
        c = self.config
        self._program.load([Descriptor(
            opcode=Opcode.HEAD, flags=Flag.LOGITS, fetch=Fetch.STREAM, token_count=1, vectors=1, row_blocks=BLOCKS,
            stream_address=self._at("pattern"), stream_beats=BLOCKS * head_block_beats(c, c.width), stride=self.rows,
        )])
        self._program.run(ports, self._at("logits"))
        return self.device.read(self._at("logits"), 4 * self.rows).view(np.float32)

    def read_back(self, port: int, loader: int) -> npt.NDArray[np.float32]:
        """What the machine reads through ``port``, ``[rows, width]``, with queries that came through ``loader``."""
        columns = []
        for element in range(self.config.width):
            self._load_query(element, 1 << loader)
            columns.append(self._fetch(1 << port))
        return np.stack(columns, axis=1)

    def check(self, progress: Callable[[str], None] = lambda text: None) -> list[PortFault]:
        """Every port that brings wrong bytes."""
        ports = range(self.config.ports)
        found: dict[int, npt.NDArray[np.float32]] = {}
        good = None
        for port in ports:  # with its own queries, to find one that others can be tested with
            progress(f"pattern through port {port}")
            found[port] = self.read_back(port, port)
            if find_fault(self.config, self.pattern, found[port], port) is None:
                good = port if good is None else good
        faults = []
        for port in ports:
            fault = find_fault(self.config, self.pattern, found[port], port)
            if fault is not None and good is not None:
                fault = find_fault(self.config, self.pattern, self.read_back(port, good), port) or fault
            if fault is not None:
                faults.append(fault)
        return faults


def find_fault(
    config: BuildConfig, pattern: npt.NDArray[np.int8], logits: npt.NDArray[np.float32], port: int
) -> PortFault | None:
    """Compare what came back with the pattern; rows whose scale was damaged on the way are told from those whose bytes were."""
    scale = _row_scales(pattern, logits)
    found = np.rint(logits / scale[:, None])
    found = np.where(np.isfinite(found) & (np.abs(found) <= 128), found, ~pattern.astype(np.int64))  # far out: every bit is wrong
    was, now = _beats(config, pattern, np.ones(len(scale))), _beats(config, found.astype(np.int8), scale)
    wrong = np.flatnonzero(was != now)
    if not wrong.size:
        return None
    first, lanes = int(wrong[0]), wrong % config.port_bytes
    kinds, counts = np.unique(lanes, return_counts=True)
    usual = kinds[counts > counts.max() / 4]  # a damaged query wrongs bytes here and there
    return PortFault(
        port, wrong.size, was.size, tuple(int(lane) for lane in usual),
        int(np.bitwise_or.reduce(was[wrong] ^ now[wrong])), first, int(was[first]), int(now[first]),
    )


def _row_scales(pattern: npt.NDArray[np.int8], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scale of every row, as the machine read it: of all bf16 values that explain one element, that which explains most."""
    with np.errstate(all="ignore"):
        ratio = np.where(pattern != 0, logits / pattern, 1)
        ratio = np.where(np.isfinite(ratio) & (np.abs(ratio) < LARGEST) & (ratio != 0), ratio, 1)
        # 1 first: of equals it is taken
        candidates: npt.NDArray[np.float64] = np.concatenate((np.ones((len(ratio), 1)), round_bf16(ratio)), axis=1)
        explained = np.abs(logits[:, None] / candidates[..., None] - pattern[:, None]) < EXPLAINED
    best = explained.sum(axis=2).argmax(axis=1)
    scales: npt.NDArray[np.float32] = candidates[np.arange(len(best)), best].astype(np.float32)
    return scales


def _beats(config: BuildConfig, rows: npt.NDArray[np.int8], scales: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of a pattern as they lie in memory."""
    return pack_head(config, rows, pack_bf16(scales)).reshape(-1)
