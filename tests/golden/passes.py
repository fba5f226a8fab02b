"""Compiled models on the functional model of the machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor
from hwgen.golden.machine import GoldenMachine
from hwgen.registers import PassFlag, register
from hwgen.sw.compiler.image import Image

#: Address of the image: not 0, so that a forgotten base shows.
BASE = 8192


class Host:
    """Rings the doorbell of a :class:`GoldenMachine` that holds ``image``; cache block ``b`` lies in page
    ``pages[b]``.
    """

    def __init__(self, config: BuildConfig, image: Image, pages: Sequence[int] | None = None) -> None:
        self.config = config
        self.machine = GoldenMachine(config, BASE + image.total_bytes)
        self.machine.memory[BASE : BASE + image.data.size] = image.data
        program = np.frombuffer(image.program(BASE), np.uint8)
        self.machine.memory[BASE : BASE + program.size] = program
        for block, page in enumerate(range(config.max_pages) if pages is None else pages):
            self.write("PAGE", page, block)
        self.write("PROGRAM_LOW", BASE + image.symbols["program"].offset)
        self.write("LOGITS_LOW", BASE + image.symbols["logits"].offset)

    def write(self, name: str, value: int, index: int = 0) -> None:
        row = register(self.config, name)
        self.machine.write_register(row.offset + index * row.step, value)

    def read(self, name: str, index: int = 0) -> int:
        row = register(self.config, name)
        return self.machine.read_register(row.offset + index * row.step)

    def run(self, position: int, tokens: Sequence[int], options: PassFlag = PassFlag.LOGITS) -> list[Descriptor]:
        """One pass; returns the operators executed."""
        executed: list[Descriptor] = []
        self.machine.on_retire = lambda descriptor, machine: executed.append(descriptor)
        for i, token in enumerate(tokens):
            self.write("TOKEN", int(token), i)
        self.write("POSITION", position)
        self.write("COUNT", len(tokens))
        self.write("PASS", int(options))
        self.write("CONTROL", 1)
        return executed
