"""Command line: ``hwgen COMMAND``. Results go to standard output, everything else to standard error.

Exit codes: 0 done; 1 the answer is no (a mismatch, a missed target, a failed check); 2 bad input or environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ...config import ENGINES, ConfigError
from ...errors import HwgenError
from ...llama import KV_KINDS
from ...published import LLAMA_SHAPES, SHAPES
from . import board as board_command
from . import chat
from . import model as model_command
from . import output as commands
from . import quantize as quantize_command
from . import serve as serve
from .memory import add_memory

__all__ = ["main"]

Command = Callable[[argparse.Namespace, commands.Output], tuple[int, dict[str, Any]]]


class Parser(argparse.ArgumentParser):
    """Reports wrong usage as the same kind of error as everything else."""

    def error(self, message: str) -> NoReturn:
        raise HwgenError("usage", message, f"see `{self.prog} --help`")


def add_command(group: Any, name: str, run: Command, help_text: str, example: str) -> Parser:
    parser: Parser = group.add_parser(
        name,
        help=help_text,
        description=help_text,
        epilog=f"example: {example}",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object (stable keys)"
    )
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress on standard error")
    parser.set_defaults(run=run)
    return parser


def add_board(parser: Parser, default: str = "demo") -> None:
    parser.add_argument("--board", default=default, help="board: a shipped name or the path of a board.json")
    parser.add_argument("--engine", choices=ENGINES, help="linear engines of the build (what the model needs if not given)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON of fields that replace those of the board")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a field of the build configuration (may be repeated)",
    )


def add_workload(parser: Parser) -> None:
    parser.add_argument("--shape", default="bitnet-0.73b", help=f"published sizes: {', '.join(SHAPES)}")
    parser.add_argument("--prompt", type=int, default=128, metavar="P", help="prompt tokens to prefill; 0 is none")
    parser.add_argument("--decode", type=int, default=4, metavar="N", help="tokens to decode")
    parser.add_argument(
        "--cached", type=int, default=0, metavar="C", help="tokens of context (random keys and values) before the prompt"
    )


def add_head(parser: Parser) -> None:
    parser.add_argument(
        "--head",
        default="exact",
        choices=("exact", "shortlist"),
        help="LM head: exact int8, or ternary scores of all rows and exact int8 logits of the best blocks",
    )


def build_parser() -> Parser:
    parser = Parser(
        prog="hwgen",
        description="Generates LLM inference accelerators for FPGAs, proves them bit for bit in "
        "simulation and runs them.",
    )
    group = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    p = add_command(group, "run", commands.run, "answer a prompt", 'hwgen run --prompt "Once upon a time"')
    p.add_argument(
        "model", nargs="?", default="stories", metavar="MODEL", help="shipped name or directory in Hugging Face layout"
    )
    p.add_argument("--prompt", required=True, help="text to continue")
    p.add_argument("--chat", action="store_true", help="put the prompt in the model's chat template")
    p.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer")
    p.add_argument("--device", default="verilator", help="golden, verilator or pynq")
    p.add_argument("--address", metavar="HOST[:PORT]", help="with --device pynq: a board across the network, or a virtual one")
    p.add_argument("--overlay", type=Path, metavar="FILE.bit", help="with --device pynq: the bitstream, its .hwh beside it")
    p.add_argument("--attach", action="store_true", help="with --device pynq: use the bitstream that is loaded already")
    p.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    p.add_argument("--top-k", type=int, default=0, metavar="K", help="draw from the K best tokens; 0 is all")
    p.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="draw from the best tokens of total probability P"
    )
    p.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none")
    add_head(p)
    p.add_argument("--seed", type=int, default=0, help="of the random draw")
    p.add_argument("--session", type=Path, metavar="FILE", help="continue the session in FILE if it exists, and save it there")
    p.add_argument("--kv-bits", type=int, choices=(8, 4), default=8, help="of saved keys and values: exact, or half the space")
    add_board(p)

    p = add_command(
        group,
        "serve",
        serve.run,
        "serve a model by the OpenAI protocol",
        "hwgen serve stories --device golden --port 8000",
    )
    serve.add_arguments(p)
    add_board(p)

    p = add_command(
        group,
        "verify",
        commands.verify,
        "compare Verilog and golden model at every operator",
        "hwgen verify --model stories --prompt-tokens 37 --new-tokens 64",
    )
    add_head(p)
    p.add_argument("--model", default="stories", help="shipped name or directory in Hugging Face layout")
    p.add_argument("--prompt-tokens", type=int, default=16, metavar="P", help="length of the random prompt")
    p.add_argument("--new-tokens", type=int, default=8, metavar="N", help="tokens to decode")
    p.add_argument("--layers", type=int, default=0, metavar="L", help="use only the first L layers; 0 is all")
    p.add_argument("--seed", type=int, default=0, help="of the random prompt")
    add_board(p)

    p = add_command(
        group,
        "perplexity",
        commands.perplexity,
        "compare float and bit-exact model on a text",
        "hwgen perplexity stories stories.txt",
    )
    p.add_argument("model", metavar="MODEL", help="shipped name or directory in Hugging Face layout")
    p.add_argument("file", type=Path, metavar="FILE", help="text, documents separated by lines <|endoftext|>")
    p.add_argument("--tokens", type=int, default=0, metavar="N", help="stop after N tokens; 0 is the whole file")
    p.add_argument("--kv", choices=KV_KINDS, help="llama: format of cached keys and values (the model's own if not given)")
    add_board(p)

    p = add_command(
        group,
        "build",
        commands.build,
        "write everything that Vivado needs for a board",
        "hwgen build --board kv260 --out build/kv260",
    )
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")
    steps = "verilog, registers, core, design, handoff, check"
    p.add_argument("--from", dest="first", default="verilog", metavar="STEP", help=f"resume at this step of: {steps}")
    p.add_argument("--to", dest="last", default="check", metavar="STEP", help="stop after this step")
    add_board(p, "kv260")

    p = add_command(group, "report", commands.report, "estimate resources with Yosys", "hwgen report --board kv260")
    p.add_argument("--fresh", action="store_true", help="synthesize again, whatever the cache has")
    p.add_argument("--check", action="store_true", help="compare with the accepted figures of the board; 1 where a unit has grown")
    p.add_argument("--accept", action="store_true", help="accept the figures: write them to resources.json of the board")
    add_board(p, "kv260")

    p = add_command(
        group,
        "fmax",
        commands.fmax,
        "routed clock of the main units on a Lattice ECP5 (open flow, a stand-in)",
        "hwgen fmax --unit vector_lane",
    )
    p.add_argument("--unit", action="append", default=[], metavar="NAME", help="only this main unit (may be repeated)")
    p.add_argument("--fresh", action="store_true", help="route again, whatever the cache has")
    add_board(p, "kv260")

    p = add_command(
        group,
        "bench",
        commands.bench,
        "run a model of published size (random weights) in RTL and say where the cycles go",
        "hwgen bench --board kv260 --shape bitnet-0.73b --prompt 128 --decode 4",
    )
    add_workload(p)
    add_head(p)
    add_memory(p)
    p.add_argument("--timeline", type=Path, metavar="DIR", help="write a Perfetto trace and pictures of the first passes there")
    p.add_argument("--layers", type=int, default=0, metavar="L", help="a quick look at the first L layers; 0 is all")
    p.add_argument(
        "--check", default="outputs", choices=("none", "outputs", "full"), help="what is compared with golden, bit for bit"
    )
    p.add_argument("--seed", type=int, default=0, help="of weights and prompt")
    add_board(p, "kv260")

    p = add_command(
        group,
        "estimate",
        commands.estimate,
        "cycles of a model of published size from the analytic model, in a second",
        "hwgen estimate --board kv260 --shape bitnet-0.73b --prompt 128 --decode 4",
    )
    add_workload(p)
    add_head(p)
    add_memory(p)
    add_board(p, "kv260")

    p = add_command(
        group,
        "explore",
        commands.explore,
        "search the configurations of a board for one model with the analytic models",
        "hwgen explore --board kv260 --model bitnet-0.73b",
    )
    ternary = ", ".join(name for name in SHAPES if name not in LLAMA_SHAPES)
    p.add_argument("--model", default="bitnet-0.73b", help=f"{ternary}, a shipped model or a model directory")
    p.add_argument(
        "--also", action="append", default=[], metavar="M", help="a model that the choice must hold as well (may be repeated)"
    )
    p.add_argument("--keep-maxima", action="store_true", help="keep the board's maxima that are larger than the models need")
    p.add_argument("--prompt", type=int, default=128, metavar="P", help="prompt tokens to the first new token")
    p.add_argument("--new", type=int, default=128, metavar="N", help="tokens of the answer whose whole time decides")
    add_head(p)
    p.add_argument("--limit", type=int, default=1000, metavar="N", help="configurations to time at most")
    p.add_argument("--workers", type=int, default=0, metavar="N", help="local processes; 0 is one a core")
    p.add_argument("--dask", metavar="ADDRESS", help="use the workers of this Dask scheduler instead")
    p.add_argument("--out", type=Path, metavar="FILE", help="where to write the choice (BOARD-MODEL.json if not given)")
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw the Pareto front there (png, svg or pdf)")
    add_board(p, "kv260")

    p = add_command(
        group,
        "train",
        commands.train,
        "train a small story model from a text file (resumes where it stopped)",
        "hwgen train stories.txt --out run --export my-model",
    )
    p.add_argument("text", type=Path, metavar="TEXT", help="text, documents separated by lines <|endoftext|>")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the run")
    p.add_argument("--validation", type=Path, metavar="FILE", help="held-out text")
    p.add_argument("--export", type=Path, metavar="DIR", help="write the model there in Hugging Face layout when done")
    p.add_argument("--every", type=int, default=100, metavar="N", help="steps between reports and saved states")
    p.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    commands.add_training_options(p)

    p = add_command(group, "chat", chat.run, "talk with a model in the terminal", "hwgen chat smollm2 --temperature 0.7")
    chat.add_arguments(p)
    add_board(p)

    p = add_command(
        group,
        "quantize",
        quantize_command.run,
        "write a llama model with INT4 matrices",
        "hwgen quantize smollm2 --recipe fireq --group 128 --text eval.txt --calibration train.txt --out smollm2-int4",
    )
    quantize_command.add_arguments(p)

    p = add_command(group, "model", model_command.run, "fetch models by name", "hwgen model add smollm2")
    model_command.add_arguments(p)

    p = add_command(
        group,
        "board",
        board_command.run,
        "serve a virtual PYNQ board (simulated)",
        "hwgen board --simulate demo --port 7967",
    )
    board_command.add_arguments(p)

    add_command(group, "doctor", commands.doctor, "what is installed, what is missing, what to do", "hwgen doctor")
    return parser


def report_error(error: HwgenError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": error.to_dict()}))
    else:
        print(f"hwgen: {error.kind}: {' '.join(str(error).split())}", file=sys.stderr)
        for line in getattr(error, "state", "").splitlines():  # where the machine stands when a pass hangs
            print(f"  {line}", file=sys.stderr)
    return 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        options = build_parser().parse_args(arguments)
        output = commands.Output(as_json=as_json, quiet=getattr(options, "quiet", False))
        code, result = options.run(options, output)
    except HwgenError as error:
        return report_error(error, as_json)
    except ConfigError as error:
        return report_error(
            HwgenError("configuration", str(error), "change the field with --set or in board.json"), as_json
        )
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(result))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
