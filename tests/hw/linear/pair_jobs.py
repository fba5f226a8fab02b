"""Jobs for a machine with both engines: one for either in turn."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers

from .bench import EngineJobs, PanelJob
from .int4_jobs import Int4Jobs
from .ternary_jobs import TernaryJobs


class PairJobs(EngineJobs):
    name = "pair"

    def __init__(self, config: BuildConfig) -> None:
        super().__init__(config)
        self.both = (TernaryJobs(config), Int4Jobs(config))
        self.least = max(jobs.least for jobs in self.both)
        self.slice = max(jobs.slice for jobs in self.both)
        self.longest = min(jobs.longest for jobs in self.both)
        self.chained = min(jobs.chained for jobs in self.both)
        self._made = 0

    def _next(self) -> EngineJobs:
        self._made += 1
        return self.both[self._made % 2]

    def _of(self, job: PanelJob) -> EngineJobs:
        return self.both[job.fp8]

    def random(self, rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> PanelJob:
        return self._next().random(rng, rows, inputs, tokens, **options)

    def largest(self, rng: np.random.Generator, tokens: int, buffers: Buffers) -> PanelJob:
        return self._next().largest(rng, tokens, buffers)

    def steady(self, rng: np.random.Generator, rows: int, tokens: int, buffers: Buffers) -> PanelJob:
        return self._next().steady(rng, rows, tokens, buffers)

    def prepare_cycles(self, tokens: int) -> int:
        return max(jobs.prepare_cycles(tokens) for jobs in self.both)

    def stream_cycles(self, job: PanelJob) -> int:
        return self._of(job).stream_cycles(job)

    def most_cycles(self, job: PanelJob) -> int:
        return self._of(job).most_cycles(job)
