"""Jobs for the ternary engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Opcode
from hwgen.hw.linear.activations import ActivationMemory, load_parts
from hwgen.hw.linear.engine import LinearEngine
from hwgen.hw.linear.tables import WALK
from hwgen.layout import matrix_shape, pack_ternary, vectors_of
from hwgen.rounding import ceil_div

from .bench import Bytes, EngineJobs, Integers, PanelJob

Trits = npt.NDArray[np.int8]


@dataclass(kw_only=True)
class Job(PanelJob):
    """LINEAR of the ternary engine."""

    #: ``[rows, inputs]``
    weights: Trits
    #: ``[tokens, inputs]``
    activations: Integers

    @property
    def tokens(self) -> int:
        return self.activations.shape[0]

    @property
    def rows(self) -> int:
        return len(self.weights)

    def codes(self, config: BuildConfig, rng: np.random.Generator) -> Bytes:
        """Elements beyond the inputs get leftovers, as the last vector of a NORM may have."""
        inputs = self.activations.shape[1]
        full = rng.integers(-127, 128, (self.tokens, vectors_of(config, inputs) * config.width))
        full[:, :inputs] = self.activations
        return full.astype(np.int8).view(np.uint8)

    def stream(self, config: BuildConfig) -> tuple[Descriptor, Bytes]:
        slices, blocks = matrix_shape(config, *self.weights.shape)
        descriptor = Descriptor(opcode=Opcode.LINEAR, slices=slices, row_blocks=blocks, buffers=self.buffers)
        return descriptor, pack_ternary(config, self.weights)

    def products(self) -> Integers:
        return self.activations @ self.weights.astype(np.int64).T


class TernaryJobs(EngineJobs):
    name = "ternary"
    least = 1

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config)
        self.slice = config.slice_inputs
        self.longest = min(config.max_inputs, 3 * self.slice + 1)
        self.chained = min(config.max_inputs, 4 * self.slice)

    def random(self, rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> PanelJob:
        weights = rng.integers(-1, 2, (rows, inputs)).astype(np.int8)
        options.setdefault("buffers", Buffers(int(rng.integers(4))))
        return Job(weights=weights, activations=rng.integers(-127, 128, (tokens, inputs)), **options)

    def largest(self, rng: np.random.Generator, tokens: int, buffers: Buffers) -> Job:
        return self.random(rng, self.config.panel_rows, 2 * self.slice, tokens, buffers=buffers)

    def steady(self, rng: np.random.Generator, rows: int, tokens: int, buffers: Buffers) -> Job:
        return self.random(rng, rows, 4 * self.slice, tokens, buffers=buffers)

    def prepare_cycles(self, tokens: int) -> int:
        """Its tables are built while the next one's activations are loaded."""
        config = self.config
        parts, chunks = load_parts(config, config.slice_inputs)
        words = ceil_div(chunks + parts - 1, parts)
        return max(len(WALK) * config.tables // config.builders, tokens * words + ActivationMemory.LATENCY + 2)

    def _finish_cycles(self) -> int:
        """Cycles from the last beat to ``done``."""
        return LinearEngine(self.config).add + LinearEngine.DONE

    def stream_cycles(self, job: PanelJob) -> int:
        d, groups = job.stream(self.config)[0], self.config.groups
        beats = d.slices * d.row_blocks
        return (beats // groups - 1 if job.gang(self.config) else beats - groups) + self._finish_cycles()

    def most_cycles(self, job: PanelJob) -> int:
        """Building the tables or loading the activations, whichever is longer."""
        d = job.stream(self.config)[0]
        return (d.slices - 1) * max(self.prepare_cycles(job.tokens), 6) + d.row_blocks + self._finish_cycles()
