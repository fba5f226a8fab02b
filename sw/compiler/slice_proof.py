"""The proof that a pass in slices does what the whole pass does: which scratch vectors live, and what every slice makes itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Opcode
from ...operators import OPERATORS, State, Vectors, accumulator_half, activation_half, possible_tokens
from .programs import Program, SlicedProgram

__all__ = ["Mask", "check_slices", "live_vectors", "written_vectors"]

Mask = npt.NDArray[np.bool_]


# ---- scratch ---------------------------------------------------------------------------------------------------------
def _mask(config: BuildConfig, at: Vectors, tokens: Iterable[int]) -> Mask:
    """Scratch vectors of ``tokens``."""
    mask = np.zeros(config.scratch_vectors, np.bool_)
    for token in tokens:
        of = at.of(token)
        mask[of.start : of.stop] = True
    return mask


def live_vectors(config: BuildConfig, slices: Sequence[Program], chunk: int) -> list[Mask]:
    """Before every slice: scratch vectors that it or a later one reads before any writes them."""
    live = np.zeros(config.scratch_vectors, np.bool_)
    before = []
    for program in reversed(slices):
        for d in reversed(program):
            row, tokens = OPERATORS[d.opcode], possible_tokens(d, chunk)
            live = (live & ~_mask(config, row.scratch_writes(d), tokens)) | _mask(config, row.scratch_reads(d), tokens)
        before.append(live)
    return before[::-1]


def written_vectors(config: BuildConfig, beside: Program) -> Mask:
    """Scratch vectors that the program for one token writes."""
    mask = np.zeros(config.scratch_vectors, np.bool_)
    for d in beside:
        mask |= _mask(config, OPERATORS[d.opcode].scratch_writes(d), possible_tokens(d, 1))
    return mask


# ---- everything else -------------------------------------------------------------------------------------------------
#: What is lost when the other is written: they share a memory.
_OVERWRITES = {State.HEAD_INPUT: State.QUERIES, State.QUERIES: State.HEAD_INPUT}
_HALVES = {State.ACTIVATIONS: activation_half, State.ACCUMULATORS: accumulator_half}


class _OnChip:
    """What a slice has made itself, of everything that does not survive."""

    def __init__(self, rounds: frozenset[int], chunk: int) -> None:
        #: First tokens of the rounds; the last token of a pass, whichever it is, counts as a round of its own, -1.
        self.rounds, self.chunk = rounds, chunk
        #: Vectors of the parameter memory, with the token that they belong to; -1: to every token.
        self.param: dict[int, int] = {}
        #: Rounds of everything else; by half, where there are two.
        self.made: defaultdict[tuple[State, int], set[int]] = defaultdict(set)
        #: Matrix that the ring keeps for the next round.
        self.held: int | None = None

    def _param(self, d: Descriptor, at: Vectors) -> dict[int, int]:
        if not at.stride:
            return dict.fromkeys(at.of(0), -1)
        return {vector: token for token in possible_tokens(d, self.chunk) for vector in at.of(token)}

    def execute(self, d: Descriptor) -> bool:
        """Whether ``d`` finds what it needs; it leaves what it makes."""
        row = OPERATORS[d.opcode]
        if Flag.LAST in d.flags:
            rounds = {-1}
        else:
            rounds = {start for start in self.rounds if d.token_start <= start < d.token_start + d.token_count}

        def place(state: State) -> tuple[State, int]:
            return state, _HALVES[state](d) if state in _HALVES else 0

        finds = self.held is None or d.fetch is Fetch.NONE
        finds &= self._param(d, row.param_reads(d)).items() <= self.param.items()
        finds &= all(rounds <= self.made[place(state)] for state in row.reads(d).each())
        self.param.update(self._param(d, row.param_writes(d)))
        for state in row.writes(d).each():
            if state in _HALVES:
                self.made[place(state)].clear()
            self.made[place(state)] |= rounds
            self.made.pop((_OVERWRITES.get(state, State.NONE), 0), None)
        if d.opcode is Opcode.LINEAR:
            finds &= d.fetch is Fetch.STREAM or self.held == d.stream_address
            self.held = d.stream_address if Flag.REPLAY in d.flags else None
        return finds


def _identity(d: Descriptor) -> Descriptor:
    """What an operator does, wherever it keeps it."""
    return replace(d, tag=0, buffers=Buffers.NONE, flags=d.flags & ~(Flag.REPLAY | Flag.MULTI), fetch=Fetch.NONE, src=0, dst=0)


def check_slices(config: BuildConfig, program: Sequence[Descriptor], sliced: SlicedProgram, chunk: int) -> None:
    """Prove that the slices do what ``program`` does, whatever happens on the chip between them, the beside program included."""
    rounds = frozenset(d.token_start for d in program if d.opcode is Opcode.LINEAR and Flag.LAST not in d.flags)
    done = Counter(_identity(d) for part in sliced.slices for d in part if not OPERATORS[d.opcode].repeatable(d))
    if done != Counter(_identity(d) for d in program if not OPERATORS[d.opcode].repeatable(d)):
        raise AssertionError("the slices must do every operator of the program once")
    for number, part in enumerate(sliced.slices):
        chip = _OnChip(rounds, chunk)
        for d in part:
            if not chip.execute(d):
                raise AssertionError(f"slice {number}: {d.opcode.name} of layer {d.layer} must find its inputs in the slice")
        if chip.held is not None:
            raise AssertionError(f"slice {number} leaves a matrix in the ring")
    taken = written_vectors(config, sliced.beside)
    for number, live in enumerate(live_vectors(config, sliced.slices, chunk)):
        if (live & taken).any() if number else live.any():
            raise AssertionError(f"vectors that slice {number} needs do not survive")
