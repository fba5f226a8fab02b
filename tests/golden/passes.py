"""Compiled models on the functional model of the machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor
from hwgen.golden.machine import GoldenMachine
from hwgen.registers import RUN_PAGES, RUN_TOKENS, PassFlag, register
from hwgen.rounding import align
from hwgen.sw.compiler.image import Image, Places
from hwgen.sw.compiler.placement import FRAME_BYTES
from tests.sw.compiler.content import content

#: Address of the first buffer: not 0, so that a forgotten base shows.
BASE = 8192


class Host:
    """Rings the doorbell of a :class:`GoldenMachine` that holds ``image``; cache block ``b`` lies in page
    ``pages[b]``.
    """

    def __init__(self, config: BuildConfig, image: Image, pages: Sequence[int] | None = None) -> None:
        self.config = config
        self.image = image
        self.machine = GoldenMachine(config, BASE + image.memory_bytes())
        constants, program, self.rows, logits, self.cache = self._addresses(image)
        self._put(constants, content(image.constants))
        parts = tuple(constants + part.offset for part in image.constant_parts)
        self._put(program, np.frombuffer(image.program(Places(parts, self.rows)), np.uint8))
        for block, page in enumerate(range(image.pages) if pages is None else pages):
            self.write("PAGE", (self.cache + page * image.page_bytes) // FRAME_BYTES, block)
        for i in range(image.chunk):
            self.write("TOKEN", i, i)
        self.write("PROGRAM_LOW", program)
        self.write("LOGITS_LOW", logits)

    @staticmethod
    def _addresses(image: Image) -> list[int]:
        """Where the buffers begin, one behind the other."""
        addresses, at = [], BASE
        for sizes in image.buffers().values():
            addresses.append(at)
            at = align(at + sum(sizes), FRAME_BYTES)
        return addresses

    def _put(self, address: int, data: npt.NDArray[np.uint8]) -> None:
        self.machine.writable(address, data.size)[:] = data.reshape(-1)

    def write(self, name: str, value: int, index: int = 0) -> None:
        row = register(self.config, name)
        self.machine.write_register(row.offset + index * row.step, value)

    def read(self, name: str, index: int = 0) -> int:
        row = register(self.config, name)
        return self.machine.read_register(row.offset + index * row.step)

    def run(self, position: int, tokens: Sequence[int], wanted: int = 1, options: PassFlag = PassFlag.NONE) -> list[Descriptor]:
        """One pass of one run, with logits of its last ``wanted`` tokens; returns the operators executed."""
        return self.run_all([(position, 0, tokens, wanted)], options)

    def run_all(
        self, runs: Sequence[tuple[int, int, Sequence[int], int]], options: PassFlag = PassFlag.NONE
    ) -> list[Descriptor]:
        """One pass of runs: position, first entry of the page table, tokens, and how many of the last ones want logits."""
        executed: list[Descriptor] = []
        self.machine.on_retire = lambda descriptor, machine: executed.append(descriptor)
        everything, wants = [], []
        for r, (position, pages, tokens, wanted) in enumerate(runs):
            self.write("RUN", position, 2 * r)
            self.write("RUN", RUN_TOKENS.put(len(tokens)) | RUN_PAGES.put(pages), 2 * r + 1)
            everything += [int(token) for token in tokens]
            wants += range(len(everything) - wanted, len(everything))
        for j, token in enumerate(wants):
            self.write("WANT", token, j)
        self._put(self.rows, self.image.rows(everything))
        for name, value in (("RUNS", len(runs)), ("COUNT", len(everything)), ("WANTED", len(wants)), ("PASS", int(options))):
            self.write(name, value)
        self.write("CONTROL", 1)
        return executed
