"""What a board was asked before, by which it is guessed whose prompts it keeps."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["SentPrompts", "common_length"]

#: Prompts that are remembered of a board, and characters of all of them.
MOST, MOST_CHARACTERS = 256, 1 << 22


def common_length(a: str, b: str) -> int:
    """Leading characters that both have."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # halves, since comparing slices is much faster than a loop over characters
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


class SentPrompts:
    """Prompts of one board, the least recently used first. A board may have dropped some of them:
    that costs time only."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[str, None] = OrderedDict()
        self.characters = 0

    def longest(self, prompt: str) -> int:
        """Characters that ``prompt`` shares with the beginning of one of them."""
        return max((common_length(prompt, sent) for sent in self._prompts), default=0)

    def add(self, prompt: str) -> None:
        """One that the board is asked now; it covers those that it begins with."""
        for sent in [sent for sent in self._prompts if prompt.startswith(sent)]:
            self._drop(sent)
        self._prompts[prompt] = None
        self.characters += len(prompt)
        while len(self._prompts) > MOST or (self.characters > MOST_CHARACTERS and len(self._prompts) > 1):
            self._drop(next(iter(self._prompts)))

    def _drop(self, prompt: str) -> None:
        del self._prompts[prompt]
        self.characters -= len(prompt)

    def clear(self) -> None:
        """The board was started anew."""
        self._prompts.clear()
        self.characters = 0
