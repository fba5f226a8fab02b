"""Jobs for a ternary engine that takes scales of groups: with and without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Format, Opcode
from hwgen.grouped import SCALES, GroupedMatrix
from hwgen.grouped_layout import GroupedLayout
from hwgen.layout import vectors_of
from hwgen.numerics import GROUP
from hwgen.rounding import align

from .bench import Bytes, Integers, PanelJob
from .ternary_jobs import TernaryJobs


@dataclass(kw_only=True)
class GroupedJob(PanelJob):
    """LINEAR of the ternary engine with scales of groups."""

    matrix: GroupedMatrix
    #: ``[tokens, inputs]``
    activations: Integers

    @property
    def tokens(self) -> int:
        return self.activations.shape[0]

    @property
    def rows(self) -> int:
        return self.matrix.rows

    def codes(self, config: BuildConfig, rng: np.random.Generator) -> Bytes:
        """Groups are whole vectors."""
        assert self.activations.shape[1] == vectors_of(config, self.matrix.inputs) * config.width
        return self.activations.astype(np.int8).view(np.uint8)

    def stream(self, config: BuildConfig) -> tuple[Descriptor, Bytes]:
        layout = GroupedLayout(config, *self.matrix.shape)
        descriptor = Descriptor(
            opcode=Opcode.LINEAR, format=Format.GROUPED, slices=layout.slices, row_blocks=layout.row_blocks, buffers=self.buffers,
        )
        return descriptor, layout.pack(self.matrix.packed(), self.matrix.codes)

    def products(self) -> Integers:
        """Group by group, each product with its scale."""
        result = np.zeros((self.tokens, self.rows), np.int64)
        for group in range(self.matrix.inputs // GROUP):
            inputs = slice(group * GROUP, (group + 1) * GROUP)
            sums = self.activations[:, inputs].astype(np.int64) @ self.matrix.trits[:, inputs].astype(np.int64).T
            result += sums * SCALES[self.matrix.codes[:, group]]
        return result


class GroupedJobs(TernaryJobs):
    """Jobs of either kind."""

    def random(self, rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> PanelJob:
        if rng.random() < 0.3:
            return super().random(rng, rows, inputs, tokens, **options)
        options.setdefault("buffers", Buffers(int(rng.integers(4))))
        return self.grouped(rng, rows, min(align(inputs, GROUP), self.config.max_inputs), tokens, **options)

    def steady(self, rng: np.random.Generator, rows: int, tokens: int, buffers: Buffers) -> PanelJob:
        return self.grouped(rng, rows, 2 * GROUP, tokens, buffers=buffers, late=3 * self.prepare_cycles(tokens))

    def grouped(self, rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> GroupedJob:
        trits = rng.integers(-1, 2, (rows, inputs)).astype(np.int8)
        codes = rng.integers(0, 256, (rows, inputs // GROUP)).astype(np.uint8)
        activations = rng.integers(-127, 128, (tokens, inputs))
        return GroupedJob(matrix=GroupedMatrix(trits, codes, 1.0), activations=activations, **options)

    def _grouped_layout(self, job: PanelJob) -> GroupedLayout | None:
        d = job.stream(self.config)[0]
        return GroupedLayout.of(self.config, d) if Format.GROUPED in d.format else None

    def stream_cycles(self, job: PanelJob) -> int:
        layout, groups = self._grouped_layout(job), self.config.groups
        if layout is None:
            return super().stream_cycles(job)
        blocks = layout.row_blocks // groups if job.gang(self.config) else layout.row_blocks
        return layout.slices * blocks + layout.groups * layout.scale_beats - groups + self._finish_cycles()

    def most_cycles(self, job: PanelJob) -> int:
        """Scales are taken before there are tables: the first slice counts, its activations and its tables."""
        layout = self._grouped_layout(job)
        before = layout.groups * layout.scale_beats + 2 * self.prepare_cycles(job.tokens) if layout else 0
        return super().most_cycles(job) + before
