"""Perplexity of a text file under the float reference and under the machine's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...config import BuildConfig
from ...errors import HwgenError
from ...packages import needs
from ...weights import ModelWeights
from ..models.model import Model
from ..models.tokenizer import Tokenizer

__all__ = ["WINDOW", "compare_perplexity", "encode_file"]

#: Tokens of a window in which quantised models are scored.
WINDOW = 512

SEPARATOR = "<|endoftext|>"


def encode_file(tokenizer: Tokenizer, path: Path, limit: int | None = None) -> tuple[list[int], int]:
    """``(token ids, bytes they stand for)`` of a text file, at most ``limit + 1`` ids (``limit`` of them predicted).

    Documents are separated by lines ``<|endoftext|>``; each starts with the begin token and counts one byte for its end.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HwgenError("usage", f"{path} cannot be read as UTF-8 text", "give a text file") from error
    begin = [] if tokenizer.begin is None else [tokenizer.begin]
    ids: list[int] = []
    size = 0
    for document in filter(None, (part.strip() for part in text.split(SEPARATOR))):
        own = tokenizer.encode_text(document)
        room = len(own) if limit is None else limit + 1 - len(ids) - len(begin)
        if room <= 0:
            break
        ids += begin + own[:room]
        size += len(document.encode()) + 1 if room >= len(own) else len(tokenizer.decode(own[:room]).encode())
    if len(ids) < 2:
        raise HwgenError("usage", f"{path} holds fewer than two tokens", "give a longer text")
    return ids, size


def compare_perplexity(
    model: Model,
    weights: ModelWeights,
    path: Path,
    config: BuildConfig,
    limit: int | None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """What ``hwgen perplexity --json`` prints: the model in float arithmetic, and ``weights``, the same as the machine has them."""
    with needs("perplexity", "hwgen[sim]"):
        from ...golden.decoder import GoldenModel
        from ...golden.perplexity import compare_models
    ids, size = encode_file(model.tokenizer, path, limit)
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        if done * 20 // total > shown:
            shown = done * 20 // total
            progress(f"{done:,} of {total:,} tokens")

    family, length = model.family, min(model.shape.max_context, config.max_context)
    length = min(length, family.window or length)
    exact = GoldenModel(weights, config).logits
    outcome = compare_models(
        family.float_reference(model.weights), exact, ids, length=length, batch=family.batch, progress=report
    )

    def row(nats: float, perplexity: float) -> dict[str, float]:
        return {
            "nats_per_token": nats / outcome.tokens,
            "bits_per_byte": nats / math.log(2) / size,
            "perplexity": perplexity,
        }

    return {
        "model": model.name,
        "file": str(path),
        "tokens": outcome.tokens,
        "bytes": size,
        "float": row(outcome.float_nats, outcome.float_perplexity),
        "bit_exact": row(outcome.exact_nats, outcome.exact_perplexity),
        "gap": outcome.gap,
        "window": length,
    }
