"""What a budget of cached blocks costs in quality: ``python -m hwgen.sw.analysis.retrieval_bench``.

Made-up facts ("The secret code of the lighthouse is 48213.") stand between the sentences of a text, at depths drawn by a fixed
seed. ``smollm2`` reads the text once, exactly; then for every fact and budget a fork of that session reads the beginning of its
sentence, exactly, and the digits are forced, a token a pass, with the budget. How likely the digits were is what the bench tells.
``--text FILE`` measures on the golden device; without it the figures are those kept in docs/data.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ...block_choice import attended_position
from ...boards import load_board
from ...errors import HwgenError
from ...formats import pack_bf16
from ...golden.decoder import GoldenModel, GoldenSession
from ..compiler.image import Image
from ..models.model import Model
from ..models.open import open_model
from ..models.tokenizer import Tokenizer
from ..progress import Ticker
from ..runtime.engine import Engine
from ..runtime.kv_arrays import KvArrays, pack_pages
from ..runtime.llm import LLM
from ..runtime.logprobs import token_logprobs
from ..runtime.pages import Session
from ..runtime.runs import Run

__all__ = ["DATA", "PAGE", "Asked", "Fact", "figures", "main", "plant", "read_exactly", "score", "shortened", "written"]

ROOT = Path(__file__).resolve().parents[2]
#: What was measured, and the page that has its table.
DATA, PAGE = ROOT / "docs" / "data" / "kv-budget-retrieval.json", ROOT / "docs" / "runtime.md"

MODEL, BOARD, KV = "smollm2", "kv260", "k8v8"

#: Tokens of the text with its facts; the seed of depths and digits; blocks that a token chooses, 0 is exact.
CONTEXT, SEED, BUDGETS = 1800, 1, (0, 8, 16, 32)

#: What has a secret code.
NAMES = (
    "lighthouse", "bakery", "castle", "library", "airport", "museum", "garden", "submarine", "theater", "factory", "hospital",
    "stadium", "bridge", "volcano", "temple", "market",
)

#: Tokens that are read at once.
PART = 256

_SEPARATOR = "<|endoftext|>"


class Fact(NamedTuple):
    """What is planted, and asked for."""

    name: str
    code: str

    @property
    def question(self) -> str:
        return f" The secret code of the {self.name} is"

    @property
    def sentence(self) -> str:
        return f"{self.question} {self.code}."


class Asked(NamedTuple):
    """A question as tokens, what is forced behind it, and how many tokens at the end of that are scored."""

    question: Sequence[int]
    answer: Sequence[int]
    scored: int


def facts_of(names: Sequence[str], seed: int) -> list[Fact]:
    """A code of five digits for every name."""
    draw = random.Random(seed)
    return [Fact(name, f"{draw.randrange(10_000, 100_000)}") for name in names]


def _ends(text: str) -> list[int]:
    """Where sentences end that another one follows."""
    return [found.start() for found in re.finditer(r"(?<=[.!?])\s+(?=\S)", text)]


def plant(text: str, facts: Sequence[Fact], seed: int) -> str:
    """The text with every fact once, each between two other sentences of it, in an order and at depths drawn by the seed."""
    ends = _ends(text)
    if len(ends) < len(facts):
        raise HwgenError("usage", f"the text has {len(ends)} places between sentences for {len(facts)} facts", "give a longer text")
    draw = random.Random(seed)
    parts, last = list[str](), 0
    for end, fact in zip(sorted(draw.sample(ends, len(facts))), draw.sample(facts, len(facts)), strict=True):
        parts += [text[last:end], fact.sentence]
        last = end
    return "".join([*parts, text[last:]])


def shortened(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    """As many whole sentences from the beginning as have at most so many tokens; the documents of a file follow each other."""
    text = "\n\n".join(part.strip() for part in text.split(_SEPARATOR))
    fitting = [end for end in _ends(text[: 8 * tokens]) if len(tokenizer.encode_text(text[:end])) <= tokens]
    if not fitting:
        raise HwgenError("usage", "the text has no sentence that is short enough", "give another text")
    return text[: fitting[-1]]


def read_exactly(engine: Engine, golden: GoldenModel, tokens: Sequence[int], ticker: Ticker) -> Session:
    """A session with keys and values of a text. The bit-exact model computes them many at once, which passes do not: they are the
    same bits.
    """
    reader = GoldenSession()
    for first in range(0, len(tokens), PART):
        golden.forward(reader, tokens[first : first + PART])
        ticker.tick(f"{reader.position:,} of {len(tokens):,} tokens read")
    elements, scales = (
        np.stack([torch.stack([layer[part][0] for layer in kind]).numpy() for kind in (reader.keys, reader.values)])
        for part in range(2)
    )
    # positions behind heads
    arrays = KvArrays(elements.swapaxes(2, 3).astype(np.int8), pack_bf16(scales.swapaxes(2, 3)))
    session = Session()
    engine.adopt(session, tokens)
    engine.pages.write(session.pages, pack_pages(engine.image, arrays))
    return session


def _force(
    engine: Engine, forks: Sequence[Session], asked: Sequence[Asked], budgets: Sequence[int], ticker: Ticker, title: str
) -> list[tuple[float, int]]:
    """Force answers behind forks that have read their questions, a token a pass; of each the logarithms of the scored tokens'
    probabilities, summed, and how many of these were the best.
    """
    found = [(0.0, 0)] * len(forks)
    for step in range(max(len(ask.answer) for ask in asked) - 1):
        open_ones = [i for i, ask in enumerate(asked) if step + 1 < len(ask.answer)]
        runs = [Run(forks[i], asked[i].answer[step : step + 1], 1, budget=budgets[i]) for i in open_ones]
        engine.run_pass(runs, write_logits=True)
        for number, i in enumerate(open_ones):
            following = asked[i].answer[step + 1]
            if step + 1 >= len(asked[i].answer) - asked[i].scored:
                row = engine.logits(number)
                nats, right = found[i]
                found[i] = nats + token_logprobs(row, following, 0).logprob, right + int(row.argmax() == following)
        ticker.tick(f"{title}, token {step + 1}")
    return found


def score(
    engine: Engine, context: Session, asked: Sequence[Asked], budgets: Sequence[int], ticker: Ticker
) -> list[list[tuple[float, int]]]:
    """By question and budget what :func:`_force` finds. Forks of several questions share passes, which changes no bit."""
    together, found = max(1, engine.image.chunk // len(budgets)), list[list[tuple[float, int]]]()
    for first in range(0, len(asked), together):
        group = asked[first : first + together]
        forks = list[Session]()
        try:
            for ask in group:
                reader = engine.pages.share(context, context.position)
                forks.append(reader)
                engine.prefill(reader, ask.question)
                forks += [engine.pages.share(reader, reader.position) for _ in budgets[1:]]
                ticker.tick(f"{first + len(forks) // len(budgets)} of {len(asked)} questions read")
            every = [ask for ask in group for _ in budgets]
            rows = _force(engine, forks, every, [*budgets] * len(group), ticker, f"facts {first + 1} to {first + len(group)}")
        finally:
            for fork in forks:
                engine.pages.close(fork)
        found += [rows[i : i + len(budgets)] for i in range(0, len(rows), len(budgets))]
    return found


def figures(image: Image, position: int, scored: int, found: Sequence[Sequence[tuple[float, int]]]) -> list[dict[str, float]]:
    """By budget: blocks that a token behind so many attends to, mean logarithm of a digit's probability, facts whose digits were
    all the best tokens, and digits that were.
    """
    whole = position // image.config.kv_block
    rows = []
    for number, budget in enumerate(BUDGETS):
        column = [row[number] for row in found]
        rows.append({
            "budget": budget, "blocks": attended_position(image.config, position, budget) // image.config.kv_block, "of": whole,
            "logprob": sum(nats for nats, _ in column) / scored / len(column),
            "exact": sum(right == scored for _, right in column), "digits": sum(right for _, right in column),
        })
    return rows


def measure(path: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Plant, read and ask on the golden device."""
    model = open_model(MODEL, progress, quantized=True)
    assert isinstance(model, Model)
    config = replace(load_board(BOARD).for_engine(model.weights.engine).config, kv_budget=max(BUDGETS))
    llm = LLM(replace(model, weights=replace(model.weights, kv=KV)), "golden", config, progress, reuse=False, draft="none")
    engine, tokenizer, ticker = llm.engine, llm.model.tokenizer, Ticker(progress, 2.0)
    facts = facts_of(NAMES, SEED)
    source = path.read_text(encoding="utf-8")
    room = CONTEXT - sum(len(tokenizer.encode_text(fact.sentence)) for fact in facts)
    text = plant(shortened(tokenizer, source, room), facts, SEED)
    tokens = [*([] if tokenizer.begin is None else [tokenizer.begin]), *tokenizer.encode_text(text)]
    asked = []
    for fact in facts:
        question, answer = tokenizer.encode_text(fact.question), tokenizer.encode_text(f" {fact.code}")
        if tokenizer.encode_text(f"{fact.question} {fact.code}") != [*question, *answer] or len(answer) != 1 + len(fact.code):
            raise HwgenError("model", f"{MODEL} has no token for every digit", "use a model that has")
        asked.append(Asked(question, answer, len(fact.code)))
    context = read_exactly(engine, GoldenModel(model.weights, config), tokens, ticker)
    found = score(engine, context, asked, BUDGETS, ticker)
    depth = [len(tokenizer.encode_text(text[: text.index(fact.sentence)])) for fact in facts]
    return {
        "command": f"python -m hwgen.sw.analysis.retrieval_bench --text {path.name} --write",
        "model": MODEL, "kv": KV, "build": {"board": BOARD, "kv_budget": config.kv_budget, "summary_rows": config.summary_rows,
                                            "kv_block": config.kv_block},
        "text": path.name, "text_sha256": hashlib.sha256(source.encode()).hexdigest(), "tokens": len(tokens), "seed": SEED,
        "budgets": figures(engine.image, len(tokens), asked[0].scored, found),
        "facts": [
            {"name": fact.name, "code": fact.code, "depth": at, "logprobs": [round(nats, 4) for nats, _ in row],
             "right": [right for _, right in row]}
            for fact, at, row in zip(facts, depth, found, strict=True)
        ],
    }


# ---- the page ----------------------------------------------------------------------------------------------------
def table(result: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    count = len(result["facts"])
    lines = [
        "| budget | whole blocks attended | log-likelihood a digit | digits that are the best token | facts with all five |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in result["budgets"]:
        lines.append(f"| {row['budget'] or 'none'} | {row['blocks']} of {row['of']} | {row['logprob']:.3f} | {row['digits']} of "
                     f"{5 * count} | {row['exact']} of {count} |")
    return "\n".join(lines)


def written(page: str, result: dict[str, Any]) -> str:
    """``page`` with its marked part as it is now."""
    before, opening, rest = page.partition("<!-- retrieval -->\n")
    _, closing, behind = rest.partition("<!-- /retrieval -->")
    return f"{before}{opening}{table(result)}\n{closing}{behind}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m hwgen.sw.analysis.retrieval_bench", description=__doc__)
    parser.add_argument("--text", type=Path, metavar="FILE", help="measure, with this text around the facts")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/data and the table in docs/runtime.md")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    if options.text is None:
        result = json.loads(DATA.read_text(encoding="utf-8"))
    else:
        result = measure(options.text, lambda text: print(text, file=sys.stderr, flush=True))
    if options.write:
        DATA.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), result), encoding="utf-8")
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
