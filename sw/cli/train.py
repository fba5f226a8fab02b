"""``hwgen train``: a small story model from a text file."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...errors import HwgenError
from ...packages import needs
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen train stories.txt --out run --export my-model"

#: Options of a training run: default of the story model where None.
_TRAINING: tuple[tuple[str, str], ...] = (
    ("steps", "optimiser steps"),
    ("batch", "sequences in a step"),
    ("length", "tokens in a sequence"),
    ("hidden", "width of the residual stream"),
    ("layers", "decoder layers"),
    ("heads", "query heads"),
    ("kv-heads", "key/value heads"),
    ("head-dim", "elements of a head"),
    ("ffn", "width of the feed-forward layer"),
    ("vocab", "tokens of the vocabulary"),
    ("max-context", "longest context"),
    ("seed", "of the random draws"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", type=Path, metavar="TEXT", help="text, documents separated by lines <|endoftext|>")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the run")
    parser.add_argument("--validation", type=Path, metavar="FILE", help="held-out text")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the model there in Hugging Face layout when done")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="steps between reports and saved states")
    parser.add_argument("--no-compile", action="store_true", help="do without torch.compile")
    for name, text in _TRAINING:
        parser.add_argument(f"--{name}", type=int, default=None, help=f"{text} (that of the story model if not given)")


def run(options: argparse.Namespace, output: Output) -> Result:
    for path in (options.text, options.validation):
        if path is not None and not Path(path).is_file():
            raise HwgenError("usage", f"{path} is not a file", "give a text file")
    with needs("training", "hwgen[train]"):
        from ..training import train as training
    names = [name.replace("-", "_") for name, _ in _TRAINING]
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
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
        from ..training.train import export_training

        export_training(options.out, options.export)
        result["export"] = str(options.export)
        output.show(f"exported to {options.export}")
    return 0, result


def describe_step(row: dict[str, float]) -> str:
    text = f"step {row['step']:.0f} of {row['steps']:.0f}, loss {row['loss']:.4f}, {row['seconds']:.0f} s"
    if "held_out_bits_per_byte" in row:
        text += f", held out {row['held_out_nats']:.4f} nats a token, {row['held_out_bits_per_byte']:.4f} bits a byte"
    return text
