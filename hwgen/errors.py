"""The error that a user can act on: what went wrong, of which kind, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["HwgenError", "did_you_mean"]


class HwgenError(Exception):
    """Bad input or environment. ``kind`` is a stable word for scripts, ``fix`` says what to do."""

    def __init__(self, kind: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        #: Stable category: checkpoint, architecture, tokenizer, context, configuration, contract, tool, device, model, session,
        #: file, internal, interrupted, busy or usage.
        self.kind = kind
        #: One line that states what is wrong.
        self.message = message
        #: One line that states what to do.
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message

    def to_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "message": self.message, "fix": self.fix}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The beginning of a fix: what of ``known`` is nearest to a word; empty where nothing is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}? " if near else ""
