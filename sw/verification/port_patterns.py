"""Patterns that the host writes, fetched through one memory port at a time, and back: which byte lanes of which port are wrong.

EMBED brings rows of bf16 to the scratch as they are, and DRAIN with CANDIDATES writes what it drains to memory: with a weight scale
of 0 it adds nothing to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Descriptor, Fetch, Flag, Format, Opcode
from ...formats import Float
from ...rounding import align
from ..devices.device import Device
from .bare_program import ALIGNMENT, BareProgram

__all__ = ["PortFault", "PortPatterns", "find_fault", "pattern_of"]

#: Exponent fields in the pattern, the first and the last: one byte that is wrong in its lower bits makes no number that the machine
#: has not.
EXPONENTS = 2, 253


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


def pattern_of(config: BuildConfig, seed: int) -> npt.NDArray[np.uint16]:
    """bf16 bits for whole vectors, as many as a panel has and every memory holds: all bytes but a few."""
    step = 2 * config.beat_vectors * config.groups  # whole ring rows
    vectors = min(config.panel_vectors, config.scratch_vectors, config.param_vectors) // step * step
    rng, size = np.random.default_rng(seed), vectors * config.width
    sign, mantissa = rng.integers(0, 2, size), rng.integers(0, 128, size)
    bits = sign << 15 | rng.integers(EXPONENTS[0], EXPONENTS[1] + 1, size) << 7 | mantissa
    return bits.astype(np.uint16)


class PortPatterns:
    """The pattern in the memory of a device. ``seed`` chooses its bytes."""

    def __init__(self, device: Device, seed: int = 1) -> None:
        c = self.config = device.config
        self.pattern, self.device = pattern_of(c, seed), device
        self._results = align(self.pattern.nbytes, ALIGNMENT)
        self._program = BareProgram(device, 2, self._results + align(4 * self.pattern.size, ALIGNMENT))
        self._program.write(0, self.pattern.view(np.uint8))
        vectors = self.pattern.size // c.width
        self._program.load([
            Descriptor(
                opcode=Opcode.EMBED, fetch=Fetch.STREAM, token_count=1, vectors=vectors, stream_address=self._program.data,
                stream_beats=self.pattern.nbytes // c.beat_bytes,
            ),
            Descriptor(
                opcode=Opcode.DRAIN, flags=Flag.LOGITS | Flag.ADD | Flag.CANDIDATES, token_count=1, vectors=vectors,
                head_stride=self.pattern.size, format=Format.NONE if c.has_ternary else Format.FP8,
            ),
        ])

    def read_back(self, port: int) -> Float:
        """What the machine reads through ``port``, the pattern as float32."""
        at = self._program.data + self._results
        self._program.run(1 << port, at)
        return self.device.read(at, 4 * self.pattern.size).view(np.float32)

    def check(self, progress: Callable[[str], None] = lambda text: None) -> list[PortFault]:
        """Every port that brings wrong bytes."""
        faults = []
        for port in range(self.config.ports):
            progress(f"pattern through port {port}")
            fault = find_fault(self.config, self.pattern, self.read_back(port), port)
            if fault is not None:
                faults.append(fault)
        return faults


def find_fault(config: BuildConfig, pattern: npt.NDArray[np.uint16], found: Float, port: int) -> PortFault | None:
    """Compare what came back with the pattern. Of a number that the machine does not have, the upper byte was wrong, and nothing
    is known of the lower one.
    """
    bits = found.view(np.uint32) >> 16
    exponent = bits >> 7 & 0xFF
    lost = (exponent < EXPONENTS[0]) | (exponent > EXPONENTS[1])
    if not lost.all():
        bits = np.where(lost, bits & 0xFF00 | pattern & 0xFF, bits)
    was, now = pattern.view(np.uint8), bits.astype(np.uint16).view(np.uint8)
    wrong = np.flatnonzero(was != now)
    if not wrong.size:
        return None
    first, lanes = int(wrong[0]), wrong % config.port_bytes
    kinds, counts = np.unique(lanes, return_counts=True)
    usual = kinds[counts > counts.max() / 4]
    return PortFault(
        port, wrong.size, was.size, tuple(int(lane) for lane in usual),
        int(np.bitwise_or.reduce(was[wrong] ^ now[wrong])), first, int(was[first]), int(now[first]),
    )
