"""Where the text of a command goes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Output", "Result"]

#: Exit code of a command, and the object that ``--json`` prints.
Result = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Output:
    """Results go to standard output unless it carries JSON, progress to standard error."""

    as_json: bool = False
    quiet: bool = False

    def progress(self, text: str) -> None:
        if not self.quiet:
            print(f"hwgen: {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that was asked for, on standard error."""
        print(text, file=sys.stderr, flush=True)

    def show(self, text: str = "", end: str = "\n") -> None:
        if not self.as_json:
            print(text, end=end, flush=True)
