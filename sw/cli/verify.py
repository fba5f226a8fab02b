"""``hwgen verify``: Verilog and golden model in lock step."""

from __future__ import annotations

import argparse

from ..models.open import open_model
from ..verification.lock_step import verify_model
from .kv_cache import add_kv, with_kv
from .options import add_board, add_head, add_waves, at_least, configured_board, waves_of
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen verify --model stories --prompt-tokens 37 --new-tokens 64"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_head(parser)
    add_kv(parser)
    parser.add_argument("--model", default="stories", help="shipped name or directory in Hugging Face layout")
    parser.add_argument("--prompt-tokens", type=int, default=16, metavar="P", help="length of the random prompt")
    parser.add_argument("--new-tokens", type=int, default=8, metavar="N", help="tokens to decode")
    parser.add_argument("--layers", type=int, default=0, metavar="L", help="use only the first L layers; 0 is all")
    parser.add_argument("--seed", type=int, default=0, help="of the random prompt")
    parser.add_argument(
        "--noise", type=int, default=0, metavar="SEED",
        help="noise in registers and memories at the start, and from reads that meet a write; 0 is none",
    )
    add_waves(parser)
    add_board(parser)


def run(options: argparse.Namespace, output: Output) -> Result:
    prompt, new = at_least(options, "prompt-tokens", 1), at_least(options, "new-tokens", 0)
    layers = at_least(options, "layers", 0)
    model = with_kv(open_model(options.model, output.progress, quantized=True), options.kv, output.progress)
    board = configured_board(options, model.weights.engine)
    outcome = verify_model(
        board.config,
        model.weights,
        prompt_tokens=prompt,
        new_tokens=new,
        layers=layers or None,
        head=options.head,
        seed=options.seed,
        noise=at_least(options, "noise", 0) or None,
        waves=waves_of(options),
        progress=output.progress,
    )
    result = {"model": model.name, "board": board.name, "kv": model.weights.kv, **outcome.to_dict()}
    output.show(
        f"{outcome.operators_compared:,} operators, {outcome.elements_compared:,} elements compared, "
        f"{outcome.mismatches:,} mismatches"
    )
    if outcome.first is not None:
        output.show(f"first mismatch: {outcome.first}")
    return (1 if outcome.mismatches else 0), result
