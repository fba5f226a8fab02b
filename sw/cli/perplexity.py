"""``hwgen perplexity``: float and bit-exact model on a text."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ..models.model import Model
from ..models.open import open_model
from ..runtime.llm import LLM
from ..verification.perplexity import compare_perplexity, device_perplexity
from .kv_budget import add_kv_budget, kv_budget_of
from .kv_cache import add_kv, with_kv
from .options import add_board, add_device, at_least, configured_board, device_options, opened_model
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen perplexity stories stories.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="shipped name or directory in Hugging Face layout")
    parser.add_argument("file", type=Path, metavar="FILE", help="text, documents separated by lines <|endoftext|>")
    parser.add_argument("--tokens", type=int, default=0, metavar="N", help="stop after N tokens; 0 is the whole file")
    add_kv(parser)
    add_kv_budget(parser)
    add_device(parser, None)
    add_board(parser, None)


def on_device(options: argparse.Namespace, output: Output) -> Result:
    """The text scored by the machine alone."""
    model, board = opened_model(options, output)
    budget = kv_budget_of(options, board.config)
    llm = LLM(model, options.device, board.config, output.progress, device_options=device_options(options, board))
    window = model.family.window if isinstance(model, Model) else None
    result = device_perplexity(llm, options.file, at_least(options, "tokens", 0) or None, window, output.progress, budget)
    row, time = result["machine"], "simulated " if result["simulated"] else ""
    output.show(f"{result['tokens']:,} tokens, {result['bytes']:,} bytes")
    output.show(
        f"{result['device']:10} {row['nats_per_token']:.5f} nats a token, {row['bits_per_byte']:.5f} bits a byte, "
        f"perplexity {row['perplexity']:.4f}" + (f"; {result['cycles']:,} {time}cycles" if result["cycles"] else "")
    )
    return 0, result


def run(options: argparse.Namespace, output: Output) -> Result:
    if not options.file.is_file():
        raise HwgenError("usage", f"{options.file} is not a file", "give a text file")
    if options.device is not None:
        return on_device(options, output)
    if kv_budget_of(options):
        raise HwgenError("usage", "--kv-budget is of a machine", "add --device golden, or leave --kv-budget out")
    model = with_kv(open_model(options.model, output.progress), options.kv, output.progress)
    board = configured_board(options, model.weights.engine)
    exact = model.weights
    if not exact.is_quantized:
        exact = replace(open_model(options.model, output.progress, quantized=True).weights, kv=exact.kv)
    result: dict[str, Any] = {"kv": exact.kv} | compare_perplexity(
        model, exact, options.file, board.config, at_least(options, "tokens", 0) or None, output.progress
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
