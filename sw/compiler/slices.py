"""A pass that can be interrupted: the program of a model cut into slices, and a program for one token beside it.

A slice is a program of its own, rung like a pass. Between two slices nothing of the interrupted pass is on the chip but its
vectors in the scratch memory, and one token of another session may go through the machine with the *beside* program, whose
vectors lie where the slices have none that are still needed. So a slice makes all else anew that it reads: it loads gains and
rotary rows, and norms, from vectors that have not changed since. What changes its own input (sums, products, rotation, keys and
values) is never done twice.

Nothing here knows how a layer looks. Which operator needs which is found in the program, and `slice_proof.check_slices` proves of
every program that is written that no slice reads what another left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import Buffers, Descriptor, Fetch, Flag, Opcode
from ...operators import OPERATORS
from ...shape import ModelShape
from .placement import ScratchPlan, SegmentPlan, plan_scratch
from .programs import Program, SlicedProgram
from .slice_proof import check_slices, live_vectors, written_vectors

__all__ = ["Planner", "ProgramCutter", "plan_slices"]


class Planner(Protocol):
    """What is asked of a compiler: a program with its plan, and another compiler like it."""

    config: BuildConfig
    shape: ModelShape
    weights: Any
    head_kind: str
    gain_vectors: int
    bias_vectors: int
    plan: ScratchPlan
    memory: SegmentPlan
    program: list[Descriptor]

    def __init__(self, config: BuildConfig, weights: Any, head: str) -> None: ...

    def plan_program(self) -> None: ...


# ---- cutting ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Round:
    """One panel for one round of tokens: its norm, the product, and its drains. ``needs``: what is loaded for them."""

    norm: Descriptor
    linear: Descriptor
    drains: tuple[Descriptor, ...]
    needs: tuple[Descriptor, ...]


class ProgramCutter:
    """Finds in a program what belongs together."""

    def __init__(self, config: BuildConfig, program: Sequence[Descriptor], plan: ScratchPlan) -> None:
        self.config, self.plan = config, plan
        self.program = list(program)
        #: First operator of the head.
        self.tail = next(
            (i for i, d in enumerate(self.program) if Flag.LOGITS in d.flags and d.opcode is not Opcode.PARAM), len(self.program)
        )

    def loaded(self, index: int) -> list[Descriptor]:
        """The PARAM operators whose vectors the operator at ``index`` reads."""
        d = self.program[index]
        missing = set(OPERATORS[d.opcode].param_reads(d).of(0))
        found = []
        for earlier in reversed(self.program[:index]):
            if not missing:
                break
            loads = OPERATORS[earlier.opcode].param_writes(earlier).of(0)
            if earlier.opcode is Opcode.PARAM and missing.intersection(loads):
                missing.difference_update(loads)
                found.append(earlier)
        return found[::-1]

    def round_of(self, index: int) -> Round:
        """The LINEAR at ``index`` with its norm and its drains."""
        linear = self.program[index]
        half = linear.buffers & Buffers.ACCUMULATOR
        norm = next(
            i for i in range(index - 1, -1, -1)
            if (d := self.program[i]).opcode is Opcode.NORM and d.token_start == linear.token_start and Flag.STORE not in d.flags
            and not (d.buffers ^ linear.buffers) & Buffers.ACTIVATION
        )
        drains = []
        for i in range(index + 1, len(self.program)):
            d = self.program[i]
            if d.opcode is Opcode.LINEAR and d.buffers & Buffers.ACCUMULATOR == half:
                break
            if d.opcode is Opcode.DRAIN and d.buffers & Buffers.ACCUMULATOR == half:
                drains.append(i)
        needs = [need for i in (norm, *drains) for need in self.loaded(i)]
        once = replace(self.program[norm], flags=self.program[norm].flags & ~Flag.MULTI)
        return Round(once, linear, tuple(self.program[i] for i in drains), tuple(dict.fromkeys(needs)))

    def panel(self, rounds: Sequence[Round]) -> Program:
        """One panel for some rounds: while the engine works on one, the next is normed and the one before drained."""
        c = self.config
        replayed = len(rounds) > 1 and rounds[0].linear.stream_beats <= c.replay_beats
        program = list(dict.fromkeys(need for part in rounds for need in part.needs))

        def norm(i: int) -> Descriptor:
            return replace(rounds[i].norm, buffers=Buffers.ACTIVATION if i % 2 else Buffers.NONE)

        program.append(norm(0))
        for i, part in enumerate(rounds):
            half = Buffers.ACCUMULATOR if i % 2 else Buffers.NONE
            program.append(
                replace(
                    part.linear,
                    buffers=half | (Buffers.ACTIVATION if i % 2 else Buffers.NONE),
                    fetch=Fetch.NONE if replayed and i else Fetch.STREAM,
                    flags=Flag.REPLAY if replayed and i + 1 < len(rounds) else Flag.NONE,
                )
            )
            if i:
                program += self._drains(rounds, i - 1)
            if i + 1 < len(rounds):
                program.append(norm(i + 1))
        return (*program, *self._drains(rounds, len(rounds) - 1))

    @staticmethod
    def _drains(rounds: Sequence[Round], i: int) -> Iterator[Descriptor]:
        for d in rounds[i].drains:
            yield replace(d, buffers=Buffers.ACCUMULATOR if i % 2 else Buffers.NONE)

    def in_product(self, d: Descriptor) -> bool:
        """Whether ``d`` writes the feed-forward product, or reads it."""
        if d.opcode is Opcode.DRAIN:
            return bool(d.flags & (Flag.RELU2 | Flag.SILU | Flag.MULTIPLY)) and Flag.SHORTLIST not in d.flags
        return d.opcode is Opcode.NORM and d.src == self.plan.g

    def cut(self, product: int | None = None) -> list[Program]:
        """Slices of one panel each, one of a layer's attention, one of embedding and of head. With ``product``, the
        feed-forward layer goes round by round, and the product of every round lies there in the scratch.
        """
        slices: list[Program] = []
        panels: dict[int, list[Round]] = {}
        rotary: list[Descriptor] = []
        ropes: list[Descriptor] = []  # and the norms of what they rotate, and what is loaded for both
        for i, d in enumerate(self.program[: self.tail]):
            if d.opcode is Opcode.LINEAR:
                panels.setdefault(d.stream_address, []).append(self.round_of(i))
            elif d.opcode is Opcode.EMBED:
                slices.append((d,))
            elif d.opcode is Opcode.ROTARY:
                rotary = [d]
            elif d.opcode is Opcode.ROPE or (d.opcode is Opcode.NORM and Flag.STORE in d.flags):
                ropes += (*(need for need in self.loaded(i) if need not in ropes), d)
            elif d.opcode is Opcode.ATTENTION:
                slices += self._panels(panels, product)
                panels, found = {}, (*rotary, *ropes, d, self.program[i + 1])
                slices.append(found)
                ropes = []
        slices += self._panels(panels, product)
        if self.tail < len(self.program):
            tail = self.program[self.tail :]
            needs = [need for i in range(self.tail, len(self.program)) for need in self.loaded(i) if need not in tail]
            slices.append((*dict.fromkeys(needs), *tail))
        return slices

    def _panels(self, panels: dict[int, list[Round]], product: int | None) -> Iterator[Program]:
        if product is None:
            yield from (self.panel(rounds) for rounds in panels.values())
            return

        def in_product(rounds: list[Round]) -> bool:
            return any(map(self.in_product, (*rounds[0].drains, rounds[0].norm)))

        for inside, group in groupby(panels.values(), key=in_product):
            parts = list(group)
            if not inside:
                yield from map(self.panel, parts)
                continue
            for number in range(max(map(len, parts))):
                for rounds in parts:
                    yield tuple(self._moved(d, product) for d in self.panel([rounds[number]]))

    def _moved(self, d: Descriptor, product: int) -> Descriptor:
        if not self.in_product(d):
            return d
        delta = product - self.plan.g - d.token_start * self.plan.g_stride
        if d.opcode is Opcode.NORM:
            return replace(d, src=d.src + delta)
        return replace(d, dst=d.dst + delta, src=d.src + delta if Flag.MULTIPLY in d.flags else d.src)


# ---- all together ----------------------------------------------------------------------------------------------------
class SharedSegments(SegmentPlan):
    """Segments of the beside program: those of the program it stands beside, and what that does not have."""

    def __init__(self, memory: SegmentPlan) -> None:
        super().__init__()
        self.memory = memory

    def align(self, step: int) -> None:
        """Nothing: what is shared has its place."""

    def add(self, name: str, size: int, make: Callable[[], npt.NDArray[np.uint8]]) -> int:
        known = self.memory.segments.get(name)
        if known is not None and known.region.bytes == size and not name.startswith("short_head.scales"):
            return known.region.offset
        return self.memory.add(f"slices.{name}", size, make)


def beside_program(compiler: Planner, base: int) -> Program:
    """One token through the model of ``compiler``, its vectors from ``base`` on."""
    one = plan_scratch(replace(compiler.config, chunk=1), compiler.shape, compiler.gain_vectors, compiler.bias_vectors)
    other = type(compiler)(compiler.config, compiler.weights, compiler.head_kind)
    other.plan = replace(
        one, x=base, bias=base + one.bias, qkv=base + one.qkv, a=base + one.a, g=base + one.g, gains=compiler.plan.gains
    )
    other.memory = SharedSegments(compiler.memory)
    other.plan_program()
    return tuple(other.program)


def plan_slices(compiler: Planner) -> SlicedProgram | None:
    """Slices of a planned program and the program beside them; None where the scratch has no room for another token."""
    c, p = compiler.config, compiler.plan
    one = p.x_stride + compiler.bias_vectors + max(p.qkv_stride + p.a_stride, p.g_stride)
    if compiler.head_kind == "shortlist":
        one = max(one, p.x_stride + compiler.bias_vectors + 2 * c.panel_vectors)
    attended = p.a + p.chunk * p.a_stride
    cutter = ProgramCutter(c, compiler.program, p)
    starts = sorted({d.token_start for d in compiler.program if d.opcode is Opcode.LINEAR and Flag.LAST not in d.flags})
    size = starts[1] - starts[0] if len(starts) > 1 else p.chunk
    # Feed-forward products of all rounds, or of one after the other in the same place (addresses count from token 0).
    shared = max(p.g, starts[-1] * p.g_stride)
    ends: list[tuple[int | None, int]] = [(None, max(attended, p.g + p.chunk * p.g_stride))]
    if len(starts) > 1:
        ends.append((shared, max(attended, shared + size * p.g_stride)))
    for product, end in ends:
        if end + one <= c.scratch_vectors:
            return _checked(compiler, cutter.cut(product), end)
    crowded = [_checked(compiler, cutter.cut(product), c.scratch_vectors - one) for product, _ in ends if one <= c.scratch_vectors]
    return min(filter(None, crowded), key=_longest, default=None)


def _longest(sliced: SlicedProgram) -> int:
    """A measure of the longest slice."""
    return max(sum(d.slices * d.row_blocks for d in part if d.opcode is Opcode.LINEAR) for part in sliced.slices)


def _checked(compiler: Planner, slices: Iterable[Program], base: int) -> SlicedProgram | None:
    """The slices with a beside program at ``base``; slices between which its vectors are needed become one."""
    c, chunk = compiler.config, compiler.plan.chunk
    parts = list(slices)
    beside = beside_program(compiler, base)
    taken = written_vectors(c, beside)
    merged: list[Program] = []
    for number, (part, live) in enumerate(zip(parts, live_vectors(c, parts, chunk), strict=True)):
        if number and (live & taken).any():
            merged[-1] += part
        else:
            merged.append(part)
    if len(merged) < 2:
        return None
    sliced = SlicedProgram(beside, tuple(merged))
    check_slices(c, compiler.program, sliced, chunk)
    return sliced
