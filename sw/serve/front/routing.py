"""Which board is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from .board_link import BoardLink

__all__ = ["Routes", "prompt_text"]

#: A board that has so many characters of a prompt is asked again: a page of tokens or two, beside what is written around every
#: message ...
LEAST = 96

#: ... unless it is asked so much more than another: answers of a round of lanes cost what one costs, more wait for each other.
IMBALANCE = 6


def prompt_text(body: dict[str, Any]) -> str:
    """The prompt of a request such that prompts of one model which begin alike have texts which begin alike."""
    prompt, messages, model = body.get("prompt"), body.get("messages"), body.get("model")
    if isinstance(messages, list):
        text = json.dumps(body.get("tools") or "") + "".join(map(json.dumps, messages))
    else:
        text = prompt if isinstance(prompt, str) else json.dumps(prompt).rstrip("]")
    return f"{model}\0{text}"


class Routes:
    """The boards that answer, and those that read prompts for them (none: each reads its own)."""

    def __init__(self, boards: Sequence[BoardLink], prompt_boards: Sequence[BoardLink] = (), *, least: int = LEAST) -> None:
        self.boards, self.prompt_boards, self._least = list(boards), list(prompt_boards), least

    def __iter__(self) -> Iterator[BoardLink]:
        return iter([*self.boards, *self.prompt_boards])

    def models(self) -> dict[str, dict[str, Any]]:
        """Cards of all models of boards that are up."""
        return {name: card for board in self if board.up for name, card in board.models.items()}

    def answering(self, model: str, prompt: str, tried: Sequence[BoardLink] = ()) -> BoardLink | None:
        """The board to answer; one that reads prompts where no other is left."""
        return self._choose(self.boards, model, prompt, tried) or self._choose(self.prompt_boards, model, prompt, tried)

    def reading(self, model: str, prompt: str) -> BoardLink | None:
        """The board to read a prompt."""
        return self._choose(self.prompt_boards, model, prompt, ())

    def _choose(
        self, boards: Sequence[BoardLink], model: str, prompt: str, tried: Sequence[BoardLink]
    ) -> BoardLink | None:
        """That which has most of the prompt, if that is worth it and it is not much busier than others; else the least busy one, of
        these the one that keeps least for others.
        """
        able = [board for board in boards if board.up and board not in tried and (model in board.models or not model)]
        if not able:
            return None
        shared = {id(board): board.sent.longest(prompt) for board in able}
        best = max(able, key=lambda board: (shared[id(board)], -board.busy))
        least = min(board.busy for board in able)
        if shared[id(best)] >= self._least and best.busy - least <= IMBALANCE:
            return best
        return min(able, key=lambda board: (board.busy, board.sent.characters))
