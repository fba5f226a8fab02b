"""Drafts of a second, smaller model on the same device."""

from __future__ import annotations

from collections.abc import Sequence

from .engine import Engine
from .pages import Session

__all__ = ["DraftModel"]

#: Tokens of a guess at most.
LONGEST = 8


class DraftModel:
    """Guesses what a smaller model would say (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023,
    section 2; here a guess is right where it is the token that the large model gives, so that nothing of the answer changes).

    Its passes lie between those of the large model, on the same device. Its session has the text as far as it was read; of what
    turned out differently the keys are written anew.
    """

    debt, takes_passes = 2.0, True

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._session = Session()
        self._text: Sequence[int] = ()

    def most(self, text: Sequence[int], most: int) -> int:
        self._text, tokens = text, self._session.tokens
        known = min(len(tokens), len(text) - 1)
        while tokens[:known] != list(text[:known]):
            known -= 1
        del tokens[known:]
        return max(0, min(most, LONGEST, self.engine.image.context - len(text) + 1))

    def cycles(self, length: int) -> float:
        """A pass a token, of which the first reads what is new. Reading the prompt is not counted."""
        costs, behind = self.engine.costs, len(self._text) - self._session.position
        blocks = self.engine.pages.blocks(len(self._text))
        new = min(behind, self.engine.image.chunk) if self._session.tokens else 1
        return costs.cycles(new, 1, blocks) + (length - 1) * costs.cycles(1, 1, blocks)

    def guess(self, length: int) -> list[int]:
        engine, session = self.engine, self._session
        new = list(self._text[session.position :])
        if engine.pages.missing(session, len(self._text) + length - 1) > engine.pages.free:
            return []
        best = engine.prefill(session, new)[-1].runs[0].best(0)
        found = [best]
        while len(found) < length:
            found.append(best := engine.forward(session, [best]).runs[0].best(0))
        return found

    def close(self) -> None:
        self.engine.pages.close(self._session)
