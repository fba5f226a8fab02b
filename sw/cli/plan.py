"""``hwgen plan``: how many boards, and with which scheduling."""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import HwgenError
from ...published import PUBLISHED, published_model
from .memory import add_memory, memory_conditions
from .options import (
    add_board,
    add_context,
    add_head,
    add_time_between_tokens,
    at_least,
    configured_board,
    time_between_tokens,
)
from .output import Output, Result

if TYPE_CHECKING:
    from ..analysis.plan import Arrival

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen plan --boards 4 --shape bitnet-2b4t --head shortlist --rate 1 --prompt 300 --new 150"

#: Milliseconds of the host around a pass of one greedy token: 0.05 measured on x86 with a device that answers at once, and the
#: processor of a Kria taken as 15 times slower.
HOST_MS = 0.75


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description}: requests on several boards, simulated by events; the scheduler is the one that serves, passes take "
        "what `hwgen estimate` says. All figures are estimated"
    )
    parser.add_argument("--boards", type=int, default=1, metavar="N", help="boards; a request goes to the one with least to do")
    parser.add_argument("--shape", default="bitnet-2b4t", help=f"published sizes: {', '.join(PUBLISHED)}")
    parser.add_argument("--rate", type=float, default=1.0, metavar="R", help="requests a second, independent of each other")
    parser.add_argument("--requests", type=int, default=120, metavar="N", help="requests in all")
    parser.add_argument("--prompt", type=int, default=300, metavar="P", help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=150, metavar="N", help="tokens of an answer")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE.csv", help="in place of the four: a line a request, seconds,prompt tokens,new tokens"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the arrivals")
    parser.add_argument(
        "--policy", action="append", metavar="NAME", help="one-by-one, shared or whole prompts (if not given: all)"
    )
    parser.add_argument("--max-sessions", type=int, default=8, metavar="N", help="answers at a time on a board")
    add_time_between_tokens(parser)
    parser.add_argument(
        "--max-waiting", type=int, default=1 << 20, metavar="N", help="requests that wait on a board; more are refused"
    )
    parser.add_argument("--cache-contexts", type=int, default=4, metavar="N", help="contexts that the KV cache of a board holds")
    parser.add_argument("--host-ms", type=float, default=HOST_MS, metavar="MS", help="what the host does around a pass")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the times to the first token")
    add_head(parser)
    add_context(parser)
    add_memory(parser)
    add_board(parser, "kv260")


def read_trace(path: Path) -> list[Arrival]:
    """Requests of a file; lines that begin with # are comments."""
    from ..analysis.plan import Arrival

    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, UnicodeDecodeError) as error:
        raise HwgenError("usage", f"{path} cannot be read: {error}", "give a CSV file: seconds,prompt tokens,new tokens") from error
    out = []
    for number, row in enumerate(csv.reader(lines), 1):
        try:
            at, prompt, new = float(row[0]), int(row[1]), int(row[2])
        except (ValueError, IndexError):
            at = -1.0
        if not 0 <= at < math.inf or prompt < 1 or new < 1:
            what = f"{path}, request {number}: {','.join(row)}"
            raise HwgenError("usage", what, "write seconds,prompt tokens,new tokens, as 0.5,300,150")
        out.append(Arrival(at, prompt, new))
    if not out:
        raise HwgenError("usage", f"{path} has no request", "write a line a request: seconds,prompt tokens,new tokens")
    return out


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.plan import POLICIES, arrivals_at_rate
    from ..analysis.plan_report import describe_plan, draw_plan, plan_json

    for name in ("boards", "requests", "prompt", "new", "max-sessions", "cache-contexts"):
        at_least(options, name, 1)
    at_least(options, "max-waiting", 0)
    for name, value, legal in (("rate", options.rate, options.rate > 0), ("host-ms", options.host_ms, options.host_ms >= 0)):
        if not (legal and math.isfinite(value)):
            raise HwgenError("usage", f"--{name} must be a number above 0, not {value}", "give another")
    names = options.policy or list(POLICIES)
    for name in names:
        if name not in POLICIES:
            raise HwgenError("usage", f"--policy {name!r} is unknown", f"use one of: {', '.join(POLICIES)}")
    board = configured_board(options, published_model(options.shape).engine)
    if options.trace is None:
        arrivals = arrivals_at_rate(options.rate, options.requests, options.prompt, options.new, options.seed)
    else:
        arrivals = read_trace(options.trace)
    result = plan_json(
        board, options.shape, arrivals, names, boards=options.boards, head=options.head,
        context=None if options.context is None else at_least(options, "context", 1), contexts=options.cache_contexts,
        sessions=options.max_sessions, host=options.host_ms / 1e3, waiting=options.max_waiting,
        time_between_tokens=time_between_tokens(options), memory=memory_conditions(options, board.name),
    )
    for line in describe_plan(result):
        output.show(line)
    if options.plot is not None:
        draw_plan(options.plot, result)
    return 0, result
