"""Tokens of an answer to text that may be sent: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from ..models.tokenizer import TextStream, Tokenizer

__all__ = ["AnswerText"]


class AnswerText:
    """Text piece by piece, of an answer to the tokens ``after``. What may be the beginning of a stop string is held back until
    that is known.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], after: Sequence[int] = ()) -> None:
        self._stream = TextStream(tokenizer, after)
        self._stops = stops
        self._held = ""
        #: True when a stop string was found: nothing follows.
        self.stopped = False

    def add(self, token: int) -> str:
        """Text that became certain with ``token``."""
        return self._pass_on(self._stream.add(token))

    def finish(self) -> str:
        """What was still held back."""
        text = self._pass_on(self._stream.finish())
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _pass_on(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        hold = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]
