"""Command line: ``hwgen COMMAND``. Results go to standard output, everything else to standard error.

A command is a module of this folder with its name: an ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options, output)``,
which returns the exit code and the object that ``--json`` prints. Only the module of the command that runs is imported.

Exit codes: 0 done; 1 the answer is no (a mismatch, a missed target, a failed check); 2 bad input or environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module

from ...config import ConfigError
from ...errors import HwgenError
from .options import Parser
from .output import Output

__all__ = ["COMMANDS", "build_parser", "main"]

#: Commands in the order of ``hwgen --help``, and what each does.
COMMANDS = {
    "run": "answer a prompt",
    "serve": "serve a model by the OpenAI protocol",
    "compile": "write a model as one file for a board",
    "verify": "compare Verilog and golden model at every operator",
    "perplexity": "compare float and bit-exact model on a text",
    "build": "write everything that Vivado needs for a board",
    "report": "estimate resources and longest paths with Yosys",
    "fmax": "routed clock of the main units on a Lattice ECP5 (open flow, a stand-in)",
    "bench": "run a model of published size (random weights) in RTL and say where the cycles go",
    "estimate": "cycles of a model of published size from the analytic model, in a second",
    "explore": "search the configurations of a board for one model with the analytic models",
    "train": "train a small story model from a text file (resumes where it stopped)",
    "chat": "talk with a model in the terminal",
    "quantize": "write a llama model with INT4 matrices",
    "model": "list, add, show and remove models",
    "board": "serve a virtual PYNQ board (simulated)",
    "selftest": "bring-up of a board, step by step: registers, clock, memory ports, answers",
    "doctor": "what is installed, what is missing, what to do",
}


def build_parser(command: str | None = None) -> Parser:
    """A parser that knows every command by name, and the options of ``command``."""
    parser = Parser(
        prog="hwgen",
        description="Generates LLM inference accelerators for FPGAs, proves them bit for bit in "
        "simulation and runs them.",
    )
    group = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, text in COMMANDS.items():
        if name != command:
            group.add_parser(name, help=text)
            continue
        module = import_module(f"{__package__}.{name}")
        chosen = group.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: {module.EXAMPLE}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        for option, what in (("--json", "print one JSON object (stable keys)"), ("--quiet", "no progress on standard error")):
            chosen.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=what)
        chosen.set_defaults(run=module.run)
        module.add_arguments(chosen)
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
        command = next((a for a in arguments if not a.startswith("-")), None)
        options = build_parser(command).parse_args(arguments)
        code, result = options.run(options, Output(as_json=as_json, quiet=getattr(options, "quiet", False)))
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
