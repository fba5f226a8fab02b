"""A descriptor as the golden machine executes it: what follows from its fields is worked out once, not in every pass."""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import accumulate

from ..descriptors import Descriptor, Flag, Format, Opcode
from ..operators import (
    OPERATORS,
    Operator,
    State,
    Vectors,
    accumulator_half,
    accumulator_vectors,
    activation_half,
    active_tokens,
    rope_heads,
    skipped,
)

__all__ = ["Operation", "decoded"]

#: DRAIN modes by flag.
_DRAIN_MODES = {Flag.STORE: "store", Flag.RELU2: "relu2", Flag.SILU: "silu", Flag.MULTIPLY: "multiply", Flag.ADD: "add"}


class Operation(Descriptor):
    """A descriptor with what its row of :data:`hwgen.operators.OPERATORS` says of it."""

    @cached_property
    def row(self) -> Operator:
        return OPERATORS[self.opcode]

    @cached_property
    def scratch_reads(self) -> Vectors:
        return self.row.scratch_reads(self)

    @cached_property
    def row_reads(self) -> Vectors:
        return self.row.row_reads(self)

    @cached_property
    def scratch_writes(self) -> Vectors:
        return self.row.scratch_writes(self)

    @cached_property
    def param_reads(self) -> Vectors:
        return self.row.param_reads(self)

    @cached_property
    def param_writes(self) -> Vectors:
        return self.row.param_writes(self)

    @cached_property
    def accumulator_half(self) -> int:
        return accumulator_half(self)

    @cached_property
    def activation_half(self) -> int:
        return activation_half(self)

    @cached_property
    def one_round(self) -> bool:
        """Whether it works on a round's tokens at most."""
        return bool((self.row.reads(self) | self.row.writes(self)) & (State.ACTIVATIONS | State.ACCUMULATORS))

    @cached_property
    def fp8(self) -> bool:
        return Format.FP8 in self.format

    @cached_property
    def stores(self) -> bool:
        return Flag.STORE in self.flags

    @cached_property
    def drain_modes(self) -> tuple[str, ...]:
        """One, in a program that the machine defines."""
        return tuple(mode for flag, mode in _DRAIN_MODES.items() if flag in self.flags)

    @cached_property
    def reads_scratch(self) -> bool:
        return self.scratch_reads.count > 0

    @cached_property
    def accumulators(self) -> Vectors:
        """Those of a token that DRAIN reads."""
        return Vectors(self.row_blocks, 0, accumulator_vectors(self))

    @cached_property
    def joins_digits(self) -> bool:
        return Flag.DIGITS in self.flags

    @cached_property
    def chooses(self) -> bool:
        return Flag.CHOOSE in self.flags

    @cached_property
    def e4m3_query(self) -> bool:
        return Format.FP8_QUERY in self.format

    @cached_property
    def mixing(self) -> Format:
        """MIX, UNMIX, or neither."""
        return self.format & (Format.MIX | Format.UNMIX)

    @cached_property
    def adds(self) -> bool:
        return Flag.ADD in self.flags

    @cached_property
    def of_vocabulary(self) -> bool:
        """Whether rows of DRAIN are of a vocabulary."""
        return bool(self.flags & (Flag.SHORTLIST | Flag.CANDIDATES))

    @cached_property
    def rope_heads(self) -> dict[Flag, slice]:
        """Where heads of each kind are among those that ROPE works on."""
        counts = rope_heads(self)
        ends = list(accumulate(counts.values()))
        return {flag: slice(end - count, end) for (flag, count), end in zip(counts.items(), ends, strict=True)}

    @cached_property
    def rotated_heads(self) -> int:
        """How many of them are rotated or mixed: queries and keys, which come first."""
        return max((heads.stop for flag, heads in self.rope_heads.items() if flag is not Flag.VALUES), default=0)


@lru_cache(maxsize=1 << 16)
def decoded(data: bytes, tokens: int, wanted: int, chooses: bool = False) -> tuple[Operation, range]:
    """An operation from the bytes of its descriptor, and its active tokens (none where it is skipped, or the END) in a pass of so
    many tokens and wanted ones; ``chooses``: a run of it has a budget.
    """
    d = Operation(**vars(Descriptor.unpack(data)))
    if d.opcode is Opcode.END or skipped(d, tokens, wanted, chooses):
        return d, range(0)
    return d, active_tokens(d, tokens, wanted)
