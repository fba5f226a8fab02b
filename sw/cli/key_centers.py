"""``hwgen model center``: what the keys of a model have in common, measured on texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...boards import load_board
from ...config import BuildConfig
from ...errors import HwgenError
from ...key_centers import KeyCenters
from ...packages import needs
from ...weights import ModelWeights
from ..models.key_centers import centers_path, write_centers
from ..models.library import shipped_models, shipped_path
from ..models.open import open_model
from ..verification.perplexity import WINDOW, encode_file
from .options import DEFAULT_BOARD, at_least
from .output import Output, Result

__all__ = ["TOKENS", "center", "measured"]

#: Tokens of each text that are measured, if nothing is said.
TOKENS = 2048


def measured(
    weights: ModelWeights, config: BuildConfig, windows: Sequence[Sequence[int]], output: Output
) -> tuple[KeyCenters, float]:
    """Centers of the keys in ``windows`` of token ids, and the share of the keys that they are."""
    with needs("measuring keys", "hwgen[sim]"):
        from ...golden.key_centers import measure_key_centers

    def progress(done: int, total: int) -> None:
        output.progress(f"keys of {done} of {total} windows")

    return measure_key_centers(weights, config, windows, progress)


def center(options: argparse.Namespace, output: Output) -> Result:
    if not options.text:
        raise HwgenError("usage", "hwgen model center measures on texts", "give --text FILE")
    limit = TOKENS if options.tokens is None else at_least(options, "tokens", 2)
    for path in options.text:
        if not path.is_file():
            raise HwgenError("usage", f"{path} is not a file", "give a text file")
    model = open_model(options.name, output.progress, quantized=True)
    place = centers_path(model.path)
    if model.path in [shipped_path(name) for name in shipped_models()]:
        raise HwgenError("model", f"{model.name} is part of hwgen, and stays as it is", f"copy {model.path}, and give the copy")
    begin = [] if model.tokenizer.begin is None else [model.tokenizer.begin]
    length = min(WINDOW, model.shape.max_context) - len(begin)
    windows = []
    for path in options.text:
        ids = encode_file(model.tokenizer, path, limit - 1)[0]
        parts = [ids[first : first + length] for first in range(0, len(ids), length)]
        windows += [part if begin == part[:1] else begin + part for part in parts]
    config = load_board(DEFAULT_BOARD).for_engine(model.weights.engine).config
    centers, share = measured(model.weights, config, windows, output)
    write_centers(place, centers)
    tokens = sum(map(len, windows))
    of = f"centers of {centers.mean.shape[0]} layers, of {tokens:,} tokens"
    output.show(f"{place}: {of}; of the squared length of keys {share:.0%} is their mean")
    return 0, {"model": model.name, "path": str(place), "layers": centers.mean.shape[0], "tokens": tokens, "share": share}
