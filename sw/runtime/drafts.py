"""Drafts: tokens that may follow are guessed, and verified in the pass that computes the next one.

A pass with a few tokens more costs hardly more, and what a draft has right is computed already. Every token is chosen as it would
be without drafts, from the same logits and the same random numbers, and a draft is right where it has that token: answers do not
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..compiler.pass_costs import PassCosts

__all__ = ["DRAFTS", "Drafter", "Guesser", "PromptLookup"]

#: Where drafts come from: what followed the last tokens when they stood in the text before, or nowhere.
DRAFTS = ("lookup", "none")

#: Part of a pass of one token that drafts of an answer may cost before they have saved anything, and with every pass.
DEBT, ALLOWANCE = 0.02, 0.002

#: Of what was seen of drafts, the part that still counts after another token.
MEMORY = 0.97


class Guesser(Protocol):
    """Guesses what follows a text."""

    #: Part of a pass of one token that its guesses may cost before they have saved anything.
    debt: float
    #: Whether its guesses take passes of the device.
    takes_passes: bool

    def most(self, text: Sequence[int], most: int) -> int:
        """How many tokens it may guess behind ``text``, which has grown since the last call: ``most`` at most."""

    def cycles(self, length: int) -> float:
        """What a guess of so many tokens costs, beside the pass that verifies it."""

    def guess(self, length: int) -> list[int]:
        """So many tokens behind the text of :meth:`most`."""

    def close(self) -> None:
        """Nothing more is asked: give back what is held."""


class PromptLookup:
    """Finds the last three tokens of a text in the text before, else the last two, and proposes what followed them there."""

    debt, takes_passes = DEBT, False

    def __init__(self) -> None:
        #: Where the token behind three or two tokens stands, where these stood last; those that end the text are not in it.
        self._behind: dict[tuple[int, ...], int] = {}
        self._text: Sequence[int] = ()
        #: Tokens of the text that were seen, the last three and two of them, and where the token behind these stands, if it does.
        self._known = 0
        self._three: tuple[int, ...] = ()
        self._two: tuple[int, ...] = ()
        self._at: int | None = None

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """At most ``most`` tokens that may follow ``text``, which has grown since the last call."""
        return self.guess(self.most(text, most))

    def most(self, text: Sequence[int], most: int) -> int:
        behind, two, three = self._behind, self._two, self._three
        for end in range(self._known, len(text)):
            behind[three] = behind[two] = end
            three = (*two, text[end])
            two = three[-2:]
        self._text, self._two, self._three, self._known, end = text, two, three, len(text), len(text)
        self._at = at = behind.get(two) if end > 1 else None
        if at is None:  # nor did three tokens of which these are two
            return 0
        self._at = at = behind.get(three, at)
        for length in range(min(most, end - at)):
            if text[at + length] < 0:  # a vector is no guess
                return length
        return min(most, end - at)

    def cycles(self, length: int) -> float:
        return 0.0

    def guess(self, length: int) -> list[int]:
        return [] if self._at is None else list(self._text[self._at : self._at + length])

    def close(self) -> None:
        """It holds nothing."""


@dataclass
class Drafter:
    """Drafts of one answer: as long as they pay by the model of a pass, and never for more than what they have saved, and a little
    to begin with (`Guesser.debt`) and go on with (`ALLOWANCE`): by so much an answer takes longer where every draft is wrong.
    """

    costs: PassCosts
    guesser: Guesser = field(default_factory=PromptLookup)
    #: Tokens proposed, those of them that were right, and passes since the prompt.
    proposed: int = 0
    accepted: int = 0
    passes: int = 0
    #: Drafted tokens that were looked at, and right, of late.
    _trials: float = 2.0
    _hits: float = 1.0
    #: Cycles of the pass that is asked for beyond those without its draft, and what a right token saves.
    _extra: float = 0.0
    _worth: float = 0.0
    #: Passes without a draft that the sums above do not have yet, and the tokens and logits of others in the next pass.
    _idle: int = 0
    _others: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._credit = self.guesser.debt * self.costs.cycles(1, 1)

    def propose(self, text: Sequence[int], most: int, tokens: int = 0, wanted: int = 0) -> list[int]:
        """A draft behind ``text`` of ``most`` tokens at most, in a pass with ``tokens`` tokens and ``wanted`` logits of others."""
        most = self.guesser.most(text, most)
        if self._others != (tokens, wanted):
            self._count_idle()
            self._others = tokens, wanted
        self._extra = 0.0
        if not most:
            return []
        self._count_idle()
        without = self.costs.cycles(tokens + 1, wanted + 1)
        self._worth = without / (wanted + 1)
        best, gain, likely, expected, cost = 0, 0.0, 1.0, 0.0, 0.0
        for length in range(1, most + 1):
            likely *= self._hits / self._trials
            expected += likely
            extra = self.costs.cycles(tokens + 1 + length, wanted + 1 + length) - without + self.guesser.cycles(length)
            if extra > self._credit:
                break
            if expected * self._worth - extra > gain:
                best, gain, cost = length, expected * self._worth - extra, extra
        draft = self.guesser.guess(best) if best else []
        if draft:
            self._extra = cost
        return draft

    def _count_idle(self) -> None:
        """Take passes without a draft into account, all of which had the same others."""
        idle, self._idle = self._idle, 0
        if idle:
            tokens, wanted = self._others
            faded = MEMORY**idle
            self._trials = faded * (self._trials - 2) + 2
            self._hits = faded * (self._hits - 1) + 1
            self._credit += idle * ALLOWANCE * self.costs.cycles(tokens + 1, wanted + 1) / (wanted + 1)

    def settle(self, drafted: int, right: int) -> None:
        """A pass has ended whose draft of so many tokens began with ``right`` right ones."""
        self.passes += 1
        if not drafted:
            self._idle += 1
            return
        self.proposed += drafted
        self.accepted += right
        self._trials = MEMORY * (self._trials - 2) + 2 + min(drafted, right + 1)
        self._hits = MEMORY * (self._hits - 1) + 1 + right
        self._credit += (ALLOWANCE + right) * self._worth - self._extra

    @property
    def tokens_per_pass(self) -> float | None:
        """Tokens of the answer that a pass gave; None where there was none behind the prompt."""
        return 1 + self.accepted / self.passes if self.passes else None
