"""A pass that can be interrupted: the program of a model cut into slices, and a program for one token beside it.

A slice is a program of its own, rung like a pass. Between two slices nothing of the interrupted pass is on the chip but its
vectors in the scratch memory, and one token of another session may go through the machine with the *beside* program, whose
vectors lie where the slices have none that are still needed. So a slice makes all else anew that it reads: it loads gains and
rotary rows, and norms, from vectors that have not changed since. What changes its own input (sums, products, rotation, keys and
values) is never done twice.

Nothing here knows how a layer looks. Which operator needs which is found in the program, and `check_slices` proves of every
program that is written that no slice reads what another left behind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...config import BuildConfig
from ...descriptors import DESCRIPTOR_BYTES, Buffers, Descriptor, Fetch, Flag, Format, Opcode, pack_program, unpack_program
from .placement import ScratchPlan, plan_scratch

if TYPE_CHECKING:
    from .layers import ModelCompiler

__all__ = ["SlicedProgram", "check_slices", "is_needed", "pack_slices", "plan_slices", "unpack_slices"]

Program = tuple[Descriptor, ...]
Mask = npt.NDArray[np.bool_]

#: Operators that may be executed again: what they read is loaded, or still in the scratch.
REPEATABLE = (Opcode.PARAM, Opcode.ROTARY, Opcode.NORM)


@dataclass(frozen=True)
class SlicedProgram:
    """What interrupts a pass and what it is cut into."""

    #: One token through the whole model, in scratch vectors of its own.
    beside: Program
    slices: tuple[Program, ...]

    def __post_init__(self) -> None:
        if not all(self.slices) or not self.beside:
            raise AssertionError("an empty program ends the list of programs")


# ---- in memory -------------------------------------------------------------------------------------------------------
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
    return any(d.opcode not in REPEATABLE and d.token_start < tokens and (logits or Flag.LOGITS not in d.flags) for d in program)


# ---- scratch ---------------------------------------------------------------------------------------------------------
def _vectors(config: BuildConfig, d: Descriptor, base: int, stride: int, vectors: int, chunk: int) -> Mask:
    """Scratch vectors of every token that ``d`` may work on."""
    mask = np.zeros(config.scratch_vectors, np.bool_)
    last = range(chunk) if Flag.LAST in d.flags else range(d.token_start, min(chunk, d.token_start + d.token_count))
    for token in last:
        mask[base + token * stride : base + token * stride + vectors] = True
    return mask


def scratch_reads(config: BuildConfig, d: Descriptor, chunk: int) -> Mask:
    """Scratch vectors that an operator reads."""
    vectors = 0
    if d.opcode is Opcode.NORM or (d.opcode is Opcode.DRAIN and d.flags & (Flag.ADD | Flag.MULTIPLY)):
        vectors = d.vectors
    elif d.opcode is Opcode.ROPE:
        vectors = _rope_vectors(d)
    return _vectors(config, d, d.src, d.src_stride, vectors, chunk)


def scratch_writes(config: BuildConfig, d: Descriptor, chunk: int) -> Mask:
    """Scratch vectors that an operator writes."""
    vectors = 0
    if d.opcode in (Opcode.EMBED, Opcode.DRAIN):
        vectors = d.vectors
    elif d.opcode is Opcode.ROPE:
        vectors = _rope_vectors(d)
    elif d.opcode is Opcode.ATTENTION:
        vectors = d.heads * d.head_vectors
    return _vectors(config, d, d.dst, d.dst_stride, vectors, chunk)


def _rope_vectors(d: Descriptor) -> int:
    return d.head_vectors * sum(
        count for flag, count in ((Flag.QUERIES, d.heads), (Flag.KEYS, d.kv_heads), (Flag.VALUES, d.kv_heads)) if flag in d.flags
    )


def live_vectors(config: BuildConfig, slices: Sequence[Program], chunk: int) -> list[Mask]:
    """Before every slice: scratch vectors that it or a later one reads before any writes them."""
    live = np.zeros(config.scratch_vectors, np.bool_)
    before = []
    for program in reversed(slices):
        for d in reversed(program):
            live = (live & ~scratch_writes(config, d, chunk)) | scratch_reads(config, d, chunk)
        before.append(live)
    return before[::-1]


# ---- proof -----------------------------------------------------------------------------------------------------------
class _OnChip:
    """What a slice has made itself, of everything that does not survive."""

    def __init__(self, rounds: frozenset[int]) -> None:
        self.rounds = rounds
        #: Vectors of the parameter memory.
        self.param: set[int] = set()
        #: First token of the round in each half.
        self.activation: dict[bool, int] = {}
        self.accumulator: dict[bool, int] = {}
        #: Rounds with activation scales; with each kind of heads; other things by name.
        self.scales: set[int] = set()
        self.heads: dict[Flag, set[int]] = {Flag.QUERIES: set(), Flag.KEYS: set(), Flag.VALUES: set()}
        self.rotary: set[int] = set()
        self.made: set[str] = set()
        #: Matrix that the ring keeps for the next round.
        self.held: int | None = None

    def execute(self, d: Descriptor) -> bool:
        """Whether ``d`` finds what it needs; it leaves what it makes."""
        start = -1 if Flag.LAST in d.flags else d.token_start
        upper = Buffers.ACTIVATION in d.buffers, Buffers.ACCUMULATOR in d.buffers
        finds = self.held is None or d.fetch is Fetch.NONE
        if d.opcode is Opcode.PARAM:
            self.param.update(range(d.dst, d.dst + d.vectors))
        elif d.opcode is Opcode.ROTARY:
            self.rotary = set(self.rounds)
            self.param.difference_update(range(d.dst, d.dst + d.token_count * d.dst_stride))
        elif d.opcode is Opcode.NORM:
            finds &= Format.PLAIN in d.format or self.param.issuperset(range(d.param, d.param + d.vectors))
            if Flag.TO_QUERY in d.flags:
                self.made.add("head input")
                self.heads[Flag.QUERIES].clear()
            else:
                self.activation[upper[0]] = start
                self.scales.add(start)
        elif d.opcode is Opcode.LINEAR:
            finds &= self.activation.get(upper[0]) == start
            finds &= d.fetch is Fetch.STREAM or self.held == d.stream_address
            self.held = d.stream_address if Flag.REPLAY in d.flags else None
            self.accumulator[upper[1]] = start
        elif d.opcode is Opcode.DRAIN:
            finds &= self.accumulator.get(upper[1]) == start and start in self.scales
            if Format.FP8 in d.format:
                finds &= self.param.issuperset(range(d.param, d.param + d.vectors))
            if Flag.SHORTLIST in d.flags:
                finds &= d.stride == 0 or "short list" in self.made
                self.made.add("short list")
        elif d.opcode is Opcode.ROPE:
            finds &= start in self.rotary
            for flag, rounds in self.heads.items():
                rounds.update({start} if flag in d.flags else ())
        elif d.opcode is Opcode.ATTENTION:
            finds &= all(rounds == self.rounds for rounds in self.heads.values())
        elif d.opcode is Opcode.KV_WRITE:
            finds &= self.heads[Flag.KEYS] == self.rounds == self.heads[Flag.VALUES]
        elif d.opcode is Opcode.HEAD:
            finds &= "head input" in self.made and (d.fetch is not Fetch.SHORTLIST or "short list" in self.made)
        return finds


def _identity(d: Descriptor) -> Descriptor:
    """What an operator does, wherever it keeps it."""
    return replace(d, tag=0, buffers=Buffers.NONE, flags=d.flags & ~(Flag.REPLAY | Flag.MULTI), fetch=Fetch.NONE, src=0, dst=0)


def check_slices(config: BuildConfig, program: Sequence[Descriptor], sliced: SlicedProgram, chunk: int) -> None:
    """Prove that the slices do what ``program`` does, whatever happens on the chip between them, the beside program included."""
    rounds = frozenset(d.token_start for d in program if d.opcode is Opcode.LINEAR and Flag.LAST not in d.flags)
    done = Counter(_identity(d) for part in sliced.slices for d in part if d.opcode not in REPEATABLE)
    if done != Counter(_identity(d) for d in program if d.opcode not in REPEATABLE):
        raise AssertionError("the slices must do every operator of the program once")
    for number, part in enumerate(sliced.slices):
        chip = _OnChip(rounds)
        for d in part:
            if not chip.execute(d):
                raise AssertionError(f"slice {number}: {d.opcode.name} of layer {d.layer} must find its inputs in the slice")
        if chip.held is not None:
            raise AssertionError(f"slice {number} leaves a matrix in the ring")
    taken = _taken(config, sliced.beside)
    for number, live in enumerate(live_vectors(config, sliced.slices, chunk)):
        if (live & taken).any() if number else live.any():
            raise AssertionError(f"vectors that slice {number} needs do not survive")


def _taken(config: BuildConfig, beside: Program) -> Mask:
    """Scratch vectors that the beside program writes."""
    mask = np.zeros(config.scratch_vectors, np.bool_)
    for d in beside:
        mask |= scratch_writes(config, d, 1)
    return mask


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
        if d.opcode is Opcode.NORM and Format.PLAIN not in d.format or d.opcode is Opcode.DRAIN and Format.FP8 in d.format:
            missing = set(range(d.param, d.param + d.vectors))
        else:
            missing = set()
        found = []
        for earlier in reversed(self.program[:index]):
            if not missing:
                break
            if earlier.opcode is Opcode.PARAM and missing.intersection(range(earlier.dst, earlier.dst + earlier.vectors)):
                missing.difference_update(range(earlier.dst, earlier.dst + earlier.vectors))
                found.append(earlier)
        return found[::-1]

    def round_of(self, index: int) -> Round:
        """The LINEAR at ``index`` with its norm and its drains."""
        linear = self.program[index]
        half = linear.buffers & Buffers.ACCUMULATOR
        norm = next(
            i for i in range(index - 1, -1, -1)
            if (d := self.program[i]).opcode is Opcode.NORM and d.token_start == linear.token_start
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
        replayed = len(rounds) > 1 and rounds[0].linear.stream_beats <= c.ring_beats - 2 * c.burst
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
        ropes: list[Descriptor] = []
        for i, d in enumerate(self.program[: self.tail]):
            if d.opcode is Opcode.LINEAR:
                panels.setdefault(d.stream_address, []).append(self.round_of(i))
            elif d.opcode is Opcode.EMBED:
                slices.append((d,))
            elif d.opcode is Opcode.ROTARY:
                rotary = [d]
            elif d.opcode is Opcode.ROPE:
                ropes.append(d)
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
class SharedSegments:
    """Segments of the beside program: those of the program it stands beside, and what that does not have."""

    def __init__(self, compiler: ModelCompiler) -> None:
        self.memory = compiler.memory

    @property
    def end(self) -> int:
        return self.memory.end

    def align(self, step: int) -> None:
        """Nothing: what is shared has its place."""

    def add(self, name: str, size: int, make: object) -> int:
        known = self.memory.segments.get(name)
        if known is not None and known.region.bytes == size and not name.startswith("short_head.scales"):
            return known.region.offset
        return self.memory.add(f"slices.{name}", size, make)  # type: ignore[arg-type]  # as add() of the memory takes it


def beside_program(compiler: ModelCompiler, base: int) -> Program:
    """One token through the model of ``compiler``, its vectors from ``base`` on."""
    one = plan_scratch(replace(compiler.config, chunk=1), compiler.shape, compiler.gain_vectors)
    other = type(compiler)(compiler.config, compiler.weights, compiler.head_kind)
    other.plan = replace(one, x=base, qkv=base + one.qkv, a=base + one.a, g=base + one.g, gains=compiler.plan.gains)
    other.memory = SharedSegments(compiler)  # type: ignore[assignment]  # all that planning uses
    other.plan_program()
    return tuple(other.program)


def plan_slices(compiler: ModelCompiler) -> SlicedProgram | None:
    """Slices of a planned program and the program beside them; None where the scratch has no room for another token."""
    c, p = compiler.config, compiler.plan
    one = p.x_stride + max(p.qkv_stride + p.a_stride, p.g_stride)
    if compiler.head_kind == "shortlist":
        one = max(one, p.x_stride + 2 * c.panel_vectors)
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


def _checked(compiler: ModelCompiler, slices: Iterable[Program], base: int) -> SlicedProgram | None:
    """The slices with a beside program at ``base``; slices between which its vectors are needed become one."""
    c, chunk = compiler.config, compiler.plan.chunk
    parts = list(slices)
    beside = beside_program(compiler, base)
    taken = _taken(c, beside)
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
