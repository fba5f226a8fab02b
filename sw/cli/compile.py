"""``hwgen compile``: a model as one file for a board, which then needs neither checkpoint nor compiler."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from ...errors import HwgenError
from ..compiler.compile import plan_image
from ..compiler.image_file import is_image_file, save_image
from ..models.open import IMAGE_SUFFIX, open_model
from .kv_cache import add_kv, with_kv
from .options import add_board, add_context, add_head, configured_board, shortened
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "hwgen compile smollm2 --board kv260 --out smollm2.hwimage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="shipped or added name, directory in Hugging Face layout or GGUF file"
    )
    parser.add_argument("--out", type=Path, metavar=f"FILE{IMAGE_SUFFIX}", help="file to write (named like MODEL if not given)")
    add_context(parser)
    add_head(parser)
    add_kv(parser)
    add_board(parser, "kv260")


def run(options: argparse.Namespace, output: Output) -> Result:
    out = options.out or Path(f"{Path(options.model).stem}{IMAGE_SUFFIX}")
    if not is_image_file(out):
        fix = f"give a name that does: {out.stem}{IMAGE_SUFFIX}"
        raise HwgenError("usage", f"--out {out} does not end with {IMAGE_SUFFIX}", fix)
    if not out.parent.is_dir():
        raise HwgenError("usage", f"{out.parent} is not a directory", "give --out in a directory that is there")
    begin = time.monotonic()
    model = with_kv(open_model(options.model, output.progress, quantized=True), options.kv, output.progress)
    board = configured_board(options, model.weights.engine)
    weights = replace(model.weights, shape=shortened(options, model.weights.shape))
    image = plan_image(board.config, weights, name=model.name, head=options.head, progress=output.progress)
    size, model_hash = save_image(out, image, model, board, options.head, output.progress)
    result = {
        "model": model.name,
        "board": board.name,
        "head": options.head,
        "kv": image.kv,
        "file": str(out),
        "bytes": size,
        "context": image.context,
        "contiguous_bytes": image.contiguous_bytes,
        "buffers": {name: sum(sizes) for name, sizes in image.buffers().items()},
        "model_hash": model_hash,
        "seconds": time.monotonic() - begin,
    }
    output.show(f"{out}: {size:,} bytes, {model.name} for {board.name}, {options.head} head, context {image.context}")
    output.show(f"contiguous memory of the board: {image.contiguous_bytes / 1e6:,.0f} MB")
    return 0, result
