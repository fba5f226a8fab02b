"""Options that several commands have: the parser, board and build configuration, workload, sampling."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from ...boards import Board, board_names, load_board
from ...config import ENGINES, BuildConfig, ConfigError
from ...errors import HwgenError, did_you_mean
from ...published import PUBLISHED
from ...shape import ModelShape
from ..compiler.image_file import CompiledModel, check_same_build, is_image_file, load_image
from ..devices.verilator import Waves
from ..models.model import Model
from ..models.open import open_model
from ..runtime.drafts import DRAFTS
from ..runtime.sampling import Sampling
from ..runtime.scheduler import TIME_BETWEEN_TOKENS
from .kv_cache import check_kv, with_kv
from .output import Output

__all__ = [
    "MODEL_HELP",
    "Parser",
    "add_board",
    "add_context",
    "add_device",
    "add_draft",
    "add_head",
    "add_sampling",
    "add_time_between_tokens",
    "add_waves",
    "add_workload",
    "at_least",
    "check_port",
    "configured_board",
    "device_options",
    "opened_model",
    "sampling_of",
    "shortened",
    "time_between_tokens",
    "waves_of",
]


#: What a model may be where it is run.
MODEL_HELP = "shipped or added name, directory in Hugging Face layout, GGUF file, or .hwimage of hwgen compile"

#: Cycles of waves where nothing else is asked for.
WAVE_CYCLES = 20_000

#: Board of a command that says no other.
DEFAULT_BOARD = "demo"


class Parser(argparse.ArgumentParser):
    """Reports wrong usage as the same kind of error as everything else."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            hint = did_you_mean(choice[1], choice[2].replace("'", "").split(", "))
        raise HwgenError("usage", message, f"{hint}see `{self.prog} --help`")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            prog, known = getattr(options, "usage_of", (self.prog, self.format_help))
            wrong = next((a for a in unknown if a.startswith("-")), unknown[0])
            names = re.findall(r"(?<!\w)--?\w[\w-]*", known())
            hint = "write it behind the command; " if wrong in names else did_you_mean(wrong.partition("=")[0], names)
            raise HwgenError("usage", f"unrecognized arguments: {' '.join(unknown)}", f"{hint}see `{prog} --help`")
        return options


def at_least(options: argparse.Namespace, name: str, least: int) -> int:
    """The value of the option ``--name``; one below ``least`` is refused."""
    value = int(getattr(options, name.replace("-", "_")))
    if value < least:
        raise HwgenError("usage", f"--{name} must be at least {least}, not {value}", f"give {least} or more")
    return value


def check_port(port: int, fix: str) -> None:
    """Refuse a value of ``--port`` that is no port; 0 is any free one."""
    if not 0 <= port < 1 << 16:
        raise HwgenError("usage", f"--port must be 0 to 65535, not {port}", fix)


# ---- workload ----------------------------------------------------------------------------------------------------
def add_workload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="bitnet-0.73b", help=f"published sizes: {', '.join(PUBLISHED)}")
    parser.add_argument("--prompt", type=int, default=128, metavar="P", help="prompt tokens to prefill; 0 is none")
    parser.add_argument("--decode", type=int, default=4, metavar="N", help="tokens to decode")
    parser.add_argument(
        "--cached", type=int, default=0, metavar="C", help="tokens of context (random keys and values) before the prompt"
    )
    parser.add_argument(
        "--sequences", type=int, default=1, metavar="N",
        help="answers that share every pass of decoding, each behind --cached tokens of its own",
    )


def sequences_of(options: argparse.Namespace, prompt: int) -> int:
    """How many answers share a pass of decoding; prompts are of one."""
    sequences = at_least(options, "sequences", 1)
    if sequences > 1 and prompt:
        raise HwgenError("usage", "--sequences share passes of decoding, a --prompt is of one", "add --prompt 0 --cached C")
    return sequences


def add_head(parser: argparse.ArgumentParser, default: str | None = "exact") -> None:
    """``default`` None: the head of an image, or the exact one."""
    from ..compiler.compile import HEADS

    other = "" if default else " (that of an image, else exact)"
    parser.add_argument(
        "--head",
        default=default,
        choices=HEADS,
        help=f"LM head: exact logits of all rows, or ternary scores of all rows and logits of the best blocks{other}",
    )


def add_context(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context", type=int, metavar="N", help="longest context in tokens (that of model and build if not given)"
    )


def shortened(options: argparse.Namespace, shape: ModelShape) -> ModelShape:
    """A shape with the context of ``--context``, if that is given."""
    if options.context is None:
        return shape
    context = at_least(options, "context", 1)
    if context > shape.max_context:
        raise HwgenError(
            "usage", f"--context must be at most {shape.max_context}, the positions that the model knows, not {context}",
            "give a shorter --context",
        )
    return replace(shape, max_context=context)


# ---- sampling ----------------------------------------------------------------------------------------------------
def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K best tokens; 0 is all")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the best tokens of total probability P")
    parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="draw from tokens P times as likely as the best")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none")
    for name, what in (("presence", "that the answer has"), ("frequency", "for each time that the answer has it")):
        parser.add_argument(f"--{name}-penalty", type=float, default=0.0, metavar="R", help=f"off the logit of a token {what}")
    parser.add_argument("--seed", type=int, default=0, help="of the random draw")


def add_draft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--draft", choices=DRAFTS, default=DRAFTS[0],
        help="guess what follows, where that costs no time: from what followed in the text before, or not (answers are the same)",
    )
    parser.add_argument(
        "--draft-model", metavar="MODEL",
        help="guess by a smaller model of the same tokens, which shares the device (answers are the same)",
    )


def add_time_between_tokens(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--time-between-tokens", type=float, default=TIME_BETWEEN_TOKENS, metavar="X",
        help="longest pass of answers while prompts wait: X times a pass of a single token, by estimated cycles",
    )


def time_between_tokens(options: argparse.Namespace) -> float:
    """The value of the option of :func:`add_time_between_tokens`."""
    value = float(options.time_between_tokens)
    if not value >= 1:
        raise HwgenError("usage", f"--time-between-tokens must be at least 1, not {value}", "give 1 or more")
    return value


def sampling_of(options: argparse.Namespace) -> Sampling:
    """What the options of :func:`add_sampling` say."""
    return Sampling(**{item.name: getattr(options, item.name) for item in fields(Sampling) if item.name != "logit_bias"})


# ---- board and build configuration -------------------------------------------------------------------------------
def add_board(parser: argparse.ArgumentParser, default: str | None = DEFAULT_BOARD, otherwise: str = DEFAULT_BOARD) -> None:
    """``default`` None: the board of an image, or ``otherwise``."""
    other = "" if default else f" (that of an image, else {otherwise})"
    parser.add_argument("--board", default=default, help=f"board: a shipped name or the path of a board.json{other}")
    parser.add_argument("--engine", choices=ENGINES, help="linear engines of the build (what the model needs if not given)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON of fields that replace those of the board")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a field of the build configuration (may be repeated)",
    )


#: Words for the two values of a boolean field, in any case.
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}

#: Text of ``--set`` to a field, what the values are, and what to give, by the type of the field.
_PARSERS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "int": (int, "an int", "a whole number"),
    "float": (float, "a float", "a number"),
    "str": (str, "a str", "text"),
    "bool": (lambda text: _BOOLEANS[text.lower()], "a bool", "true or false, yes or no, on or off, 1 or 0"),
}


def read_change(item: str) -> tuple[str, Any]:
    """Name and value of a field from the ``NAME=VALUE`` of ``--set``."""
    types = {f.name: str(f.type) for f in fields(BuildConfig)}
    name, equals, text = item.partition("=")
    if not equals or name not in types:
        raise HwgenError(
            "configuration",
            f"--set {item}: {name!r} is not a field of the build configuration",
            f"use NAME=VALUE with one of: {', '.join(sorted(types))}",
        )
    parse, kind, legal = _PARSERS[types[name]]
    try:
        return name, parse(text)
    except (ValueError, KeyError) as error:
        raise HwgenError("configuration", f"--set {item}: {text!r} is not {kind}", f"give {legal}") from error


def read_config(path: Path, config: BuildConfig) -> BuildConfig:
    """``config`` with the fields of a JSON file (``hwgen explore`` writes one); their types are checked."""
    fix = "give a file that hwgen explore wrote"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise HwgenError("configuration", f"--config {path} is not a JSON object", fix)
        return BuildConfig.from_dict(config.to_dict() | values)
    except ConfigError as error:
        raise HwgenError("configuration", f"--config {path}: {error}", "correct the field in this file") from error
    except (OSError, ValueError) as error:
        raise HwgenError("configuration", f"--config {path}: {error}", fix) from error


def configured_board(options: argparse.Namespace, engine: str | None = None) -> Board:
    """The board of ``--board`` in its configuration for ``--engine``, with the fields of ``--config`` and the changes of
    ``--set``. Where none of them names an engine, the configuration for ``engine``: what the model needs.
    """
    board = load_board(options.board or DEFAULT_BOARD)
    chosen, file = getattr(options, "engine", None), getattr(options, "config", None)
    if chosen is None and file is None and not any(item.startswith("engine=") for item in options.set):
        chosen = engine
    if chosen is not None:
        board = board.for_engine(chosen)
    if file is not None:
        board = replace(board, config=read_config(file, board.config))
    changes = dict(read_change(item) for item in options.set)
    return replace(board, config=replace(board.config, **changes)) if changes else board


# ---- model and device --------------------------------------------------------------------------------------------
def opened_model(options: argparse.Namespace, output: Output) -> tuple[Model | CompiledModel, Board]:
    """The model of ``options.model``, and the board to run it on: of an image file, the one it was compiled for."""
    if not is_image_file(options.model):
        model = with_kv(open_model(options.model, output.progress, quantized=True), getattr(options, "kv", None), output.progress)
        return model, configured_board(options, model.weights.engine)
    compiled = load_image(Path(options.model))
    check_kv(compiled, getattr(options, "kv", None))
    if options.board or options.engine or options.config or options.set:
        board = configured_board(options, compiled.image.engine)
        check_same_build(compiled, board.config)
        return compiled, board
    known = load_board(compiled.board if compiled.board in board_names() else DEFAULT_BOARD)
    return compiled, replace(known, name=compiled.board, part=compiled.part, config=compiled.image.config)


def add_device(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--device", default=default, help="golden, verilator or pynq")
    parser.add_argument(
        "--address", metavar="HOST[:PORT]", help="with --device pynq: a board across the network, or a virtual one"
    )
    parser.add_argument(
        "--overlay", type=Path, metavar="FILE.bit", help="with --device pynq: the bitstream, its .hwh beside it"
    )
    parser.add_argument("--attach", action="store_true", help="with --device pynq: use the bitstream that is loaded already")


def add_waves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--waves", type=Path, metavar="FILE.fst", help="write waves of every signal (simulator; it is compiled anew, and slower)"
    )
    for name, what in (("from", "first cycle of the waves, counted from the first doorbell (if not given: 0)"),
                       ("to", f"cycle that ends the waves (if not given: {WAVE_CYCLES} behind the first)")):
        parser.add_argument(f"--{name}", type=int, metavar="CYCLE", dest=f"waves_{name}", help=what)


def waves_of(options: argparse.Namespace) -> Waves | None:
    """What the options of :func:`add_waves` say."""
    first, end = options.waves_from, options.waves_to
    if options.waves is None:
        if first is not None or end is not None:
            raise HwgenError("usage", "--from and --to are for waves", "add --waves FILE.fst")
        return None
    first = first or 0
    return Waves(options.waves, first, first + WAVE_CYCLES if end is None else end)


def device_options(options: argparse.Namespace, board: Board) -> dict[str, Any]:
    """Where to find a board, with ``--device pynq``."""
    if options.device != "pynq":
        if options.address or options.overlay or options.attach:
            raise HwgenError("usage", "--address, --overlay and --attach are for a board", "add --device pynq")
        return {}
    named = board.name if board.part else None  # a configuration without a part has no board to check
    return {"address": options.address, "overlay": options.overlay, "download": not options.attach, "board": named}
