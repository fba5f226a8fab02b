"""Command line: ``hwgen COMMAND``. Results go to standard output, everything else to standard error.

A command is a module of this folder with its name: an ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options, output)``,
which returns the exit code and the object that ``--json`` prints. Only the module of the command that runs is imported.

Exit codes: 0 done; 1 the answer is no (a mismatch, a missed target, a failed check); 2 bad input or environment.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import io
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from ...config import ConfigError
from ...contract import CONTRACT_VERSION
from ...errors import HwgenError, did_you_mean
from ...files import cache_directory
from .options import Parser
from .output import Output

__all__ = ["COMMANDS", "build_parser", "main"]

#: Commands in the order of ``hwgen --help``, and what each does.
COMMANDS = {
    "run": "answer a prompt",
    "serve": "serve a model by the OpenAI protocol",
    "compile": "write a model as one file for a board",
    "verify": "compare Verilog and golden model at every operator",
    "fuzz": "compare them on random builds, models, memories and passes",
    "perplexity": "compare float and bit-exact model on a text",
    "build": "write everything that Vivado needs for a board",
    "report": "estimate resources and longest paths with Yosys",
    "fmax": "routed clock of the main units on a Lattice ECP5 (open flow, a stand-in)",
    "bench": "run a model of published size (random weights) in RTL and say where the cycles go",
    "estimate": "cycles of a model of published size from the analytic model, in a second",
    "plan": "how many boards for so many requests, with which scheduling (estimated)",
    "explore": "search the configurations of a board for one model with the analytic models",
    "train": "train a small story model from a text file (resumes where it stopped)",
    "chat": "talk with a model in the terminal",
    "quantize": "write a llama model with INT4 matrices",
    "model": "list, add, show and remove models",
    "board": "serve a virtual PYNQ board (simulated)",
    "selftest": "bring-up of a board, step by step: registers, clock, memory ports, answers",
    "doctor": "what is installed, what is missing, what to do",
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default in ("", []):
            return action.help
        return super()._get_help_string(action)


class Version(argparse.Action):
    """Prints the version; the place of the package is looked at only then."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        where = Path(__file__).parents[2]
        print(f"hwgen {version('hwgen')}, contract {CONTRACT_VERSION}, in {where}, Python {platform.python_version()}")
        parser.exit()


def build_parser(command: str | None = None) -> Parser:
    """A parser that knows every command by name, and the options of ``command``."""
    parser = Parser(
        prog="hwgen",
        description="Generates LLM inference accelerators for FPGAs, proves them bit for bit in "
        "simulation and runs them.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="version and place of this copy")
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
            formatter_class=HelpFormatter,
        )
        for option, what in (("--json", "print one JSON object (stable keys)"), ("--quiet", "no progress on standard error")):
            chosen.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=what)
        chosen.set_defaults(run=module.run, usage_of=(chosen.prog, chosen.format_help))
        module.add_arguments(chosen)
    return parser


def of_system(error: OSError) -> HwgenError:
    """What the system refused, as an error that says what to do: a full disk, a folder that cannot be written."""
    where = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else ""
    text = error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free space there"
    elif where and where.startswith(str(cache_directory())):
        fix = "set HWGEN_CACHE to a directory that can be written"
    else:
        fix = "look at the path and its permissions"
    return HwgenError("file", f"{where}: {text}" if where else text, fix)


def report_error(error: HwgenError, as_json: bool) -> int:
    if as_json:
        with contextlib.suppress(OSError):  # the output is what failed: the line below still says so
            print(json.dumps({"error": error.to_dict()}), flush=True)
            return 2
    with contextlib.suppress(OSError):
        print(f"hwgen: {error.kind}: {' '.join(str(error).split())}", file=sys.stderr)
        for line in getattr(error, "state", "").splitlines():  # where the machine stands when a pass hangs
            print(f"  {line}", file=sys.stderr)
    return 2


def drop_output() -> None:
    """Nothing more goes to standard output, and what is left of it in buffers is no error at the end of the interpreter."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_quietly() -> None:
    """From now on Ctrl-C ends the process without a word: at the end of the interpreter it would be a traceback."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(as_json: bool) -> int:
    if as_json:
        report_error(HwgenError("interrupted", "interrupted", "run it again"), as_json)
    else:
        print("interrupted", file=sys.stderr)
    return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows ASCII alone
    try:
        command = next((a for a in arguments if not a.startswith("-")), None)
        if command is not None and command not in COMMANDS:
            raise HwgenError("usage", f"hwgen has no command {command!r}", f"{did_you_mean(command, COMMANDS)}see `hwgen --help`")
        options = build_parser(command).parse_args(arguments)
        code, result = options.run(options, Output(as_json=as_json, quiet=getattr(options, "quiet", False)))
        if as_json:
            print(json.dumps(result))
        if sys.stdout is not None:
            sys.stdout.flush()
    except HwgenError as error:
        return report_error(error, as_json)
    except ConfigError as error:
        return report_error(
            HwgenError("configuration", str(error), "change the field with --set or in board.json"), as_json
        )
    except BrokenPipeError:  # the reader of our output has left
        drop_output()
        return 1
    except OSError as error:
        code = report_error(of_system(error), as_json)
        drop_output()
        return code
    except KeyboardInterrupt:
        end_quietly()
        return interrupted(as_json)
    finally:
        atexit.unregister(end_quietly)
        atexit.register(end_quietly)  # the last to be registered is the first to be called
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
