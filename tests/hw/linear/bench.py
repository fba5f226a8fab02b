"""Jobs for the linear engines, and a bench that drives one as its neighbours do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cocotb
import numpy as np
import numpy.typing as npt
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Buffers, Descriptor
from hwgen.hw.interfaces import ACCUMULATOR_LATENCY
from hwgen.layout import vectors_of
from tests.cocotb_runner import cocotb_parameters, reader, start_clock

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@dataclass
class PanelJob(ABC):
    """One LINEAR operator."""

    #: Chance that no row is offered in a cycle.
    stall: float = 0.0
    #: Cycles before the first row is offered, so that slices are prepared ahead.
    late: int = 0
    #: Halves of the memories.
    buffers: Buffers = Buffers.NONE

    #: Of the INT4 engine, where there are two.
    fp8: ClassVar[bool] = False

    @property
    @abstractmethod
    def tokens(self) -> int: ...

    @property
    @abstractmethod
    def rows(self) -> int: ...

    def gang(self, config: BuildConfig) -> bool:
        return self.tokens <= config.lanes

    @abstractmethod
    def codes(self, config: BuildConfig, rng: np.random.Generator) -> Bytes:
        """The bytes that are written as activations ``[tokens, padded inputs]``."""

    @abstractmethod
    def stream(self, config: BuildConfig) -> tuple[Descriptor, Bytes]:
        """The operator, and the beats that it consumes."""

    @abstractmethod
    def products(self) -> Integers:
        """``[tokens, rows]``"""

    def results(self, config: BuildConfig) -> Integers:
        """``[tokens, padded rows]``"""
        expected = np.zeros((self.tokens, vectors_of(config, self.rows) * config.width), np.int64)
        expected[:, : self.rows] = self.products()
        return expected


class EngineJobs(ABC):
    """What the shared cases ask of one engine: jobs, how long they may be, and how many cycles they take."""

    #: Name of the engine.
    name: str
    #: Inputs that a job has at least.
    least: int
    #: Inputs of a whole slice, of a long job, and of one in a chain of jobs.
    slice: int
    longest: int
    chained: int

    def __init__(self, config: BuildConfig) -> None:
        self.config = config

    @abstractmethod
    def random(self, rng: np.random.Generator, rows: int, inputs: int, tokens: int, **options: Any) -> PanelJob: ...

    @abstractmethod
    def largest(self, rng: np.random.Generator, tokens: int, buffers: Buffers) -> PanelJob:
        """Of as many rows as a panel has."""

    @abstractmethod
    def steady(self, rng: np.random.Generator, rows: int, tokens: int, buffers: Buffers) -> PanelJob:
        """Of whole slices that last longer than their preparation."""

    @abstractmethod
    def prepare_cycles(self, tokens: int) -> int:
        """Cycles that a slice takes at least, while what it needs is prepared."""

    @abstractmethod
    def stream_cycles(self, job: PanelJob) -> int:
        """Cycles of a `steady` job from the first row accepted, which is the last beat of it, to ``done``."""

    @abstractmethod
    def most_cycles(self, job: PanelJob) -> int:
        """Cycles that a job of slices with few rows may take."""


def jobs_of(config: BuildConfig) -> EngineJobs:
    """Jobs of the engine that the test named."""
    if cocotb_parameters()["engine"] == "int4":
        from .int4_jobs import Int4Jobs

        return Int4Jobs(config)
    if cocotb_parameters()["engine"] == "pair":
        from .pair_jobs import PairJobs

        return PairJobs(config)
    if config.has_groups:
        from .grouped_jobs import GroupedJobs

        return GroupedJobs(config)
    from .ternary_jobs import TernaryJobs

    return TernaryJobs(config)


class Bench:
    """Drives a linear engine."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.config = BuildConfig.from_dict(cocotb_parameters()["config"])
        self.rng = np.random.default_rng(cocotb_parameters().get("seed", 7))
        self.jobs = jobs_of(self.config)
        #: Cycles of the last job in which a row waited for the operands of its slice.
        self.waited = 0

    async def start(self) -> None:
        dut = self.dut
        for name in ("start", "rows__valid", "activation__valid", "accumulator__vector", "accumulator__token", "op__descriptor"):
            getattr(dut, name).value = 0
        await start_clock(dut)

    async def load(self, job: PanelJob) -> None:
        """Write the activations."""
        dut, config = self.dut, self.config
        full = job.codes(config, self.rng)
        dut.activation__half.value = int(Buffers.ACTIVATION in job.buffers)
        for token in range(job.tokens):
            dut.activation__token.value = token
            for v in range(full.shape[1] // config.width):
                dut.activation__valid.value = 1
                dut.activation__addr.value = v
                part = full[token, v * config.width : (v + 1) * config.width]
                dut.activation__data.value = int.from_bytes(part.tobytes(), "little")
                await RisingEdge(dut.clk)
        dut.activation__valid.value = 0

    def operator(self, job: PanelJob) -> list[int]:
        """Apply the operator; returns the ring rows that it consumes."""
        config, dut = self.config, self.dut
        descriptor, beats = job.stream(config)
        dut.op__descriptor.value = int.from_bytes(descriptor.pack(), "little")
        dut.op__count.value = job.tokens
        dut.op__tokens.value = job.tokens
        dut.op__gang.value = int(job.gang(config))
        return [int.from_bytes(row.tobytes(), "little") for row in beats.reshape(-1, config.groups * config.beat_bytes)]

    async def run(self, job: PanelJob, *, limit: int | None = None, idle: bool = True) -> int:
        """Execute; returns the cycles from the first row accepted to ``done``, or gives up after ``limit`` cycles. With
        ``idle`` it stays a few cycles longer to see that nothing more happens."""
        dut = self.dut
        rows = self.operator(job)
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        sent, cycle, first = 0, 0, None
        self.waited = 0
        offering = offered = False
        ready, ended, busy, waits_for_tables, waits_for_a_row = (
            reader(getattr(dut, name)) for name in ("rows__ready", "done", "busy", "waiting_tables", "waiting_row")
        )
        edge, valid, shown = RisingEdge(dut.clk), None, None
        while True:
            if not offering and sent < len(rows) and cycle >= job.late:
                offering = self.rng.random() >= job.stall
            if offering is not valid:
                dut.rows__valid.value, valid = int(offering), offering
            if offering and sent != shown:
                dut.rows__payload.value, shown = rows[sent], sent
            await edge  # what is read now was there before it
            accepted = offering and ready() == 1
            done = ended() == 1
            assert busy() == 1
            waits = waits_for_tables() == 1
            assert not waits or (offering and not accepted)
            self.waited += waits
            hungry = waits_for_a_row() == 1
            assert not hungry or not offered
            # With time for its operands it waits for nothing else.
            assert hungry or cycle != job.late or job.late < 2 * self.jobs.prepare_cycles(job.tokens)
            offered = offering
            if accepted:
                sent, offering = sent + 1, False
                first = cycle if first is None else first
            if done:
                break
            cycle += 1
            if limit is not None and cycle >= limit:
                return cycle
            assert cycle < 200000, "done never came"
        dut.rows__valid.value = 1  # more rows wait in the ring: they are not for this operator
        assert sent == len(rows), "done before the last row"
        for _ in range(3 if idle else 0):
            await ReadOnly()
            assert dut.rows__ready.value == 0 and dut.busy.value == 0 and dut.done.value == 0
            await RisingEdge(dut.clk)
        dut.rows__valid.value = 0
        assert first is not None
        return cycle - first

    async def read(self, job: PanelJob) -> Integers:
        """All accumulators ``[tokens, padded rows]``, one request a cycle."""
        dut, config = self.dut, self.config
        vectors = vectors_of(config, job.rows)
        requests = [(token, v) for token in range(job.tokens) for v in range(vectors)]
        if self.jobs.name == "pair":
            dut.fp8_read.value = int(job.fp8)
        result = np.zeros((job.tokens, vectors * config.width), np.int64)
        data, edge = reader(dut.accumulator__data), RisingEdge(dut.clk)
        for cycle in range(len(requests) + ACCUMULATOR_LATENCY):
            if cycle < len(requests):
                token, v = requests[cycle]
                dut.accumulator__half.value = int(Buffers.ACCUMULATOR in job.buffers)
                dut.accumulator__gang.value = int(job.gang(config))
                dut.accumulator__token.value = token
                dut.accumulator__vector.value = v
            await edge
            if cycle >= ACCUMULATOR_LATENCY:
                token, v = requests[cycle - ACCUMULATOR_LATENCY]
                word = data()
                for i in range(config.width):
                    value = word >> i * config.acc_bits & ((1 << config.acc_bits) - 1)
                    value -= (value >> config.acc_bits - 1) << config.acc_bits
                    result[token, v * config.width + i] = value
        return result

    async def compare(self, job: PanelJob) -> None:
        np.testing.assert_array_equal(await self.read(job), job.results(self.config))

    async def check(self, job: PanelJob) -> int:
        await self.load(job)
        cycles = await self.run(job)
        await self.compare(job)
        return cycles

    async def chain(self, jobs: Sequence[PanelJob]) -> list[int]:
        """Run the jobs one after the other; beside each, the results before it are read and the activations after it
        written, over and over. Neighbours use different halves. Returns what `run` does for each."""
        cycles = []
        await self.load(jobs[0])
        for number, job in enumerate(jobs):
            running = cocotb.start_soon(self.run(job))
            reading = cocotb.start_soon(self._read_until_done(jobs[number - 1], running)) if number else None
            if number + 1 < len(jobs):
                await self.load(jobs[number + 1])
            cycles.append(await running)
            if reading is not None:
                await reading
        await self.compare(jobs[-1])
        return cycles

    async def _read_until_done(self, job: PanelJob, running: Any) -> None:
        passes = 0
        while passes == 0 or not running.done():
            await self.compare(job)
            passes += 1
