"""Runs of a pass, and what a pass did for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...block_choice import may_choose
from ...config import BuildConfig
from ...descriptors import Opcode
from ...draw import GREEDY, Draw
from ...registers import COUNTERS
from .pages import Session

__all__ = ["COUNTED", "COUNTER_NAMES", "Candidate", "PassResult", "Run", "RunResult"]

#: Names of the counters, in the order of their registers; those by operator with their places behind; all; two places.
COUNTER_NAMES = [name for name, _ in COUNTERS]
_OPCODES = [(o.name.lower(), len(COUNTERS) + o) for o in Opcode if o is not Opcode.END]
COUNTED = len(COUNTERS) + len(Opcode)
_CYCLES, _STREAM_BEATS = map(COUNTER_NAMES.index, ("cycles", "stream_beats"))


@dataclass(frozen=True)
class Candidate:
    """A token that the LM head found likely."""

    token: int
    logit: float


class Run(NamedTuple):
    """Tokens of one session in a pass, behind those it has, or in their places."""

    session: Session
    tokens: Sequence[int]
    #: The candidates, and on request the logits, behind so many of the last tokens are wanted.
    wanted: int = 0
    #: Position from which on the session has these tokens: their keys and values are computed again. They see keys of the cache
    #: as they were before the pass, and each other's. A session may have several such runs in a pass.
    at: int | None = None
    #: How a loop chooses its next tokens; None: it cannot.
    draw: Draw | None = GREEDY
    #: Blocks of the cache that its one token chooses for every key/value head, where it has more to choose from; 0: it attends to
    #: all. Runs of several tokens, and of tokens that the session has, attend to all.
    budget: int = 0

    @property
    def position(self) -> int:
        """Of the first token."""
        return self.session.position if self.at is None else self.at

    def choice(self, config: BuildConfig) -> int:
        """Blocks that its token chooses in fact; 0 where it attends to all."""
        if not self.budget or len(self.tokens) != 1 or self.at is not None:
            return 0
        return self.budget if may_choose(config, self.position, self.budget) else 0


@dataclass(frozen=True)
class RunResult:
    """What a pass did for a run."""

    tokens: int
    #: Candidates of every wanted token as the machine has them: ``[wanted, count, (token, bits of the logit)]``.
    words: npt.NDArray[np.uint32]
    #: Number of the first wanted token in the pass: its logits are :meth:`Engine.logits` of that.
    first: int

    @cached_property
    def candidates(self) -> tuple[tuple[Candidate, ...], ...]:
        """Best next tokens behind every wanted token, best first."""
        values = self.words[..., 1].view(np.float32).tolist()
        return tuple(tuple(map(Candidate, *pair)) for pair in zip(self.words[..., 0].tolist(), values, strict=True))

    def best(self, number: int) -> int:
        """The best token behind a wanted one."""
        return int(self.words[number, 0, 0])


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What one doorbell did."""

    #: In the order in which they were given.
    runs: tuple[RunResult, ...]
    #: Counters, and cycles by operator, in the order of their registers; those of time are 0 on the golden device.
    counted: Sequence[int]
    #: Passes that it did: those of a loop.
    passes: int = 1

    @property
    def counters(self) -> dict[str, int]:
        """Counters of ``hwgen.registers`` by name."""
        return dict(zip(COUNTER_NAMES, self.counted, strict=False))

    @property
    def opcode_cycles(self) -> dict[str, int]:
        """Cycles by operator."""
        return {name: self.counted[number] for name, number in _OPCODES}

    @property
    def tokens(self) -> int:
        """Tokens computed."""
        return sum(run.tokens for run in self.runs)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Best next tokens behind the last wanted token; empty where none was wanted."""
        return next((run.candidates[-1] for run in reversed(self.runs) if run.candidates), ())

    @property
    def cycles(self) -> int:
        """Cycles from doorbell to completion."""
        return self.counted[_CYCLES]

    @property
    def stream_beats(self) -> int:
        """Beats read through the ring."""
        return self.counted[_STREAM_BEATS]
