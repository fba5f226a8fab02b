"""The error that a user can act on: what went wrong, of which kind, and what to do about it."""

from __future__ import annotations

__all__ = ["HwgenError"]


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
