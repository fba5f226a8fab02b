"""Perplexity of a text file under the float reference and under the machine's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...block_choice import first_position
from ...config import BuildConfig
from ...errors import HwgenError
from ...packages import needs
from ...weights import ModelWeights
from ..models.model import Model
from ..models.tokenizer import Tokenizer
from ..runtime.engine import Engine, Run
from ..runtime.llm import LLM
from ..runtime.logprobs import token_logprobs
from ..runtime.pages import Session

__all__ = ["WINDOW", "compare_perplexity", "device_perplexity", "encode_file", "score_text"]

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


def progress_of(progress: Callable[[str], None]) -> Callable[[int, int], None]:
    """Tells of every twentieth part that is done."""
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        if done * 20 // total > shown:
            shown = done * 20 // total
            progress(f"{done:,} of {total:,} tokens")

    return report


def row_json(nats: float, tokens: int, size: int) -> dict[str, float]:
    """Likelihood of ``tokens`` tokens that stand for ``size`` bytes, of summed negative logarithms."""
    return {
        "nats_per_token": nats / tokens,
        "bits_per_byte": nats / math.log(2) / size,
        "perplexity": math.exp(nats / tokens),
    }


def score_text(
    engine: Engine, ids: Sequence[int], length: int, report: Callable[[int, int], None], kv_budget: int = 0
) -> tuple[float, int]:
    """Summed negative logarithms of the probabilities of a text's tokens but the first, by the logits of the device, in windows of
    ``length`` tokens from position 0 on; and the cycles of all passes. With a budget of blocks, tokens that have more to choose
    from have passes of their own, as those of an answer.
    """
    nats, cycles, chunk, total = 0.0, 0, engine.image.chunk, len(ids) - 1
    whole = min(length, first_position(engine.config, kv_budget)) if kv_budget else length
    for begin in range(0, total, length):
        session, end = Session(), min(begin + length, total)
        exact = min(begin + whole, end)
        for first in (*range(begin, exact, chunk), *range(exact, end)):
            tokens = ids[first : min(first + chunk, exact)] or ids[first : first + 1]
            cycles += engine.run_pass([Run(session, tokens, len(tokens), budget=kv_budget)], write_logits=True).cycles
            for number in range(len(tokens)):
                nats -= token_logprobs(engine.logits(number), ids[first + number + 1], 0).logprob
            report(first + len(tokens), total)
        engine.pages.close(session)
    return nats, cycles


def device_perplexity(
    llm: LLM, path: Path, limit: int | None, window: int | None, progress: Callable[[str], None] = lambda text: None,
    kv_budget: int = 0,
) -> dict[str, Any]:
    """What ``hwgen perplexity --device --json`` prints: a text scored on the machine. ``window``: of the model's family;
    ``kv_budget``: as of :func:`score_text`.
    """
    ids, size = encode_file(llm.model.tokenizer, path, limit)
    length = min(llm.image.context, window or llm.image.context)
    config = llm.engine.config
    if kv_budget and first_position(config, kv_budget) >= length:
        most = (length - 1) // config.kv_block - 3
        raise HwgenError(
            "usage", f"a budget of {kv_budget} blocks chooses nothing in windows of {length} tokens, which this model is scored in",
            f"give {most} blocks or fewer" if most > 0 else "leave the budget out",
        )
    nats, cycles = score_text(llm.engine, ids, length, progress_of(progress), kv_budget)
    return {
        "model": llm.model.name,
        "file": str(path),
        "tokens": len(ids) - 1,
        "bytes": size,
        "device": llm.device.name,
        "simulated": llm.device.simulated,
        "cycles": cycles,
        "machine": row_json(nats, len(ids) - 1, size),
        "window": length,
        "kv_budget": kv_budget,
    }


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
    family, length = model.family, min(model.shape.max_context, config.max_context)
    length = min(length, family.window or length)
    exact = GoldenModel(weights, config).logits
    outcome = compare_models(
        family.float_reference(model.weights), exact, ids, length=length, batch=family.batch, progress=progress_of(progress)
    )

    return {
        "model": model.name,
        "file": str(path),
        "tokens": outcome.tokens,
        "bytes": size,
        "float": row_json(outcome.float_nats, outcome.tokens, size),
        "bit_exact": row_json(outcome.exact_nats, outcome.tokens, size),
        "gap": outcome.gap,
        "window": length,
    }
