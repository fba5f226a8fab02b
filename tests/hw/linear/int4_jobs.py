"""Jobs for the INT4 engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Format, Opcode
from hwgen.golden.int4 import e4m3_codes, e4m3_values, int4_matmul
from hwgen.hw.linear.int4_engine import Int4Engine
from hwgen.int4 import GROUPS, Int4Matrix
from hwgen.layout import Int4Layout
from hwgen.rounding import align, ceil_div

from .bench import Bytes, EngineJobs, Integers, PanelJob

#: All finite values, as integers; twice zero and the extremes.
VALUES = e4m3_values(torch.tensor([c for c in range(256) if c & 0x7F != 0x7F], dtype=torch.uint8)).numpy()


@dataclass(kw_only=True)
class Int4Job(PanelJob):
    """LINEAR of the INT4 engine."""

    fp8 = True

    matrix: Int4Matrix
    #: ``[tokens, inputs]``, e4m3 values in units of 2^-9.
    activations: npt.NDArray[np.int32]
    #: Zeros are written as -0, code 0x80.
    minus_zero: bool = False

    @property
    def tokens(self) -> int:
        return self.activations.shape[0]

    @property
    def rows(self) -> int:
        return self.matrix.rows

    def codes(self, config: BuildConfig, rng: np.random.Generator) -> Bytes:
        """Zeros up to whole slices and vectors."""
        inputs = self.activations.shape[1]
        step = max(config.int4_slice_inputs, config.width)
        full = np.zeros((self.tokens, align(inputs, step)), np.uint8)
        full[:, :inputs] = e4m3_codes(torch.from_numpy(self.activations)).numpy()
        if self.minus_zero:
            full[full == 0] = 0x80
        return full

    def stream(self, config: BuildConfig) -> tuple[Descriptor, Bytes]:
        m = self.matrix
        layout = Int4Layout(config, m.rows, m.inputs, m.group)
        descriptor = Descriptor(
            opcode=Opcode.LINEAR, format=Format.FP8, slices=layout.slices, vectors=layout.shared, row_blocks=layout.row_blocks,
            buffers=self.buffers,
        )
        return descriptor, layout.pack(m.codes, m.scales, m.midpoints)

    def products(self) -> Integers:
        weights = torch.from_numpy(self.matrix.integers().astype(np.float64))
        return int4_matmul(torch.from_numpy(self.activations), weights).numpy()


def int4_matrix(rng: np.random.Generator, rows: int, inputs: int, group: int, *, symmetric: bool = False) -> Int4Matrix:
    groups = ceil_div(inputs, group)
    codes = rng.integers(-8, 8, (rows, inputs)).astype(np.int8)
    scales = rng.integers(0, 256, (rows, groups)).astype(np.uint8)
    midpoints = None if symmetric else rng.integers(-127, 128, (rows, groups)).astype(np.int8)
    return Int4Matrix(codes, group, scales, midpoints, np.ones(rows, np.float32))


class Int4Jobs(EngineJobs):
    name = "int4"
    least = 16

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config)
        self.slice = max(16, config.int4_slice_inputs)
        self.longest = min(config.max_inputs, 288)
        self.chained = min(config.max_inputs, 160)
        #: Inputs that may share a scale.
        self.groups = [g for g in GROUPS if g % config.int4_slice_inputs == 0]

    def random(self, rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> Int4Job:
        group = options.pop("group", None) or int(rng.choice(self.groups))
        options.setdefault("buffers", Buffers(int(rng.integers(4))))
        matrix = int4_matrix(rng, rows, align(inputs, 16), group, symmetric=bool(rng.integers(2)))
        # half of the activations small: the codes whose integers are odd
        pool = np.concatenate((VALUES, VALUES[np.abs(VALUES) < 32].repeat(8)))
        activations = rng.choice(pool, (tokens, matrix.inputs)).astype(np.int32)
        return Int4Job(matrix=matrix, activations=activations, minus_zero=bool(rng.integers(2)), **options)

    def largest(self, rng: np.random.Generator, tokens: int, buffers: Buffers) -> Int4Job:
        return self.random(rng, self.config.panel_rows, 32, tokens, buffers=buffers, group=self.groups[0])

    def steady(self, rng: np.random.Generator, rows: int, tokens: int, buffers: Buffers) -> Int4Job:
        inputs, group = 4 * self.config.int4_slice_inputs, max(32, self.groups[0])
        return self.random(rng, rows, inputs, tokens, group=group, buffers=buffers, late=2 * self.prepare_cycles(tokens))

    def prepare_cycles(self, tokens: int) -> int:
        """The next one's activations are loaded meanwhile."""
        words = max(1, self.config.int4_slice_inputs // self.config.width)
        return tokens * words + 26

    def _finish_cycles(self) -> int:
        """Cycles from the last beat to ``done``."""
        engine = Int4Engine(self.config)
        return engine.add + engine.DONE

    def stream_cycles(self, job: PanelJob) -> int:
        layout, groups = Int4Layout.of(self.config, job.stream(self.config)[0]), self.config.groups
        blocks = layout.row_blocks // groups if job.gang(self.config) else layout.row_blocks
        return layout.slices * blocks + layout.groups * layout.scale_beats - groups + self._finish_cycles()

    def most_cycles(self, job: PanelJob) -> int:
        layout = Int4Layout.of(self.config, job.stream(self.config)[0])
        loading = layout.slices * self.prepare_cycles(job.tokens)
        return loading + layout.row_blocks + layout.groups * layout.scale_beats + self._finish_cycles()
