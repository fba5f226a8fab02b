"""``hwgen bench``: a model of published size, random weights, whole passes in RTL, compared with golden, and where the
cycles went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...boards import Board
from ...config import BuildConfig
from ...descriptors import Fetch
from ...errors import HwgenError
from ...published import published_model
from ...registers import ENGINE_COUNTERS
from ...rounding import ceil_div
from ...sim.board_timing import USUAL, MemoryConditions, board_timing, describe_memory, memory_json
from ..compiler.compile import compile_model
from ..compiler.image import Image
from ..devices.golden import GoldenDevice
from ..devices.verilator import VerilatorDevice, Waves
from ..models.random_model import random_model
from ..runtime.engine import Engine, PassResult, Run
from ..runtime.kv_arrays import with_cache_tokens
from ..runtime.pages import Session
from ..runtime.pass_trace import PassTrace, TracedRun, read_trace
from ..verification.lock_step import LockStep
from .estimate import attended, cache_tokens, context_text
from .timeline import draw_timeline, write_perfetto

__all__ = ["BenchPlan", "describe_bench", "run_bench"]

#: Layers in the picture of a pass; the Perfetto trace has all that the trace memory kept.
DRAWN_LAYERS = 2


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What to run."""

    #: Name of a published shape.
    shape: str
    #: Prompt tokens to prefill.
    prompt: int
    #: Tokens to decode behind the prompt.
    decode: int
    #: Layers to run; None is all of them.
    layers: int | None = None
    #: Tokens of context that the cache holds before the prompt: random keys and values.
    cached: int = 0
    #: Answers that share every pass of decoding, each behind ``cached`` tokens of its own; more than one without a prompt.
    sequences: int = 1
    #: What is compared with golden: "none"; "outputs": what is left after every pass (final hidden state, logits,
    #: candidates, cached keys and values); "full": the outputs of every operator besides.
    check: str = "outputs"
    #: LM head, one of `hwgen.sw.compiler.compile.HEADS`.
    head: str = "exact"
    #: Format of cached keys and values.
    kv: str = "k8v8"
    #: Blocks of its cache that a new token chooses, where that has more; 0: it attends to all.
    kv_budget: int = 0
    seed: int = 0
    #: How the simulated memory answers.
    memory: MemoryConditions = USUAL
    #: Directory for the timeline of the first pass of each phase.
    timeline: Path | None = None
    #: Waves of the simulation.
    waves: Waves | None = None


@dataclass
class Phase:
    """Passes of one kind."""

    tokens: int = 0
    results: list[PassResult] = field(default_factory=list)

    def add(self, tokens: int, result: PassResult) -> None:
        self.tokens += tokens
        self.results.append(result)

    @property
    def cycles(self) -> int:
        return sum(r.cycles for r in self.results)

    def count(self, counter: str) -> int:
        return sum(r.counters[counter] for r in self.results)


class Bench:
    """One accelerator, simulated, with one image; the golden machine beside it where something is checked."""

    def __init__(self, board: Board, plan: BenchPlan, progress: Callable[[str], None]) -> None:
        self.board, self.plan, self.progress = board, plan, progress
        config = board.config
        shape = published_model(plan.shape).shape
        if plan.layers is not None and plan.layers > shape.layers:
            raise HwgenError("usage", f"--layers must be at most {shape.layers}, not {plan.layers}", "give fewer layers")
        self.layers_full = shape.layers
        progress("drawing and packing random weights")
        needed = plan.cached + plan.prompt + plan.decode
        model: Any = random_model(plan.shape, plan.seed, plan.layers, plan.kv, needed)
        self.image: Image = compile_model(config, model, name=plan.shape, head=plan.head, progress=progress)
        self.traces: dict[str, PassTrace] = {}
        if needed > self.image.context:
            raise HwgenError(
                "context", f"{needed} tokens are longer than the context of {self.image.context} tokens",
                "use a shorter prompt, or --set max_context",
            )
        if plan.sequences > self.image.chunk:
            fix = f"give --sequences {self.image.chunk}"
            raise HwgenError("usage", f"a pass has at most {self.image.chunk} tokens, not {plan.sequences}", fix)
        if plan.sequences > 1:
            held = cache_tokens(config, plan.sequences, needed)
            self.image = with_cache_tokens(self.image, max(self.image.context, held))
        memory = self.image.memory_bytes()
        probe = replace(config, probe=True) if plan.check != "none" else config
        self.device = VerilatorDevice(
            probe, memory_bytes=memory, timing=board_timing(board, plan.memory), waves=plan.waves, progress=progress
        )
        self.golden = GoldenDevice(config, memory_bytes=memory) if plan.check != "none" else None
        pairs = [(Session(), Session()) for _ in range(plan.sequences)]
        if self.golden is None:
            self.engine = Engine(self.device, self.image)
        else:
            self.lock_step = LockStep(config, self.image, self.device, self.golden, every_operator=plan.check == "full")
            self.lock_step.sessions, self.engine = pairs, self.lock_step.rtl_engine
            self.lock_step.budget = plan.kv_budget
        #: Of every answer, on the simulated device.
        self.sessions = [on_device for _, on_device in pairs]
        for number, (on_golden, on_device) in enumerate(pairs):
            if plan.cached:
                self._fill_cache(plan.cached, number, on_golden, on_device)

    def _fill_cache(self, tokens: int, number: int, on_golden: Session, on_device: Session) -> None:
        """Random keys, values and scales for the first ``tokens`` positions of an answer, the same on both machines. Before a
        pass that chooses the engine makes summaries of them.
        """
        pages = ceil_div(tokens, self.board.config.kv_block)
        rng = np.random.default_rng((self.plan.seed, 1, number))
        data = rng.integers(0, 256, pages * self.image.page_bytes, dtype=np.uint8)
        data[data == 0x80] = 0  # keys and values are -127 to 127
        self._random_scales(data, rng)
        engines = [(self.engine, on_device)]
        if self.golden is not None:
            engines.append((self.lock_step.golden_engine, on_golden))
        for engine, session in engines:
            engine.adopt(session, [0] * tokens)
            engine.pages.write(session.pages, data.reshape(pages, -1))

    def _random_scales(self, data: npt.NDArray[np.uint8], rng: np.random.Generator) -> None:
        """bf16 scales of order 1/127 in the header of every block."""
        pages = data.reshape(-1, self.image.page_bytes)
        header = self.board.config.header_beats * self.board.config.beat_bytes
        for d in (d for d in self.image.descriptors if d.fetch is Fetch.CACHE):
            for head in range(d.kv_heads):
                first = d.stream_address + head * d.head_stride
                scales = rng.integers(0x3C00, 0x3C80, (len(pages), header // 2), dtype=np.uint16)
                pages[:, first : first + header] = scales.view(np.uint8)

    def forward(self, parts: Sequence[tuple[int, Sequence[int], int]]) -> PassResult:
        """One pass of answers (by their number), their next tokens and how many are wanted, compared as the plan says."""
        if self.golden is None:
            budget = self.plan.kv_budget
            runs = [Run(self.sessions[number], tokens, wanted, budget=budget) for number, tokens, wanted in parts]
            return self.engine.run_pass(runs, write_logits=True)
        self.lock_step.run_pass([(number, list(tokens), wanted) for number, tokens, wanted in parts])
        if self.lock_step.outcome.mismatches or self.lock_step.rtl_result is None:
            raise Mismatched
        return self.lock_step.rtl_result

    def run(self) -> tuple[Phase, Phase]:
        """Prefill and decode; stops early at a mismatch."""
        plan, chunk = self.plan, self.image.chunk
        rng = np.random.default_rng((plan.seed, 2))
        prompt = [int(t) for t in rng.integers(0, self.image.shape.vocab, plan.prompt)]
        prefill, decode = Phase(), Phase()
        try:
            result: PassResult | None = None
            for start in range(0, plan.prompt, chunk):
                part = prompt[start : start + chunk]
                result = self._pass(f"prompt tokens {start} to {start + len(part)} of {plan.prompt}",
                                    [(0, part, int(start + len(part) == plan.prompt))])
                prefill.add(len(part), result)
            for i in range(plan.decode):
                tokens = [run.candidates[-1][0].token for run in result.runs if run.candidates] if result else [0] * plan.sequences
                parts = [(number, [token], 1) for number, token in enumerate(tokens)]
                result = self._pass(f"new token {i + 1} of {plan.decode}", parts)
                decode.add(plan.sequences, result)
        except Mismatched:
            pass
        return prefill, decode

    def _pass(self, what: str, parts: Sequence[tuple[int, Sequence[int], int]]) -> PassResult:
        begin = time.monotonic()
        self.progress(f"{what}: running")
        runs = [TracedRun(number, self.sessions[number].position, len(tokens)) for number, tokens, _ in parts]
        result = self.forward(parts)
        wall = time.monotonic() - begin
        self.progress(f"{what}: {result.cycles:,} cycles in {wall:.0f} s")
        kind = "prefill" if what.startswith("prompt") else "decode"
        if self.plan.timeline is not None and kind not in self.traces:
            self.traces[kind] = read_trace(self.engine, f"{kind}: {what}", result.cycles, runs, result.counters)
        return result

    def _drawn(self) -> str:
        """The layers of the picture, in words."""
        layers = self.image.shape.layers
        if layers == 1:
            return f"one layer of {self.layers_full}"
        return f"first {DRAWN_LAYERS} layers" if layers > DRAWN_LAYERS else f"the {layers} layers of this run"

    def write_timeline(self, directory: Path) -> list[str]:
        """Perfetto trace and pictures; names of the files."""
        directory.mkdir(parents=True, exist_ok=True)
        config = self.board.config
        write_perfetto(directory / "timeline.json", list(self.traces.values()), self.image.descriptors, config.clock_mhz)
        files = ["timeline.json"]
        for kind, traced in self.traces.items():
            name = f"timeline-{kind}.svg"
            title = f"{self.plan.shape} on {self.board.name}, {traced.name}, {self._drawn()} (simulated)"
            shown = [e.end for e in traced.entries if self.image.descriptors[e.tag].layer < DRAWN_LAYERS]
            draw_timeline(directory / name, traced, title=title, capacity=config.ring_beats, clock_mhz=config.clock_mhz,
                          cycles=max(shown, default=None))
            files.append(name)
        return files


class Mismatched(Exception):
    """RTL and golden differ; the outcome of the lock step has the first element."""


def _by_operator(results: Sequence[PassResult]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.opcode_cycles)
    return {name: cycles for name, cycles in total.items() if cycles}


def _stalls(results: Sequence[PassResult]) -> dict[str, int]:
    """Cycles in which the engine took no beat, by cause."""
    causes = [name for name, _ in ENGINE_COUNTERS if name != "engine_busy"]
    return {name.removeprefix("engine_"): sum(r.counters[name] for r in results) for name in causes}


def phase_summary(phase: Phase, config: BuildConfig) -> dict[str, Any]:
    """What both phases state: cycles by operator and stalls by cause."""
    return {"by_operator": _by_operator(phase.results), "stalls": _stalls(phase.results)}


def run_bench(board: Board, plan: BenchPlan, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Run a plan; the object that ``hwgen bench --json`` prints."""
    bench = Bench(board, plan, progress)
    begin = time.monotonic()
    prefill, decode = bench.run()
    wall = time.monotonic() - begin
    config, shape = board.config, bench.image.shape
    hertz = config.clock_mhz * 1e6
    macs = config.macs(published_model(plan.shape).engine)
    outcome = bench.lock_step.outcome if bench.golden is not None else None
    cycles = prefill.cycles + decode.cycles
    result: dict[str, Any] = {
        "shape": plan.shape,
        "board": board.name,
        "config": config.to_dict(),
        "clock_mhz": config.clock_mhz,
        "layers": shape.layers,
        "layers_full": bench.layers_full,
        "head": plan.head,
        "kv_budget": plan.kv_budget,
        "cached": plan.cached,
        "sequences": plan.sequences,
        "seed": plan.seed,
        "memory": memory_json(board, plan.memory),
        "simulated": True,
        "checked": plan.check,
        "compared": outcome.elements_compared if outcome else 0,
        "mismatches": outcome.mismatches if outcome else 0,
        "first_mismatch": str(outcome.first) if outcome and outcome.first else None,
        "prefill": {
            "tokens": prefill.tokens,
            "cycles": prefill.cycles,
            "ttft_s": prefill.cycles / hertz,
            "tok_s": prefill.tokens * hertz / prefill.cycles if prefill.cycles else None,
            "mac_utilisation": prefill.tokens * shape.linear_weights / (prefill.cycles * macs) if prefill.cycles else None,
            **phase_summary(prefill, config),
        },
        "decode": {
            "tokens": decode.tokens,
            "context": plan.cached + plan.prompt,
            "attended": attended(config, plan.cached + plan.prompt, plan.kv_budget),
            "cycles_per_token": decode.cycles / decode.tokens if decode.tokens else None,
            "tok_s": decode.tokens * hertz / decode.cycles if decode.cycles else None,
            "tok_s_each": len(decode.results) * hertz / decode.cycles if decode.cycles else None,
            # Both against a beat a cycle, whatever the number of ports.
            "port_utilisation": decode.count("stream_beats") / decode.cycles if decode.cycles else None,
            "port_limit_tok_s": decode.tokens * hertz / decode.count("stream_beats") if decode.cycles else None,
            "bytes_per_token": decode.count("stream_beats") * config.beat_bytes / decode.tokens if decode.tokens else None,
            "passes": [r.cycles for r in decode.results],
            **phase_summary(decode, config),
        },
        "by_operator": _by_operator(prefill.results + decode.results),
        "stalls": _stalls(prefill.results + decode.results),
        "build_s": bench.device.build_seconds,
        "wall_s": wall,
        "cycles_per_wall_second": cycles / wall if wall else None,
    }
    if plan.timeline is not None:
        result["timeline"] = bench.write_timeline(plan.timeline)
    return result


def describe_bench(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    prefill, decode = result["prefill"], result["decode"]
    at = f"simulated, {result['clock_mhz']:g} MHz"
    whole = result["layers"] == result["layers_full"]
    layers = "all layers" if whole else f"A QUICK LOOK: {result['layers']} of {result['layers_full']} layers"
    lines = [f"{result['shape']} on {result['board']}, {layers}, {result['head']} head, random weights of seed {result['seed']}"]
    if prefill["cycles"]:
        lines.append(
            f"prefill  {prefill['tokens']} tokens behind {result['cached']}: {prefill['cycles']:,} cycles, time to first token "
            f"{prefill['ttft_s']:.4f} s, {prefill['tok_s']:.1f} tokens/s, engine used {prefill['mac_utilisation']:.1%} ({at})"
        )
    if decode["tokens"]:
        number = result["sequences"]
        shared = "" if number == 1 else f"of {number} sequences, {decode['tok_s_each']:.2f} tokens/s each, "
        lines.append(
            f"decode   {decode['tokens']} tokens {shared}at {context_text(decode)}: "
            f"{decode['cycles_per_token']:,.0f} cycles a token, "
            f"{decode['tok_s']:.2f} tokens/s ({at}); a beat in {decode['port_utilisation']:.1%} of the cycles, "
            f"port limit (one in every cycle) {decode['port_limit_tok_s']:.2f} tokens/s"
        )
    lines.append(describe_memory(result["memory"]))
    for title, phase in (("prefill", prefill), ("decode", decode)):
        for what in ("by_operator", "stalls"):
            ranked = sorted(phase[what].items(), key=lambda item: -item[1])
            text = ", ".join(f"{name} {cycles:,}" for name, cycles in ranked if cycles)
            if text:
                lines.append(f"{title} {what.replace('_', ' ')}: {text}")
    checked = {"none": "nothing", "outputs": "hidden state, logits and cache", "full": "every operator"}[result["checked"]]
    lines.append(f"checked against golden: {checked}; {result['compared']:,} elements, {result['mismatches']:,} mismatches")
    if result["first_mismatch"]:
        lines.append(f"first mismatch: {result['first_mismatch']}")
    lines.append(
        f"wall     build {result['build_s']:.0f} s, run {result['wall_s']:.0f} s, "
        f"{result['cycles_per_wall_second']:,.0f} cycles/s"
    )
    if "timeline" in result:
        files = ", ".join(result["timeline"])
        lines.append(f"timeline {files}; open timeline.json at https://ui.perfetto.dev (it stays in your browser)")
    return lines
