"""The operators of the machine: a row an opcode says who executes it, what it waits for, what it may fetch, reads and writes.

Compiler, golden machine, generators, estimate and verification all read it here. What an operator computes is in
``golden/machine.py``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from .config import TRITS_PER_BYTE
from .descriptors import Buffers, Descriptor, Fetch, Flag, Format, Opcode

__all__ = [
    "OPERATORS", "Memory", "Operator", "State", "Unit", "Vectors", "accumulator_half", "accumulator_vectors", "activation_half",
    "active_tokens", "all_tokens", "check_complete", "has_more_rounds", "must_wait", "rope_heads", "segments", "skipped",
]


class Unit(enum.IntEnum):
    """Who executes operators; also the number of its bit wherever there is one a unit."""

    LOADER = 0
    VECTOR = 1
    LINEAR = 2
    ATTENTION = 3
    KV_WRITER = 4


class Memory(enum.Enum):
    """Where ``stream_address`` of a descriptor points."""

    #: The constant part of the image.
    CONSTANTS = enum.auto()
    #: The pages of keys and values.
    CACHE = enum.auto()


class State(enum.Flag):
    """What operators leave on the chip for one another, besides vectors of scratch and parameter memory."""

    NONE = 0
    #: Activations and accumulators, in the half that ``buffers`` names.
    ACTIVATIONS = enum.auto()
    ACCUMULATORS = enum.auto()
    #: Scales of the activations.
    SCALES = enum.auto()
    #: Queries, and in the same memory the input of the LM head.
    QUERIES = enum.auto()
    HEAD_INPUT = enum.auto()
    #: Keys and values of the chunk, in the KV store.
    KEYS = enum.auto()
    VALUES = enum.auto()
    #: Scores of vocabulary rows, and the short list of their blocks.
    SCORES = enum.auto()
    #: Candidates of the wanted tokens, and logits in memory.
    CANDIDATES = enum.auto()
    #: Blocks of the cache that runs have chosen.
    CHOICE = enum.auto()

    def each(self) -> Iterator[State]:
        """The kinds one by one (Python 3.10 does not iterate over a flag)."""
        return (kind for kind in State if kind is not State.NONE and kind in self)


@dataclass(frozen=True)
class Vectors:
    """``count`` vectors of every token, those of token ``t`` from ``base + t * stride``."""

    base: int = 0
    stride: int = 0
    count: int = 0

    def of(self, token: int) -> range:
        first = self.base + token * self.stride
        return range(first, first + self.count)


Place = Callable[[Descriptor], Vectors]


def _nowhere(d: Descriptor) -> Vectors:
    return Vectors()


def _nothing(d: Descriptor) -> State:
    return State.NONE


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What is true of every descriptor of one opcode, or follows from its fields."""

    unit: Unit
    #: Units that it waits for, its own among them.
    after: frozenset[Unit]
    #: Operators that it waits for where they use the same half of a memory.
    halves: Mapping[Opcode, Buffers] = field(default_factory=dict)
    #: What its data may be fetched by. NONE beside others: it also finds its data in the ring.
    fetches: tuple[Fetch, ...] = (Fetch.NONE,)
    #: Where its ``stream_address`` points, if it has one.
    memory: Memory | None = None
    #: Vectors of the scratch and of the parameter memory.
    scratch_reads: Place = _nowhere
    #: Of the scratch, beside: one row for all tokens.
    row_reads: Place = _nowhere
    scratch_writes: Place = _nowhere
    param_reads: Place = _nowhere
    param_writes: Place = _nowhere
    #: Everything else.
    reads: Callable[[Descriptor], State] = _nothing
    writes: Callable[[Descriptor], State] = _nothing


# ---- tokens ----------------------------------------------------------------------------------------------------------
def all_tokens(d: Descriptor, tokens: int, wanted: int) -> int:
    """Tokens that the descriptor counts in a pass of ``tokens`` tokens, ``wanted`` of them with logits."""
    return wanted if Flag.LOGITS in d.flags else tokens


def skipped(d: Descriptor, tokens: int, wanted: int, chooses: bool = False) -> bool:
    """Whether a pass leaves the descriptor out; ``chooses``: a run of it has a budget."""
    count = all_tokens(d, tokens, wanted)
    if Flag.CHOOSE in d.flags and not chooses:
        return True
    return d.token_start >= count or (Flag.MULTI in d.flags and count <= 2 * d.token_count)


def active_tokens(d: Descriptor, tokens: int, wanted: int) -> range:
    """Tokens, of the pass or of the wanted ones, that the descriptor works on in a pass that does not skip it."""
    return range(d.token_start, min(d.token_start + d.token_count, all_tokens(d, tokens, wanted)))


def has_more_rounds(d: Descriptor, tokens: int, wanted: int) -> bool:
    """Whether there are tokens behind those of the descriptor: REPLAY then holds the matrix."""
    return d.token_start + d.token_count < all_tokens(d, tokens, wanted)


# ---- parts -----------------------------------------------------------------------------------------------------------
def segments(d: Descriptor, tokens: int, blocks: int) -> int:
    """Segments of ``stream_beats`` that are fetched for ``tokens`` active tokens; of all runs together, ``blocks`` blocks are
    attended to in the cache, or pages of summaries looked at.
    """
    return {
        Fetch.NONE: 0,
        Fetch.STREAM: 1,
        Fetch.TOKEN: tokens,
        Fetch.POSITION: tokens,
        Fetch.CACHE: d.kv_heads * blocks,
        Fetch.SUMMARY: d.kv_heads * blocks,
        Fetch.SHORTLIST: d.row_blocks,
    }[d.fetch]


def rope_heads(d: Descriptor) -> dict[Flag, int]:
    """Heads of each kind that ROPE works on, in the order in which they lie."""
    counts = {Flag.QUERIES: d.heads, Flag.KEYS: d.kv_heads, Flag.VALUES: d.kv_heads}
    return {flag: count for flag, count in counts.items() if flag in d.flags}


def activation_half(d: Descriptor) -> int:
    return int(Buffers.ACTIVATION in d.buffers)


def accumulator_half(d: Descriptor) -> int:
    return int(Buffers.ACCUMULATOR in d.buffers)


# ---- the table -------------------------------------------------------------------------------------------------------
def _source(d: Descriptor) -> Vectors:
    return Vectors(d.src, d.src_stride, d.vectors)


def _target(d: Descriptor) -> Vectors:
    return Vectors(d.dst, d.dst_stride, d.vectors)


def _normed(d: Descriptor) -> Vectors:
    """The vectors of a token, or all of its heads."""
    return Vectors(d.src, d.src_stride, d.vectors * (d.heads if Flag.STORE in d.flags else 1))


def _norm_writes(d: Descriptor) -> State:
    if Flag.STORE in d.flags:
        return State.NONE
    return State.HEAD_INPUT if Flag.TO_QUERY in d.flags else State.ACTIVATIONS | State.SCALES


def _gains(d: Descriptor) -> Vectors:
    return Vectors() if Format.PLAIN in d.format else Vectors(d.param, 0, d.vectors)


def _rotated(d: Descriptor) -> Vectors:
    """Queries and keys, where they lie; values stay as they are."""
    heads = sum(count for flag, count in rope_heads(d).items() if flag is not Flag.VALUES)
    return Vectors(d.src, d.src_stride, heads * d.head_vectors)


_HEADS = {Flag.QUERIES: State.QUERIES, Flag.KEYS: State.KEYS, Flag.VALUES: State.VALUES}


def _rotary(d: Descriptor) -> Vectors:
    return Vectors() if d.format & (Format.MIX | Format.UNMIX) else Vectors(d.param, d.param_stride, d.head_vectors)


def _added(d: Descriptor) -> Vectors:
    """The row that ROPE adds to heads."""
    return Vectors(d.dst, 0, _rotated(d).count) if Flag.ADD in d.flags else Vectors()


def _chooses(d: Descriptor) -> bool:
    return Flag.CHOOSE in d.flags


def _rope_writes(d: Descriptor) -> State:
    state = State.NONE
    for flag in () if Flag.STORE in d.flags else rope_heads(d):
        state |= _HEADS[flag]
    return state


def _ranked(d: Descriptor) -> State:
    """What results of DRAIN go to besides the scratch."""
    kinds = {Flag.SHORTLIST: State.SCORES, Flag.CANDIDATES: State.CANDIDATES}
    return reduce(or_, (kind for flag, kind in kinds.items() if flag in d.flags), State.NONE)


def _drain_reads(d: Descriptor) -> State:
    return State.ACCUMULATORS | State.SCALES | (_ranked(d) if d.stride > 0 else State.NONE)


def accumulator_vectors(d: Descriptor) -> int:
    """Vectors of accumulators of a token that DRAIN reads, from ``row_blocks`` on."""
    return d.vectors * (TRITS_PER_BYTE if Flag.DIGITS in d.flags else 1)


#: Those of the units that read the ring or write the scratch beside VECTOR, which LINEAR and KV_WRITER run beside.
_ALL_READERS = frozenset({Unit.LOADER, Unit.VECTOR, Unit.LINEAR, Unit.ATTENTION})
_SCRATCH_WRITERS = frozenset({Unit.VECTOR, Unit.LOADER, Unit.ATTENTION})

#: Operators start in the order of the program. LOADER, LINEAR and ATTENTION, which read the ring, never run at the same time, nor
#: do LOADER, VECTOR and ATTENTION, which write the scratch, but for PARAM, which loads one place for parameters beside an operator
#: that may use the other; VECTOR runs beside LINEAR and KV_WRITER.
OPERATORS: Mapping[Opcode, Operator] = {
    Opcode.EMBED: Operator(
        unit=Unit.LOADER, after=_ALL_READERS, fetches=(Fetch.TOKEN, Fetch.STREAM), memory=Memory.CONSTANTS,
        scratch_writes=_target,
    ),
    Opcode.PARAM: Operator(
        unit=Unit.LOADER, after=_ALL_READERS - {Unit.VECTOR},
        halves=dict.fromkeys((Opcode.NORM, Opcode.DRAIN, Opcode.ROPE), Buffers.PARAMETER),
        fetches=(Fetch.STREAM,), memory=Memory.CONSTANTS,
        param_writes=lambda d: Vectors(d.dst, 0, d.vectors),
    ),
    Opcode.ROTARY: Operator(
        unit=Unit.LOADER, after=_ALL_READERS, fetches=(Fetch.POSITION,), memory=Memory.CONSTANTS,
        param_writes=_target,
    ),
    Opcode.NORM: Operator(
        # Writes one half of the activations, or heads in the place of what they were.
        unit=Unit.VECTOR, after=_SCRATCH_WRITERS, halves={Opcode.LINEAR: Buffers.ACTIVATION},
        scratch_reads=_normed, scratch_writes=lambda d: _normed(d) if Flag.STORE in d.flags else Vectors(), param_reads=_gains,
        writes=_norm_writes,
    ),
    Opcode.DRAIN: Operator(
        # Reads one half of the accumulators.
        unit=Unit.VECTOR, after=_SCRATCH_WRITERS, halves={Opcode.LINEAR: Buffers.ACCUMULATOR},
        scratch_reads=lambda d: _source(d) if d.flags & (Flag.ADD | Flag.MULTIPLY) else Vectors(), scratch_writes=_target,
        param_reads=lambda d: Vectors(d.param, 0, d.vectors) if Format.FP8 in d.format else Vectors(),
        reads=_drain_reads, writes=_ranked,
    ),
    Opcode.ROPE: Operator(
        # Writes queries, and the KV store that KV_WRITE reads.
        unit=Unit.VECTOR, after=_SCRATCH_WRITERS | {Unit.KV_WRITER},
        scratch_reads=lambda d: Vectors(d.src, d.src_stride, sum(rope_heads(d).values()) * d.head_vectors), row_reads=_added,
        scratch_writes=_rotated,
        param_reads=_rotary,
        writes=_rope_writes,
    ),
    Opcode.LINEAR: Operator(
        # Reads one half of the activations, writes one of the accumulators.
        unit=Unit.LINEAR, after=frozenset({Unit.LINEAR, Unit.LOADER, Unit.ATTENTION}),
        halves={Opcode.NORM: Buffers.ACTIVATION, Opcode.DRAIN: Buffers.ACCUMULATOR},
        fetches=(Fetch.NONE, Fetch.STREAM), memory=Memory.CONSTANTS,
        reads=lambda d: State.ACTIVATIONS, writes=lambda d: State.ACCUMULATORS,
    ),
    Opcode.ATTENTION: Operator(
        unit=Unit.ATTENTION, after=frozenset(Unit), fetches=(Fetch.CACHE, Fetch.SUMMARY), memory=Memory.CACHE,
        scratch_writes=lambda d: Vectors() if _chooses(d) else Vectors(d.dst, d.dst_stride, d.heads * d.head_vectors),
        reads=lambda d: State.QUERIES if _chooses(d) else State.QUERIES | State.KEYS | State.VALUES | State.CHOICE,
        writes=lambda d: State.CHOICE if _chooses(d) else State.NONE,
    ),
    Opcode.HEAD: Operator(
        unit=Unit.ATTENTION, after=frozenset(Unit), fetches=(Fetch.SHORTLIST,), memory=Memory.CONSTANTS,
        reads=lambda d: State.HEAD_INPUT | State.SCORES, writes=lambda d: State.CANDIDATES,
    ),
    Opcode.KV_WRITE: Operator(
        unit=Unit.KV_WRITER, after=frozenset({Unit.KV_WRITER, Unit.VECTOR, Unit.ATTENTION}), memory=Memory.CACHE,
        reads=lambda d: State.KEYS | State.VALUES,
    ),
}


def must_wait(later: Descriptor, earlier: Descriptor) -> bool:
    """Whether ``later`` may start only after ``earlier``, which precedes it in the program, has ended. END waits for everything."""
    if later.opcode is Opcode.END:
        return True
    row, unit = OPERATORS[later.opcode], OPERATORS[earlier.opcode].unit
    if unit in row.after:
        return True
    half = row.halves.get(earlier.opcode, Buffers.NONE)
    return bool(half) and (later.buffers & half) == (earlier.buffers & half)


def check_complete(found: Collection[Opcode], where: str, wanted: Collection[Opcode] | None = None) -> None:
    """Refuse a module whose table ``found`` has forgotten an operator; ``wanted``: all of them, if not given. Called on import."""
    expected = set(Opcode) - {Opcode.END} if wanted is None else set(wanted)
    wrong = sorted(expected ^ set(found))
    if wrong:
        names = ", ".join(f"{o.name} {'is missing' if o in expected else 'does not belong there'}" for o in wrong)
        raise AssertionError(f"{where}: {names}")


check_complete(OPERATORS, "hwgen/operators.py, OPERATORS")
