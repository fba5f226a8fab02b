"""``hwgen explore``: configurations of a board for one model, by the analytic models of cycles and resources.

A local search over the Pareto front: from a coarse grid, every configuration that no other one dominates is changed in one
parameter at a time, until nothing new joins the front. Configurations that are illegal or larger than the planning ceilings
are never timed. Where one machine is not enough, `dask.distributed` offers the same executor interface as the local processes.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...boards import Board
from ...config import BuildConfig, ConfigError
from ...errors import HwgenError
from ...files import write_whole
from ...packages import needs
from ...published import PUBLISHED
from ...shape import ModelShape
from ...sim.board_timing import USUAL
from ..compiler.pass_model import Calibration, PassModel
from ..models.config_json import read_config, unsupported
from ..models.families import family_of_config
from ..models.library import find_model
from .area_model import CEILINGS, estimate_resources
from .estimate import calibration_of
from .search_space import Point, Workload, build_of, neighbours, seeds

__all__ = [
    "Candidate", "choose", "describe_exploration", "draw_front", "explore", "explore_json", "model_shape", "open_executor",
    "pareto_front", "time_passes", "write_config",
]

#: Layers, and rows of the LM head, that are timed; the rest follows on a straight line.
_LAYERS = (2, 3)
_ROWS = (4096, 8192)

#: Configurations whose objectives differ by less than this count as one.
_RESOLUTION = 0.01

#: Share by which an answer may take longer than the fastest, for fewer look-up tables.
_SAME_ANSWER = 0.002

#: Seconds in which a Dask scheduler must answer.
_DASK_TIMEOUT = 10

#: Front members whose neighbours are timed before the front is looked at again.
_BATCH = 4


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration with what the models say of it."""

    config: BuildConfig
    decode_tok_s: float
    ttft_s: float
    resources: dict[str, float] = field(compare=False)

    @property
    def lut(self) -> int:
        return round(self.resources["lut"])

    @property
    def costs(self) -> tuple[float, float, float]:
        """All to be made small."""
        return 1 / self.decode_tok_s, self.ttft_s, self.resources["lut"]

    @property
    def cell(self) -> tuple[int, ...]:
        """Costs in steps of the resolution."""
        return tuple(math.floor(math.log(cost) / math.log1p(_RESOLUTION)) for cost in self.costs)

    def to_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "decode_tok_s": self.decode_tok_s,
            "ttft_s": self.ttft_s,
            "lut": self.lut,
            "resources": {kind: round(value, 1) for kind, value in self.resources.items()},
        }


#: Published shapes that can be explored.
TERNARY_SHAPES = [name for name, model in PUBLISHED.items() if model.engine == "ternary"]


def model_shape(name: str) -> ModelShape:
    """Sizes of a published shape, a shipped model or a model directory."""
    if name in PUBLISHED and name not in TERNARY_SHAPES:
        raise HwgenError(
            "usage", f"{name} needs the INT4 engine, and explore knows the resources of ternary builds alone",
            f"use `hwgen estimate --shape {name}` and `hwgen report --engine int4`, with --set",
        )
    if name in PUBLISHED:
        return PUBLISHED[name].shape
    try:
        config = read_config(find_model(name))
        family = family_of_config(config)
        if family.engine != "ternary":
            raise unsupported("model_type", config.get("model_type"), "models with ternary matrices")
        return family.loader().read_shape(config)
    except HwgenError as error:
        if error.kind == "checkpoint" and not Path(name).exists():
            raise HwgenError("usage", f"{name!r} is neither a published shape nor a model",
                             f"use one of: {', '.join(TERNARY_SHAPES)}; or a shipped model or model directory") from error
        raise


# ---- timing ----------------------------------------------------------------------------------------------------------
def time_prompt(model: PassModel, prompt: int) -> float:
    """Cycles of all passes of a prompt. Of the full ones the first has no cache to read, and the others need ever more of it
    at the same rate: the second and the last tell."""
    whole, rest = divmod(prompt - 1, model.chunk)

    def full(number: int) -> float:
        return model.run(model.chunk, number * model.chunk, wanted=0).cycles

    cycles = model.run(rest + 1, whole * model.chunk).cycles
    if whole:
        cycles += full(0)
    if whole > 1:
        second = full(1)
        cycles += (whole - 1) * (second + (full(whole - 1) if whole > 2 else second)) / 2
    return cycles


def time_passes(config: BuildConfig, work: Workload, calibration: Calibration) -> tuple[float, float]:
    """Cycles of one decoded token and of the prompt. Layers are alike, and so are rows of the exact LM head: shallow models with
    small vocabularies tell what each of them takes."""
    shape = work.shape
    rows = _ROWS if work.head == "exact" and shape.vocab > _ROWS[-1] else (shape.vocab,)
    depths = _LAYERS if shape.layers > _LAYERS[-1] else (shape.layers,)

    def model(layers: int, vocab: int) -> PassModel:
        sized = replace(shape, layers=layers, vocab=vocab)
        return PassModel(config, sized, head=work.head, kv=work.kv, calibration=calibration)

    def decoded(of: PassModel) -> float:
        return of.run(1, work.prompt, budget=work.kv_budget).cycles

    least = model(depths[0], rows[0])
    decode, prompt = decoded(least), time_prompt(least, work.prompt)
    more_decode = more_prompt = 0.0
    if len(depths) > 1:
        deeper, share = model(depths[1], rows[0]), (shape.layers - depths[0]) / (depths[1] - depths[0])
        more_decode += share * (decoded(deeper) - decode)
        more_prompt += share * (time_prompt(deeper, work.prompt) - prompt)
    if len(rows) > 1:
        head = (shape.vocab - rows[0]) / (rows[1] - rows[0]) * (decoded(model(depths[0], rows[1])) - decode)
        more_decode, more_prompt = more_decode + head, more_prompt + head
    return decode + more_decode, prompt + more_prompt


def evaluate(task: tuple[BuildConfig, Workload, Calibration]) -> Candidate | None:
    """Time one configuration; None where the model does not fit it. Runs in a worker."""
    config, work, calibration = task
    try:
        decode, prompt = time_passes(config, work, calibration)
    except (ConfigError, HwgenError):
        return None
    hertz = config.clock_mhz * 1e6
    return Candidate(
        config=config, decode_tok_s=hertz / decode, ttft_s=prompt / hertz, resources=estimate_resources(config).total
    )


@contextmanager
def open_executor(workers: int | None = None, dask: str | None = None) -> Iterator[Executor]:
    """Local processes, or the workers of the Dask scheduler at address ``dask`` (each needs hwgen installed)."""
    if dask is None:
        with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
            yield pool
        return
    with needs("--dask", "hwgen[cluster]"):
        client_of: Any = importlib.import_module("distributed").Client  # has no type information
    try:
        client = client_of(dask, timeout=_DASK_TIMEOUT)
    except (OSError, ValueError) as error:
        raise HwgenError("tool", f"no Dask scheduler answers at {dask}: {error}", "start one with `dask scheduler`") from error
    with client:
        yield client.get_executor()


# ---- search ----------------------------------------------------------------------------------------------------------
def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates that no other one dominates, fastest decoding first; of those in one cell of the resolution the cheapest."""
    cells: dict[tuple[int, ...], Candidate] = {}
    for candidate in candidates:
        held = cells.get(candidate.cell)
        if held is None or candidate.costs[::-1] < held.costs[::-1]:
            cells[candidate.cell] = candidate
    front = [
        candidate
        for cell, candidate in cells.items()
        if not any(other != cell and all(a <= b for a, b in zip(other, cell, strict=True)) for other in cells)
    ]
    return sorted(front, key=lambda c: c.costs)


def choose(front: Sequence[Candidate], new_tokens: int) -> Candidate:
    """The candidate whose answer of ``new_tokens`` tokens is whole first; of those within the resolution the one of fewest LUT."""
    def answer(c: Candidate) -> float:
        return c.ttft_s + new_tokens / c.decode_tok_s

    limit = (1 + _SAME_ANSWER) * min(map(answer, front))
    return min((c for c in front if answer(c) <= limit), key=lambda c: (c.resources["lut"], c.costs))


@dataclass(frozen=True)
class Exploration:
    """What a search found."""

    evaluated: int
    front: list[Candidate]
    chosen: Candidate


def explore(
    board: Board,
    work: Workload,
    *,
    executor: Executor,
    limit: int = 1000,
    progress: Callable[[str], None] = lambda text: None,
) -> Exploration:
    """Search until the front stands still or ``limit`` configurations have been timed, all with the memory of ``board`` as usual.
    Does not depend on the workers."""
    if not board.available:
        raise HwgenError("configuration", f"board {board.name!r} names no device, so nothing bounds the search",
                         'give a board whose board.json has a part and its "available" resources')
    calibration = calibration_of(board, USUAL)
    known: dict[Point, Candidate | None] = {}
    evaluated = 0

    def time_all(points: Iterable[Point]) -> None:
        nonlocal evaluated
        new: dict[BuildConfig, Point] = {}
        for point in points:
            if point in known or evaluated + len(new) >= limit:
                continue
            known[point] = None
            config = build_of(board, work, point)
            if config is not None:
                new.setdefault(config, point)
        evaluated += len(new)
        if not new:
            return
        for point, candidate in zip(new.values(), executor.map(evaluate, [(c, work, calibration) for c in new]), strict=True):
            known[point] = candidate

    time_all(seeds(board))
    expanded: set[Point] = set()
    while True:
        points = {candidate: point for point, candidate in known.items() if candidate is not None}
        front = pareto_front(points.keys())
        if not front:
            break
        # Towards the choice first.
        best = choose(front, work.new_tokens)
        todo = [c for c in sorted(front, key=lambda c: (c is not best, c.costs)) if points[c] not in expanded][:_BATCH]
        progress(f"{evaluated} configurations timed, {len(front)} on the front, best {best.decode_tok_s:.1f} tokens/s")
        if not todo or evaluated >= limit:
            return Exploration(evaluated, front, best)
        expanded |= {points[c] for c in todo}
        time_all(n for c in todo for n in neighbours(points[c]))
    ceilings = ", ".join(f"{share:.0%} {kind}" for kind, share in CEILINGS.items())
    raise HwgenError("configuration", f"no configuration of board {board.name!r} holds the model within the ceilings {ceilings}",
                     "use a larger device or a smaller model")


# ---- results ---------------------------------------------------------------------------------------------------------
def write_config(path: Path, config: BuildConfig) -> None:
    """The file that ``--config`` takes."""
    write_whole(path, json.dumps(config.to_dict(), indent=2) + "\n")


def explore_json(
    board: Board, model: str, work: Workload, found: Exploration, also: Sequence[str] = ()
) -> dict[str, Any]:
    """What ``hwgen explore --json`` prints."""
    return {
        "board": board.name,
        "model": model,
        "prompt": work.prompt,
        "new_tokens": work.new_tokens,
        "head": work.head,
        "kv": work.kv,
        "kv_budget": work.kv_budget,
        "also": list(also),
        "keep_maxima": work.keep_maxima,
        "estimated": True,
        "ceilings": CEILINGS,
        "available": board.available,
        "evaluated": found.evaluated,
        "front": [c.to_dict() for c in found.front],
        "chosen": found.chosen.to_dict(),
    }


def describe_exploration(result: dict[str, Any]) -> list[str]:
    """The front as a table, and the choice."""
    names = ("groups", "lanes", "rows", "beat_vectors", "builders", "query_lanes", "chunk", "ring_beats", "panel_rows")
    head = f"  {'tokens/s':>9}{'first token':>13}{'LUT':>9}  " + "".join(f"{name:>13}" for name in names)
    lines = [f"{result['model']} on {result['board']}, {result['prompt']} prompt tokens, {result['kv']} cache (estimated)", head]
    for row in result["front"]:
        mark = "*" if row == result["chosen"] else " "
        lines.append(f"{mark} {row['decode_tok_s']:>9.2f}{row['ttft_s']:>11.4f} s{row['lut']:>9,}  "
                     + "".join(f"{row['config'][name]:>13,}" for name in names))
    chosen = result["chosen"]
    used = ", ".join(f"{kind} {chosen['resources'][kind] / result['available'][kind]:.0%}"
                     for kind in CEILINGS if result["available"].get(kind))
    lines.append(f"* chosen of {result['evaluated']} timed configurations: {chosen['decode_tok_s']:.2f} tokens/s, "
                 f"first token after {chosen['ttft_s']:.4f} s; {used} of the device (estimated)")
    return lines


def draw_front(result: dict[str, Any], path: Path) -> None:
    """Draw the front: tokens a second against time to first token, coloured by look-up tables."""
    with needs("drawing", "hwgen[plot]"):
        import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    front, chosen = result["front"], result["chosen"]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    dots = axes.scatter(
        [row["decode_tok_s"] for row in front], [row["ttft_s"] for row in front], c=[row["lut"] / 1000 for row in front], s=24
    )
    axes.scatter([chosen["decode_tok_s"]], [chosen["ttft_s"]], marker="o", s=120, facecolors="none", edgecolors="black")
    axes.annotate("chosen", (chosen["decode_tok_s"], chosen["ttft_s"]), textcoords="offset points", xytext=(-8, 10), ha="right")
    axes.set(xlabel="decode (tokens/s)", ylabel=f"time to first token, {result['prompt']} tokens (s)", yscale="log",
             title=f"{result['model']} on {result['board']} (estimated)")
    figure.colorbar(dots, label="thousand LUT")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
