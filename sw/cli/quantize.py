"""``hwgen quantize``: a checkpoint with INT4 matrices, and a table of what it costs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...boards import load_board
from ...config import BuildConfig
from ...descriptors import Format
from ...errors import HwgenError
from ...int4 import GROUPS
from ...layout import KV_FORMATS
from ...packages import needs
from ...weights import KV_KINDS, QUERY_KINDS, ModelWeights, dense
from ..models.llama import check_output, save_llama
from ..models.open import open_model
from ..training import RECIPES
from ..verification.perplexity import WINDOW, encode_file
from .key_centers import measured
from .output import Output, Result

__all__ = ["EXAMPLE", "add_arguments", "run", "stored_bytes"]

EXAMPLE = "hwgen quantize smollm2 --recipe fireq --group 128 --text eval.txt --calibration train.txt --out smollm2-int4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="llama model: an added name, a directory in Hugging Face layout or a GGUF file"
    )
    parser.add_argument(
        "--recipe", choices=tuple(RECIPES), default="fireq", help="; ".join(f"{n}: {text}" for n, text in RECIPES.items())
    )
    parser.add_argument(
        "--group", type=int, choices=GROUPS, default=128, help="inputs that share a scale; exact-q4_1 has those of the file"
    )
    parser.add_argument("--kv", choices=KV_KINDS, default="k8v8", help="format of cached keys and values")
    parser.add_argument("--query", choices=QUERY_KINDS, default="int8", help="format of queries")
    parser.add_argument("--midpoints", action="store_true", help="rtn: scale and midpoint in place of symmetric groups")
    parser.add_argument("--text", type=Path, metavar="FILE", help="text that perplexity is measured on; none is measured without")
    parser.add_argument("--tokens", type=int, default=0, metavar="N", help="stop measuring after N tokens; 0 is the whole text")
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="text that scales are chosen on (that of --text if not given)"
    )
    parser.add_argument("--calibration-tokens", type=int, default=4096, metavar="N", help="tokens of it that are used")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new directory for the checkpoint; nothing is written without")
    parser.add_argument("--board", default="demo", help="board whose pass length and cache blocks the bit-exact model takes")


def stored_bytes(weights: ModelWeights) -> int:
    """Bytes of the linear layers: as stored by the machine, or float32."""
    matrices = [matrix for layer in weights.layers for matrix in layer.matrices.values()]
    return sum(m.stored_bytes if hasattr(m, "stored_bytes") else dense(m).nbytes for m in matrices)


def _check_paths(options: argparse.Namespace) -> None:
    for path in (options.text, options.calibration):
        if path is not None and not path.is_file():
            raise HwgenError("usage", f"{path} is not a file", "give a text file")
    if options.out is not None:
        check_output(options.out)


def run(options: argparse.Namespace, output: Output) -> Result:
    _check_paths(options)
    with needs("quantising", "hwgen[sim]"):
        from ..training.recipes import calibration_windows, needs_calibration, quantize

    config = load_board(options.board).config
    model = open_model(options.model, output.progress, engine="int4")
    ids = encode_file(model.tokenizer, options.text, options.tokens or None)[0] if options.text else []
    text = options.calibration or (options.text if needs_calibration(options.recipe) else None)
    windows = None
    if text is not None:
        tokens = encode_file(model.tokenizer, text, max(options.calibration_tokens, WINDOW))[0]
        windows = calibration_windows(tokens, min(WINDOW, len(tokens), model.weights.shape.max_context), options.calibration_tokens)
    done = quantize(model.weights, options.recipe, options.group, windows, midpoints=options.midpoints, progress=output.progress)
    weights = replace(done.weights, kv=options.kv, query=options.query)
    if Format.INT4_KEYS in KV_FORMATS[options.kv]:
        if windows is None:
            output.show("centers of keys are not measured: give --calibration, or measure them with hwgen model center")
        else:
            weights = replace(weights, key_centers=measured(weights, config, windows.tolist(), output)[0])
    options.group = next(iter(weights.layers[0].matrices.values())).group
    if options.out is not None:
        save_llama(weights, options.out, recipe=options.recipe, tokenizer=model.tokenizer, stop_tokens=model.stop_tokens)
    rows = []
    for row in measure(model.weights, weights, options, ids, config, output):
        rows.append(row)
        shown = "" if row["perplexity"] is None else f"{row['perplexity']:10.4f}"
        output.show(f"{row['recipe']:28} group {row['group']:3}  kv {row['kv']:5} {shown}  {row['bytes']:,} bytes")
    mean = {name: sum(layer[name] for layer in done.errors) / len(done.errors) for name in done.errors[0]}
    output.show("mean relative weight error  " + "  ".join(f"{name} {value:.4f}" for name, value in mean.items()))
    return 0, {
        "model": model.name,
        "recipe": options.recipe,
        "text": str(options.text) if options.text else None,
        "calibration": str(text) if text else None,
        "calibration_is_text": text is not None and text == options.text,
        "window": WINDOW,
        "rows": rows,
        "layers": done.errors,
        "out": str(options.out) if options.out else None,
    }


def measure(
    before: ModelWeights, weights: ModelWeights, options: argparse.Namespace, ids: list[int], config: BuildConfig, output: Output
) -> Iterator[dict[str, Any]]:
    """Rows of the table: the float model, the stored weights in float arithmetic, the bit-exact model with each KV cache."""
    from ...golden.decoder import GoldenModel
    from ...golden.float_llama import FloatLlama
    from ...golden.perplexity import perplexity

    def row(recipe: str, group: int, kv: str, size: int, what: str, logits: Callable[..., Any]) -> dict[str, Any]:
        value = None
        if ids:
            output.progress(f"perplexity of {what} on {len(ids) - 1:,} tokens")
            value = perplexity(logits, ids, WINDOW)
        return {"recipe": recipe, "group": group, "kv": kv, "perplexity": value, "bytes": size}

    floats = sum(dense(matrix).nbytes for layer in before.layers for matrix in layer.matrices.values())
    yield row("float", 0, "float", floats, "the float model", FloatLlama(before))
    recipe, group, size = options.recipe, options.group, stored_bytes(weights)
    yield row(f"{recipe}, float arithmetic", group, "float", size, "the stored weights", FloatLlama(weights))
    for kv in sorted(KV_KINDS, key=lambda k: k != options.kv):
        exact = GoldenModel(replace(weights, kv=kv), config)
        yield row(recipe, group, kv, size, f"the bit-exact model, {kv} cache", exact.logits)
