"""``hwgen bench --device pynq``: the passes of the bench on a board; what was measured beside what simulation and estimate say.

Nothing is compared with golden here, which takes torch: ``hwgen selftest`` does that with recorded answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ...boards import Board
from ...contract import contract_hash
from ...errors import HwgenError
from ...published import published_model
from ...sim.board_timing import memory_json
from ..compiler.compile import compile_model
from ..compiler.image import Image
from ..compiler.image_file import CompiledModel
from ..devices.device import Device
from ..devices.power import EnergyMeter, sensor_of, why_no_energy
from ..models.random_model import random_model
from ..runtime.engine import Engine, PassResult
from ..runtime.pages import Session
from .bench import Bench, BenchPlan, Phase
from .estimate import calibration_of, estimate_model

__all__ = ["BoardBench", "describe_board_bench", "read_simulated", "run_board_bench"]

#: Keys of what is stated of both phases, in every column.
FIGURES = ("cycles", "tok_s", "port_utilisation")


class BoardBench(Bench):
    """Passes on an open board. Time by the host's clock and energy are those of a whole phase."""

    def __init__(
        self,
        board: Board,
        plan: BenchPlan,
        compiled: CompiledModel | None,
        simulated: dict[str, Any] | None,
        open_board: Callable[[int], Device],
        progress: Callable[[str], None],
    ) -> None:
        self.board, self.plan, self.progress = board, plan, progress
        self.golden, self.traces = None, {}
        if compiled is None:
            self.layers_full = published_model(plan.shape).shape.layers
            if plan.layers is not None and plan.layers > self.layers_full:
                raise HwgenError("usage", f"--layers must be at most {self.layers_full}, not {plan.layers}", "give fewer layers")
            progress("drawing and packing random weights")
            model: Any = random_model(plan.shape, plan.seed, plan.layers, plan.kv)
            self.image = compile_model(board.config, model, name=plan.shape, head=plan.head, progress=progress)
        else:
            self.image, self.layers_full = compiled.image, compiled.image.shape.layers
        needed = plan.cached + plan.prompt + plan.decode
        if needed > self.image.context:
            raise HwgenError(
                "context", f"{needed} tokens are longer than the context of {self.image.context} tokens", "use a shorter prompt"
            )
        if simulated is not None:
            check_same(board, plan, self.image, simulated)
        self.opened = open_board(self.image.contiguous_bytes)
        self.engine, session = Engine(self.opened, self.image), Session()
        self.sessions = [session]
        if plan.cached:
            self._fill_cache(plan.cached, 0, session, session)
        self._phase, self._running = "", ExitStack()
        #: Seconds by the host's clock, and the meter, by phase.
        self.seconds: dict[str, float] = {"prefill": 0.0, "decode": 0.0}
        sensor = sensor_of(self.opened)
        self.meters = {name: EnergyMeter(sensor) for name in self.seconds}
        self.no_energy = None if sensor else why_no_energy(self.opened)

    def _pass(self, what: str, parts: Sequence[tuple[int, Sequence[int], int]]) -> PassResult:
        phase = "prefill" if what.startswith("prompt") else "decode"
        if phase != self._phase:
            self._running.close()
            self._running.enter_context(self.meters[phase])
            self._phase = phase
        begin = time.monotonic()
        result = super()._pass(what, parts)
        self.seconds[phase] += time.monotonic() - begin
        return result

    def run(self) -> tuple[Phase, Phase]:
        with self._running:
            return super().run()


def read_simulated(path: Path) -> dict[str, Any]:
    """The result of ``hwgen bench --json`` in a file."""
    fix = "give the output of `hwgen bench --json` with the same options on a computer"
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("shape", "config", "layers", "head", "cached"):
            result[key]
        result["prefill"]["tokens"], result["decode"]["tokens"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HwgenError("usage", f"--simulated {path} is not the result of a bench: {error!r}", fix) from error
    if not result.get("simulated"):
        raise HwgenError("usage", f"--simulated {path} is the result of a board", fix)
    return result


#: What of a model's sizes decides over its cycles.
SIZES = ("hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "activation")


def check_same(board: Board, plan: BenchPlan, image: Image, simulated: dict[str, Any]) -> None:
    """Refuse to compare with passes of other sizes. A compiled model may have any name."""
    shape, published = image.shape, published_model(str(simulated["shape"])).shape
    for name, ours, theirs in (
        *((f"{name} of the model", getattr(shape, name), getattr(published, name)) for name in SIZES),
        ("layers", shape.layers, simulated["layers"]),
        ("configuration", board.config.to_dict(), simulated["config"]),
        ("head", plan.head, simulated["head"]),
        ("tokens cached", plan.cached, simulated["cached"]),
        ("blocks chosen", plan.kv_budget, simulated.get("kv_budget", 0)),
        ("prompt tokens", plan.prompt, simulated["prefill"]["tokens"]),
        ("new tokens", plan.decode, simulated["decode"]["tokens"]),
    ):
        if ours != theirs:
            what = name if isinstance(ours, dict) else f"{name} {theirs}, here {ours}"
            raise HwgenError("usage", f"--simulated is of another run: {what}", "simulate with the options of this one")


def _figures(tokens: int, cycles: float, beats: float, hertz: float) -> dict[str, float | None]:
    """Of a phase: cycles, tokens a second at the fabric clock, share of the cycles in which a beat came."""
    if not tokens:
        return dict.fromkeys(FIGURES)
    return {"cycles": cycles, "tok_s": tokens * hertz / cycles, "port_utilisation": beats / cycles}


def _measured(bench: BoardBench, name: str, phase: Phase) -> dict[str, Any]:
    seconds, device = bench.seconds[name], bench.opened
    figures = _figures(phase.tokens, phase.cycles, phase.count("stream_beats"), bench.board.config.clock_mhz * 1e6)
    return {
        "tokens": phase.tokens, **figures, "wall_s": seconds,
        # of a simulated board this says how quick the simulator is
        "wall_tok_s": phase.tokens / seconds if seconds and not device.simulated else None,
        "energy": bench.meters[name].to_dict(phase.tokens),
    }


def _estimated(bench: BoardBench) -> dict[str, dict[str, float | None]]:
    plan, config, image = bench.plan, bench.board.config, bench.image
    estimate = estimate_model(
        config, image.shape, plan.prompt, plan.decode, cached=plan.cached, head=plan.head, kv=image.kv, kv_budget=plan.kv_budget,
        engine=image.engine, calibration=calibration_of(bench.board, plan.memory),
    )

    def column(tokens: int, passes: Sequence[Any]) -> dict[str, float | None]:
        cycles, beats = sum(p.cycles for p in passes), sum(p.stream_beats for p in passes)
        return _figures(tokens, round(cycles), beats, config.clock_mhz * 1e6)

    return {"prefill": column(plan.prompt, estimate.prefill), "decode": column(plan.decode, estimate.decode)}


def _simulated(result: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    prefill, decode = result["prefill"], result["decode"]
    return {
        "prefill": {"cycles": prefill["cycles"] or None, "tok_s": prefill["tok_s"], "port_utilisation": None},
        "decode": {
            "cycles": sum(decode["passes"]) or None, "tok_s": decode["tok_s"], "port_utilisation": decode["port_utilisation"],
        },
    }


def run_board_bench(
    board: Board,
    plan: BenchPlan,
    open_board: Callable[[int], Device],
    *,
    compiled: CompiledModel | None = None,
    simulated: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a plan on the board that ``open_board`` opens with so many bytes of contiguous memory; the object that ``hwgen bench
    --device pynq --json`` prints. ``compiled``: a model in place of random weights. ``simulated``: the result of a bench.
    """
    bench = BoardBench(board, plan, compiled, simulated, open_board, progress)
    prefill, decode = bench.run()
    config, device = board.config, bench.opened
    result = {
        "shape": bench.image.name, "board": board.name, "config": config.to_dict(), "clock_mhz": config.clock_mhz,
        "contract_hash": f"{contract_hash(config):016x}", "device": device.name, "simulated": device.simulated,
        "layers": bench.image.shape.layers, "layers_full": bench.layers_full, "head": plan.head, "kv_budget": plan.kv_budget,
        "cached": plan.cached,
        "seed": plan.seed, "weights": "random" if compiled is None else str(compiled.path), "context": plan.cached + plan.prompt,
        "measured_mhz": getattr(device, "measured_mhz", None),
        "prefill": _measured(bench, "prefill", prefill), "decode": _measured(bench, "decode", decode),
        "beside": {"estimated": _estimated(bench), "simulated": None if simulated is None else _simulated(simulated)},
        "memory": memory_json(board, plan.memory), "no_energy": bench.no_energy,
    }
    if plan.timeline is not None:
        result["timeline"] = bench.write_timeline(plan.timeline)
    return result


# ---- for people ------------------------------------------------------------------------------------------------------
def _rows(result: dict[str, Any], columns: dict[str, dict[str, Any]]) -> list[str]:
    width = max(16, *(2 + len(name) for name in columns))
    lines = [f"{'':30}" + "".join(f"{name:>{width}}" for name in columns)]
    for phase in ("prefill", "decode"):
        tokens = result[phase]["tokens"]
        if not tokens:
            continue
        for title, key, form in (
            ("cycles", "cycles", "{:,.0f}"), ("tokens/s", "tok_s", "{:.2f}"), ("cycles with a beat", "port_utilisation", "{:.1%}"),
        ):
            values = [column[phase][key] for column in columns.values()]
            texts = ["-" if value is None else form.format(value) for value in values]
            lines.append(f"{f'{phase} {tokens}: {title}':30}" + "".join(f"{text:>{width}}" for text in texts))
    return lines


def describe_board_bench(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    where = "a virtual board: simulated" if result["simulated"] else "the board: measured"
    whole = result["layers"] == result["layers_full"]
    layers = "all layers" if whole else f"A QUICK LOOK: {result['layers']} of {result['layers_full']} layers"
    weights = f"random weights of seed {result['seed']}" if result["weights"] == "random" else result["weights"]
    lines = [f"{result['shape']} on {result['board']}, {where}; {layers}, {result['head']} head, {weights}"]
    columns = {"virtual board" if result["simulated"] else "measured": result}
    columns |= {name: column for name, column in reversed(result["beside"].items()) if column is not None}
    lines += _rows(result, columns)
    measured = f", {result['measured_mhz']:.1f} MHz as measured" if result["measured_mhz"] else ""
    lines.append(f"tokens/s of cycles at {result['clock_mhz']:g} MHz{measured}; decode at context {result['context']}")
    for phase in ("prefill", "decode"):
        found, energy = result[phase], result[phase]["energy"]
        if found["wall_tok_s"]:
            lines.append(f"{phase:8} {found['wall_tok_s']:.2f} tokens/s by the host's clock, its own work included")
        if energy and energy["joules_per_token"]:
            lines.append(
                f"{phase:8} {energy['joules_per_token']:.3f} J a token, {energy['joules']:.2f} J in {energy['seconds']:.1f} s "
                f"({energy['sensor']}: {energy['measures']})"
            )
    if not any(result[phase]["energy"] for phase in ("prefill", "decode")):
        lines.append(f"energy   not measured: {result['no_energy'] or 'the sensor did not answer'}")
    return lines
