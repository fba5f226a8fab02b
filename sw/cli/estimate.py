"""``hwgen estimate``: cycles of a model of published size, calculated."""

from __future__ import annotations

import argparse

from ...errors import HwgenError
from ...published import published_model
from ..analysis.host_share import HOSTS, describe_host, host_json
from .kv_budget import add_kv_budget, kv_budget_of
from .kv_cache import add_kv
from .memory import add_memory, memory_conditions
from .options import add_board, add_context, add_head, add_workload, at_least, configured_board, sequences_of
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen estimate --board kv260 --shape bitnet-0.73b --prompt 128 --decode 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload(parser)
    add_head(parser)
    add_kv(parser, "k8v8")
    add_kv_budget(parser)
    add_context(parser)
    add_memory(parser)
    parser.add_argument("--host", choices=tuple(HOSTS), help="add what the host does between passes, and say what remains")
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    from ..analysis.estimate import describe_estimate, estimate_json

    prompt, decode = at_least(options, "prompt", 0), at_least(options, "decode", 0)
    if prompt + decode == 0:
        raise HwgenError("usage", "nothing to estimate: --prompt and --decode are both 0", "give one of them")
    cached, sequences = at_least(options, "cached", 0), sequences_of(options, prompt)
    board = configured_board(options, published_model(options.shape).engine)
    memory = memory_conditions(options, board.name)
    context = None if options.context is None else at_least(options, "context", 1)
    result = estimate_json(
        board, options.shape, prompt, decode, cached=cached, sequences=sequences, head=options.head, kv=options.kv,
        kv_budget=kv_budget_of(options, board.config), memory=memory, context=context,
    )
    for line in describe_estimate(result):
        output.show(line)
    if options.host is not None:
        if not decode:
            raise HwgenError("usage", "--host is about decoding, and --decode is 0", "give --decode 1")
        result["host"] = host_json(options.host, sequences, sequences / result["decode"]["tok_s"])
        for line in describe_host(result["host"]):
            output.show(line)
    return 0, result
