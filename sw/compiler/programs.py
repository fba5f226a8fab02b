"""Programs as data: a pass in one piece, or cut into slices with a program for one token beside it."""

from __future__ import annotations

from dataclasses import dataclass

from ...descriptors import DESCRIPTOR_BYTES, Descriptor, pack_program, unpack_program
from ...operators import OPERATORS, skipped

__all__ = ["Program", "SlicedProgram", "is_needed", "pack_slices", "unpack_slices"]

Program = tuple[Descriptor, ...]


@dataclass(frozen=True)
class SlicedProgram:
    """What interrupts a pass and what it is cut into."""

    #: One token through the whole model, in scratch vectors of its own.
    beside: Program
    slices: tuple[Program, ...]

    def __post_init__(self) -> None:
        if not all(self.slices) or not self.beside:
            raise AssertionError("an empty program ends the list of programs")


def pack_slices(program: SlicedProgram) -> tuple[bytes, tuple[int, ...]]:
    """The beside program and every slice one behind the other, each closed by END; and where each begins."""
    parts, offsets, at = [], [], 0
    padding = pack_program(())
    for descriptors in (program.beside, *program.slices):
        parts.append(pack_program(descriptors)[: (len(descriptors) + 1) * DESCRIPTOR_BYTES])
        offsets.append(at)
        at += len(parts[-1])
    return b"".join([*parts, padding]), tuple(offsets)


def unpack_slices(data: bytes) -> SlicedProgram:
    """Inverse of :func:`pack_slices`."""
    programs: list[Program] = []
    at = 0
    while part := tuple(unpack_program(data[at:])):
        programs.append(part)
        at += (len(part) + 1) * DESCRIPTOR_BYTES
    return SlicedProgram(programs[0], tuple(programs[1:]))


def is_needed(program: Program, tokens: int, logits: bool) -> bool:
    """Whether a slice does anything in a pass of ``tokens`` tokens."""
    return any(not OPERATORS[d.opcode].repeatable(d) and not skipped(d, tokens, logits) for d in program)
