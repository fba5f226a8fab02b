"""Tokens a pass that drafts from the text before give: ``python -m hwgen.sw.analysis.draft_bench``.

Twenty prompts of three kinds (chat, summary of a text in the prompt, edit of code in the prompt) and the greedy answers of
``smollm2`` on the golden device are in `PROMPTS`; ``--record`` writes them anew, in some minutes. An answer does not depend on
drafts, so what a drafter proposes behind each of its tokens, and what of that is right, follows from the answer. Cycles are
estimated.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...boards import load_board
from ...errors import HwgenError
from ...published import published_model
from ...rounding import ceil_div
from ..compiler.image import Image
from ..compiler.pass_costs import PassCosts, pass_costs
from ..runtime.drafts import Drafter
from ..runtime.generation import Generation
from ..runtime.jobs import Job
from ..runtime.llm import LLM
from ..runtime.sampling import Sampling
from ..runtime.scheduler import Scheduler
from .estimate import planned_image

__all__ = ["PROMPTS", "Replay", "main", "replay"]

#: Prompts, their kinds, and recorded answers.
PROMPTS = Path(__file__).with_name("draft_prompts.json")

MODEL, SHAPE, BOARD = "smollm2", "smollm2-135m", "kv260"

#: Longest recorded answer.
NEW_TOKENS = 48

#: Answers that are recorded together.
TOGETHER = 16


@dataclass(frozen=True)
class Replay:
    """One answer as drafts would have it computed."""

    #: Tokens behind the first, which comes with the prompt, and passes for them.
    tokens: int
    passes: int
    #: Estimated cycles of these passes, and of one a token.
    cycles: float
    without: float


def replay(costs: PassCosts, block: int, prompt: Sequence[int], answer: Sequence[int], chunk: int) -> Replay:
    """Run the drafter over a known answer. ``block``: tokens of a page, ``chunk``: of a pass."""
    drafter, text, at, passes, cycles = Drafter(costs), [*prompt, *answer[:1]], 1, 0, 0.0
    while at < len(answer):
        draft = drafter.propose(text, min(chunk - 1, len(answer) - at - 1))
        right = 0
        while right < len(draft) and draft[right] == answer[at + right]:
            right += 1
        cycles += costs.cycles(1 + len(draft), 1 + len(draft), ceil_div(len(text) - 1, block))
        drafter.settle(len(draft), right)
        text += answer[at : at + right + 1]
        at, passes = at + right + 1, passes + 1
    places = range(len(prompt), len(prompt) + len(answer) - 1)
    return Replay(len(answer) - 1, passes, cycles, sum(costs.cycles(1, 1, ceil_div(n, block)) for n in places))


def record(progress: Callable[[str], None]) -> None:
    """Answer every prompt on the golden device, many in a pass, and keep the tokens."""
    llm = LLM(MODEL, "golden", BOARD, progress, draft="none", cache_tokens=TOGETHER * 512)
    content = json.loads(PROMPTS.read_text(encoding="utf-8"))
    scheduler = Scheduler(llm.engine, max_running=TOGETHER, time_between_tokens=math.inf)

    def keep(row: dict[str, Any], generation: Generation, error: HwgenError | None) -> None:
        if error is not None:
            raise error
        row["prompt_tokens"], row["answer"] = list(generation.prompt), generation.tokens
        row["answer_text"] = llm.model.tokenizer.decode(generation.tokens)
        progress(f"{row['kind']}: {row['answer_text']!r}")

    for row in content["prompts"]:
        generation = llm.generation(llm.model.tokenizer.encode_chat(row["prompt"]), NEW_TOKENS, Sampling())
        scheduler.submit(Job(generation, lambda item: None, partial(keep, row, generation)))
    while scheduler.step():
        pass
    rows = ",\n".join(json.dumps(row) for row in content["prompts"])
    PROMPTS.write_text(f'{{"prompts": [\n{rows}\n]}}\n', encoding="utf-8")


def measured() -> tuple[list[tuple[str, Replay]], Image]:
    """Every prompt by its kind, with drafts on the board that is estimated."""
    published = published_model(SHAPE)
    config = load_board(BOARD).for_engine(published.engine).config
    image = planned_image(config, published.shape, published.engine, layer=published.layer)
    rows: list[dict[str, Any]] = json.loads(PROMPTS.read_text(encoding="utf-8"))["prompts"]
    if any("answer" not in row for row in rows):
        raise HwgenError("usage", f"{PROMPTS.name} has no answers yet", "add --record")
    costs = pass_costs(image)
    return [
        (row["kind"], replay(costs, config.kv_block, row["prompt_tokens"], row["answer"], image.chunk)) for row in rows
    ], image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="answer the prompts on the golden device again")
    if parser.parse_args().record:
        record(lambda text: print(text, flush=True))
    found, _ = measured()
    print(f"{MODEL} on {BOARD}, greedy, drafts from the text before; cycles estimated")
    for kind in dict.fromkeys(kind for kind, _ in found):
        own = [r for k, r in found if k == kind]
        tokens, passes = sum(r.tokens for r in own), sum(r.passes for r in own)
        gains = [r.without / r.cycles for r in own if r.cycles]
        print(
            f"{kind:8} {len(own)} prompts, {tokens:4} tokens in {passes:4} passes: {tokens / passes:.2f} tokens a pass; "
            f"{sum(r.without for r in own) / sum(r.cycles for r in own):.2f} times the tokens a second (a prompt {min(gains):.3f} "
            f"to {max(gains):.2f})"
        )


if __name__ == "__main__":
    main()
