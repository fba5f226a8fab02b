"""Lines that a user types: with editing and history in a terminal, as they come elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...errors import HwgenError
from ...files import data_directory

if TYPE_CHECKING:
    from prompt_toolkit.history import History

__all__ = ["line_reader"]

PROMPT = "> "

#: Reads a line without white space around it; None at the end of the input.
Reader = Callable[[], "str | None"]


def line_reader(terminal: bool) -> Reader:
    """How lines are read: in a terminal with `prompt_toolkit`, where that is installed."""
    if not terminal:
        return lambda: _plain("")
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output
    except ImportError:
        return lambda: _plain(PROMPT)
    session: PromptSession[str] = PromptSession(
        PROMPT, history=_history(), output=create_output(stdout=sys.stderr), enable_suspend=True, reserve_space_for_menu=0
    )

    def read() -> str | None:
        try:
            return session.prompt().strip()
        except EOFError:
            return None

    return read


def _plain(prompt: str) -> str | None:
    if prompt:
        print(prompt, end="", file=sys.stderr, flush=True)
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise HwgenError("usage", f"the input is no text in {error.encoding}", "give it in the encoding of the terminal") from error
    return line.strip() if line else None


def _history() -> History:
    """Of this and earlier conversations; of this alone where the place for it cannot be written."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = data_directory() / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)  # what was said is for its owner
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
