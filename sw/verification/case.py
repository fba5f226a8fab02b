"""One thing the fuzzer runs: a build, a model, a memory and what a host does; and its run in lock step with the golden machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config import BuildConfig, ConfigError
from ...decoder import BITNET, LLAMA, QWEN2, QWEN3, DecoderLayer
from ...errors import HwgenError
from ...files import write_whole
from ...registers import register
from ...shape import ModelShape
from ...weights import ModelWeights, random_weights
from ..compiler.compile import compile_model
from ..compiler.image import Image
from ..devices.verilator import MEMORY_BASE
from ..runtime.engine import Run
from .functional import Bin, FunctionalCoverage
from .interrupted import Fault, Interruption, interrupt
from .lock_step import LockStep
from .pass_records import PassRecords

if TYPE_CHECKING:
    from ...sim.dram import DramTiming
    from ..devices.verilator import VerilatorDevice

__all__ = ["MEMORY_BYTES", "Case", "CaseResult", "Part", "Step", "load_case", "run_case", "save_case"]

Part = tuple[int, int, int]
"""A run of a pass: number of a sequence, its next tokens, how many of the last ones are wanted."""

MEMORY_BYTES = 1 << 23

LAYERS = {layer.name: layer for layer in (BITNET, LLAMA, QWEN2, QWEN3)}


@dataclass(frozen=True)
class Step:
    """A pass, and what the host does before it. Sequences come to be when they are first named."""

    parts: tuple[Part, ...]
    #: Sequences that give their pages away; they come back with their next run.
    parked: tuple[int, ...] = ()
    #: A sequence, and a new one that begins with its tokens, in the same pages.
    shared: tuple[int, int] | None = None
    #: What happens to the pass first; then it is run in full.
    interruption: Interruption | None = None
    #: Memory ports that may read segments, a bit each; 0: all.
    ports: int = 0


@dataclass(frozen=True)
class Case:
    """One model on one build: what is run on it, and how the memory behaves."""

    config: BuildConfig
    shape: ModelShape
    timing: DramTiming
    steps: tuple[Step, ...]
    #: Of weights, tokens and the order of pages.
    seed: int
    #: Kind of LM head.
    head: str
    #: What a layer computes.
    layer: DecoderLayer
    #: Number formats of a model with INT4 matrices; None for a ternary one.
    formats: dict[str, Any] | None = None
    #: Registers and memories begin with noise, and a read that meets a write returns noise.
    noisy: bool = False
    #: Matrices without such formats: "ternary", or "grouped" with scales of groups.
    engine: str = "ternary"
    #: First address of the memory, a multiple of 4096.
    base: int = MEMORY_BASE

    def weights(self) -> ModelWeights:
        """Random weights of the model."""
        engine = self.engine if self.formats is None else "int4"
        return random_weights(self.shape, self.seed, self.layer, engine, **(self.formats or {}))

    def image(self) -> Image:
        """The compiled model, with pages for three sequences of full length."""
        image = compile_model(self.config, self.weights(), head=self.head)
        return replace(image, pages=3 * image.pages)


@dataclass
class CaseResult:
    """What ran before the end, or before the first thing that was wrong."""

    passes: int = 0
    #: Passes that were stopped, failed because the memory or the program did, or were cut by a reset, before they ran in full.
    stopped: int = 0
    failed: int = 0
    reset: int = 0
    operators: int = 0
    elements: int = 0
    cycles: int = 0
    #: One line; empty where nothing was.
    wrong: str = ""
    #: Index of the step in which it was.
    step: int = 0
    #: Combinations that ran, and how often.
    bins: Counter[Bin] = field(default_factory=Counter)


def open_case(case: Case) -> VerilatorDevice:
    """The simulated accelerator of a case, built if there is none yet."""
    from ..devices.verilator import VerilatorDevice

    return VerilatorDevice(
        case.config, memory_bytes=MEMORY_BYTES, memory_base=case.base, timing=case.timing, optimize=False,
        noise=case.seed + 1 if case.noisy else None,
    )


class _CaseRun:
    """A case on both machines."""

    def __init__(self, case: Case, device: VerilatorDevice) -> None:
        from ..devices.golden import GoldenDevice

        self.case, self.device, self.result = case, device, CaseResult()
        image = case.image()
        golden = GoldenDevice(case.config, memory_bytes=MEMORY_BYTES)
        self.lock_step = LockStep(case.config, image, device, golden, retired=self._retired)
        self.lock_step.budget = case.config.kv_budget
        self.records = PassRecords(self.lock_step.rtl_engine, device)
        self.coverage = FunctionalCoverage(self.lock_step.rtl_engine, device)
        self.rng = np.random.default_rng([case.seed, 3])
        pages = [int(p) for p in self.rng.permutation(image.pages)]  # dealt in random order, the same on both sides
        self.engines = (self.lock_step.golden_engine, self.lock_step.rtl_engine)
        for engine in self.engines:
            engine.pages._free = pages[:]

    def run(self) -> CaseResult:
        last = {number: i for i, step in enumerate(self.case.steps) for number in self._named(step)}
        for i, step in enumerate(self.case.steps):
            self.result.step = i
            self._prepare(step)
            runs = self._runs(step)
            if runs:
                self._first_try(step, runs)
                if self.result.wrong:
                    break
                self.records.begin()
                self.coverage.begin(self._places(runs))
                golden = self.lock_step.run_pass(runs)
                if golden is None or self._broke_rules():
                    break
            for number, final in last.items():
                if final == i:
                    self._each(number, lambda engine, session: engine.pages.close(session))
        outcome = self.lock_step.outcome
        if outcome.first is not None:
            self.result.wrong = str(outcome.first)
        self.result.passes, self.result.operators = outcome.passes, outcome.operators_compared
        self.result.elements, self.result.cycles = outcome.elements_compared, outcome.cycles
        self.result.bins = self.coverage.reached
        return self.result

    def _retired(self, tag: int) -> None:
        self.records.retired(tag)
        self.coverage.retired(tag)

    def _places(self, parts: Sequence[tuple[int, list[int], int]]) -> list[tuple[int, int, int]]:
        """First position, tokens and wanted tokens of every run of a pass to come."""
        return [(self.lock_step.sessions[number][1].position, len(tokens), wanted) for number, tokens, wanted in parts]

    @staticmethod
    def _named(step: Step) -> set[int]:
        return {number for number, _, _ in step.parts} | set(step.parked) | set(step.shared or ())

    def _each(self, number: int, act: Callable[[Any, Any], Any]) -> None:
        from ..runtime.pages import Session

        while len(self.lock_step.sessions) <= number:
            self.lock_step.sessions.append((Session(), Session()))
        for engine, session in zip(self.engines, self.lock_step.sessions[number], strict=True):
            act(engine, session)

    def _prepare(self, step: Step) -> None:
        """Park and share; what is parked and needed again comes back."""
        for number in step.parked:
            self._each(number, lambda engine, session: session.parked is None and engine.pages.park(session))
        wanted = {number for number, _, _ in step.parts} | set((step.shared or ())[:1])
        for number in wanted:
            self._each(number, lambda engine, session: engine.pages.unpark(session, session.position))
        if step.shared is not None:
            of, new = step.shared
            self._each(of, lambda engine, session: None)
            self._each(new, lambda engine, session: None)
            if not self.lock_step.sessions[new][0].position:
                golden, rtl = (
                    engine.pages.share(session, session.position)
                    for engine, session in zip(self.engines, self.lock_step.sessions[of], strict=True)
                )
                self.lock_step.sessions[new] = (golden, rtl)

    def _runs(self, step: Step) -> list[tuple[int, list[int], int]]:
        """Random tokens for the runs of a step, no more than fit."""
        runs = []
        for number, tokens, wanted in step.parts:
            self._each(number, lambda engine, session: None)
            tokens = min(tokens, self.case.config.max_context - self.lock_step.sessions[number][0].position)
            if tokens:
                runs.append((number, self.rng.integers(0, self.case.shape.vocab, tokens).tolist(), min(wanted, tokens)))
        return runs

    def _first_try(self, step: Step, parts: Sequence[tuple[int, list[int], int]]) -> None:
        """The pass on the RTL alone, where something happens to it; it ends, and leaves the sequences as they were."""
        engine = self.lock_step.rtl_engine
        if step.interruption is not None:
            budget = self.lock_step.budget
            runs = [Run(self.lock_step.sessions[number][1], tokens, wanted, budget=budget) for number, tokens, wanted in parts]
            self.coverage.begin(self._places(parts))
            ended, self.result.wrong = interrupt(engine, self.device, runs, step.interruption)
            if ended != "done":
                self.coverage.interrupted(ended)
                setattr(self.result, ended, getattr(self.result, ended) + 1)
        every = (1 << self.case.config.ports) - 1
        self.device.write_register(register(self.case.config, "PORT_ENABLE").offset, step.ports & every)

    def _broke_rules(self) -> bool:
        """Whether rules of AXI were broken, memory was accessed that is not there, or the machine tells what is not so."""
        accelerator = self.device.accelerator
        for record in [*accelerator.violations()[:1], *accelerator.errors()[:1]]:
            self.result.wrong = f"cycle {record.cycle}, port {record.port}: {record.text}"
        result = self.lock_step.rtl_result
        assert result is not None
        self.result.wrong = self.result.wrong or self.records.wrong(result)
        if self.device.accelerator.irq:
            self.result.wrong = "the interrupt of a pass that was acknowledged"
        return bool(self.result.wrong)


def run_case(case: Case, device: VerilatorDevice) -> CaseResult:
    """Run a case on a device of its build in lock step with the golden machine, up to the first thing that is wrong: an output of
    an operator, the cache, a logit or a candidate that differs, a rule of AXI that is broken, an access outside the memory, a
    machine that stands still, counters or a trace that tell what is not so.
    """
    return _CaseRun(case, device).run()


# ---- files -------------------------------------------------------------------------------------------------------
def save_case(case: Case, path: Path) -> None:
    """Write a case as JSON."""
    values = asdict(case) | {"config": case.config.to_dict(), "layer": case.layer.name}
    write_whole(path, json.dumps(values, indent=1) + "\n")


def load_case(path: Path) -> Case:
    """Read what :func:`save_case` wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return _case_of(values)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise HwgenError("file", f"{path} is not a case of hwgen fuzz: {error}", "give a file that hwgen fuzz wrote") from error


def _case_of(values: Mapping[str, Any]) -> Case:
    from ...sim.dram import DramTiming

    timing: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values["timing"].items()}
    steps = tuple(
        Step(
            tuple((int(a), int(b), int(c)) for a, b, c in step["parts"]), tuple(step["parked"]),
            tuple(step["shared"]) if step["shared"] else None, _interruption_of(step["interruption"]), step["ports"],
        )
        for step in values["steps"]
    )
    return Case(
        BuildConfig.from_dict(values["config"]), ModelShape(**values["shape"]), DramTiming(**timing), steps, values["seed"],
        values["head"], LAYERS[values["layer"]], values["formats"], values["noisy"],
        values["engine"], values["base"],
    )


def _interruption_of(values: Mapping[str, Any] | None) -> Interruption | None:
    if values is None:
        return None
    return Interruption(values["stop"], values["reset"], Fault(**values["fault"]) if values["fault"] else None, values["damaged"])
