"""A plan of published models on boards: the costs of their passes, the table and the plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...boards import Board
from ...files import replacing
from ...packages import needs
from ...published import published_model
from ...sim.board_timing import USUAL, MemoryConditions
from ..compiler.pass_costs import WALKED
from ..compiler.pass_model import PassModel
from ..runtime.kv_arrays import with_cache_tokens
from .estimate import calibration_of, planned_image
from .plan import Arrival, Costs, PlannedEngine, policies, run_plan, summary

__all__ = ["describe_plan", "draw_plan", "plan_json", "planned_costs"]


#: Beats of the ring that are looked at together: coarser than for one pass, of which plans want hundreds.
STEP = 1024


def planned_costs(board: Board, shape_name: str, head: str, memory: MemoryConditions, host: float) -> Costs:
    """Passes of a published model on a board by the pass model; ``host``: seconds of the host around each. A few layers are walked,
    and those beyond cost what the last of them costs.
    """
    config, published = board.config, published_model(shape_name)
    layers = published.shape.layers

    def walked(number: int) -> PassModel:
        model = PassModel(
            config, replace(published.shape, layers=number), head=head, engine=published.engine,
            calibration=calibration_of(board, memory),
        )
        model.step = STEP
        return model

    few = walked(min(layers, WALKED))
    fewer = walked(WALKED - 1) if layers > WALKED else few
    hertz = config.clock_mhz * 1e6

    def cost(tokens: tuple[int, ...], position: int, wanted: int) -> float:
        runs = [(position, count) for count in tokens]
        most = few.run_runs(runs, wanted).cycles
        layer = most - fewer.run_runs(runs, wanted).cycles
        return (most + (layers - WALKED) * layer if layers > WALKED else most) / hertz

    return Costs(cost, host)


def plan_json(
    board: Board, shape_name: str, arrivals: Sequence[Arrival], names: Sequence[str], *, boards: int, head: str,
    context: int | None, contexts: int, sessions: int, time_between_tokens: float, waiting: int, host: float,
    memory: MemoryConditions = USUAL,
) -> dict[str, Any]:
    """What ``hwgen plan --json`` prints. ``contexts``: contexts that the KV cache of a board holds."""
    published = published_model(shape_name)
    image = planned_image(board.config, published.shape, published.engine, head, context)
    image = with_cache_tokens(image, contexts * image.context)
    costs = planned_costs(board, shape_name, head, memory, host)
    found = {}
    for name in names:
        engines = [PlannedEngine(image, costs) for _ in range(boards)]
        found[name] = summary(*run_plan(engines, policies(sessions, time_between_tokens)[name], arrivals, waiting))
    span = max((a.at for a in arrivals), default=0.0)
    return {
        "shape": shape_name, "board": board.name, "boards": boards, "head": head, "clock_mhz": board.config.clock_mhz,
        "estimated": True, "context": image.context, "sessions": sessions, "time_between_tokens": time_between_tokens,
        "host_s": host,
        "requests": len(arrivals), "seconds": span, "rate": len(arrivals) / span if span else None,
        "prompt_tokens": sum(a.prompt for a in arrivals), "answer_tokens": sum(a.new for a in arrivals),
        "decode_s": costs.of([(min(256, image.context - 1), 1)], 1), "policies": found,
    }


def describe_plan(result: dict[str, Any]) -> list[str]:
    """The plan for people."""
    count = result["requests"]
    lines = [
        f"{result['shape']} on {result['boards']} x {result['board']}, {result['head']} head; everything is estimated, at "
        f"{result['clock_mhz']:g} MHz and {1e3 * result['host_s']:.2f} ms of the host around a pass",
        f"{count} requests in {result['seconds']:.0f} s, {result['prompt_tokens'] / count:.0f} tokens in and "
        f"{result['answer_tokens'] / count:.0f} out; a new token alone takes {1e3 * result['decode_s']:.1f} ms",
        f"{'':14}{'tokens/s':>9}{'busy':>7}   {'first token, s':^26}   {'between tokens, ms':^26}",
        f"{'':14}{'':9}{'':7}   {'p50':>8}{'p95':>9}{'p99':>9}   {'p50':>8}{'p95':>9}{'p99':>9}",
    ]
    for name, found in result["policies"].items():
        if not found["answered"]:
            lines.append(f"{name:14}no request was answered: {found['refusal']}")
            continue
        cells = [f"{v:{8 if i == 0 else 9}.2f}" for i, v in enumerate(found["first_token_s"].values())]
        gaps = ["-".rjust(8 if i == 0 else 9) if v is None else f"{1e3 * v:{8 if i == 0 else 9}.1f}"
                for i, v in enumerate(found["between_tokens_s"].values())]
        lines.append(f"{name:14}{found['tok_s']:9.1f}{found['busy']:7.0%}   {''.join(cells)}   {''.join(gaps)}")
        if found["refused"]:
            lines.append(f"{'':14}{found['refused']} refused: {found['refusal']}")
    late = [name for name, found in result["policies"].items() if found["answered"] and found["behind_s"] > result["seconds"] / 4]
    if late:
        behind = max(result["policies"][name]["behind_s"] for name in late)
        lines.append(
            f"more comes than these boards answer ({', '.join(late)}): the last answer ends {behind:.0f} s behind the last request"
        )
    return lines


def draw_plan(path: Path, result: dict[str, Any]) -> None:
    """Share of the requests whose first token came within a time, a line a policy; the format follows the name of ``path``."""
    with needs("drawing", "hwgen[plot]"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, found in result["policies"].items():
        firsts = found["first_tokens"]
        if firsts:
            axes.step([0, *firsts], [i / len(firsts) for i in range(len(firsts) + 1)], where="post", label=name)
    axes.set(xlabel="seconds to the first token (estimated)", ylabel="share of the requests", ylim=(0, 1.02), xlim=(0, None))
    axes.set_title(
        f"{result['shape']} on {result['boards']} x {result['board']}: {result['requests']} requests in {result['seconds']:.0f} s",
        loc="left", fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=150)
