"""Functional model of the whole accelerator: registers, memory and every operator, bit for bit, without time.

Written for reading beside ``docs/machine.md``: one method an operator. State keeps logical shapes; where the hardware
folds it into lanes and banks, the attribute's comment says how.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

import numpy as np
import torch

from ..block_choice import candidates, may_choose, summary_pages
from ..config import BuildConfig
from ..descriptors import DESCRIPTOR_BYTES, Descriptor, Fetch, Flag, Format, Opcode
from ..formats import widen_bf16
from ..operators import (
    check_complete,
    has_more_rounds,
)
from ..registers import CHOSEN_TOKENS, PassFlag, Status
from .float32 import constant, fadd, fmul
from .head import join_digits
from .int4 import dequantize_rows, e4m3_codes, norm_e4m3, quantize_query_e4m3
from .kv_cache import KvCache
from .linear import dequantize, drain
from .memories import ProgramError
from .norm import norm_heads, norm_quantize
from .operation import Operation, decoded
from .registers import Run
from .rotary import mix, quantize_kv, quantize_query, rotate, unmix
from .unpacked_weights import StationaryWeights
from .vocabulary import Vocabulary

__all__ = ["GoldenMachine", "ProgramError"]


@contextmanager
def _arithmetic() -> Iterator[None]:
    """Without derivatives, and by one thread: operators are small, and to wake other threads costs more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


#: Method of the machine by operator.
_METHODS = {opcode: f"_{opcode.name.lower()}" for opcode in Opcode}


#: Programs whose operators are kept: passes of how many tokens and wanted ones vary, and those of one program are as many.
_PROGRAMS = 32


class _Program(NamedTuple):
    #: Bytes, and their last write.
    size: int
    written: int
    #: Operators that are not skipped, with the first of their active tokens, and how many.
    active: list[tuple[Operation, int, int]]


class GoldenMachine(KvCache, Vocabulary):
    """The accelerator built with ``config``, over ``memory_bytes`` of memory.

    Host side: :attr:`memory`, :meth:`writable`, :meth:`write_register`, :meth:`read_register`; a doorbell runs the program to
    its end at once. ``on_retire(descriptor, machine)`` is called after every executed operator. :meth:`steps` runs a pass
    operator by operator instead.
    """

    def __init__(self, config: BuildConfig, memory_bytes: int = 1 << 28) -> None:
        super().__init__(config, memory_bytes)
        #: Called after every executed operator.
        self.on_retire: Callable[[Descriptor, GoldenMachine], None] | None = None
        self._weights = StationaryWeights(config, self.last_write)
        #: By address, tokens of the pass and wanted ones, and whether it chooses.
        self._programs: dict[tuple[int, int, int, bool], _Program] = {}

    # ---- host side -----------------------------------------------------------------------------------------------
    def write_register(self, offset: int, value: int) -> None:
        """Write 32 bits at ``offset`` of the register window; a doorbell runs the program before it returns."""
        if self.registers.write(offset, value):
            with _arithmetic():
                for _ in self._pass():
                    pass

    def read_register(self, offset: int) -> int:
        """Read 32 bits at ``offset``. Counters of time read 0; those of beats and operators are exact."""
        return self.registers.read(offset)

    @property
    def irq(self) -> bool:
        return self.registers.irq

    @property
    def gang(self) -> bool:
        """All groups of the linear engine work on the same tokens."""
        return self.count <= self.config.lanes

    @property
    def topk_index(self) -> list[int]:
        """Token ids of the candidates of the wanted token that was worked on last, best first."""
        return [index for index, _ in self.registers.candidates[self.first]]

    @property
    def topk_logit(self) -> list[float]:
        """Their logits, best first."""
        return [logit for _, logit in self.registers.candidates[self.first]]

    def steps(self) -> Iterator[Descriptor]:
        """Run one pass with the present registers; yields after every executed operator (after ``on_retire``). STOP, written
        between two of them, ends it.
        """
        operators = self._pass()
        with closing(operators):
            while True:
                with _arithmetic():
                    d = next(operators, None)
                if d is None:
                    return
                yield d

    def _pass(self) -> Generator[Descriptor, None, None]:
        """:meth:`steps` within :func:`_arithmetic`: the program once, or as often as a loop takes."""
        r = self.registers
        self._check_pass()
        r.begin()
        try:
            while True:
                yield from self._program()
                if Status.STOPPED in r.status:
                    return
                if not r.choose():
                    break
                self._check_pass()
            r.end()
        finally:
            r.abandon()

    def _program(self) -> Generator[Descriptor, None, None]:
        """The program to its end, or to the operator at which it was stopped."""
        r = self.registers
        self._held = None
        self.choice = {}
        for d, first, count in self._operations():
            self.first, self.count = first, count
            r.current = d.tag
            if count > self.config.tokens and d.one_round:
                most = self.config.tokens
                raise ProgramError(f"operator {d.tag} {d.opcode.name} must have at most {most} tokens, not {count}")
            self._execute(d)
            r.counters["operators"] += 1
            if self.on_retire is not None:
                self.on_retire(d, self)
            yield d
            if Status.STOPPED in r.status:
                return

    def _operations(self) -> Iterator[tuple[Operation, int, int]]:
        """The operators of the pass, and where their active tokens begin and how many there are. A program is read once, and again
        when its memory was written to.
        """
        r = self.registers
        chooses = PassFlag.CHOOSE in r.options
        key = r.program, r.count, r.wanted, chooses
        known = self._programs.get(key)
        if known is not None and self.last_write(r.program, known.size) == known.written:
            yield from known.active
            return
        address, active = r.program, []
        while True:
            d, tokens = decoded(self._read(address, DESCRIPTOR_BYTES).tobytes(), r.count, r.wanted, chooses)
            address += DESCRIPTOR_BYTES
            if d.opcode is Opcode.END:
                break
            if tokens:
                active.append((d, tokens.start, len(tokens)))
                yield active[-1]
        size = address - r.program
        if len(self._programs) == _PROGRAMS:
            del self._programs[next(iter(self._programs))]
        self._programs[key] = _Program(size, self.last_write(r.program, size), active)

    def _check_pass(self) -> None:
        r, c = self.registers, self.config
        if not 1 <= r.count <= c.chunk:
            raise ProgramError(f"COUNT must be 1 to {c.chunk}, not {r.count}")
        if not 1 <= r.run_count <= r.count or any(run.tokens < 1 for run in r.runs) or sum(run.tokens for run in r.runs) != r.count:
            raise ProgramError(f"the {r.run_count} runs must have a token each and {r.count} together, not {r.runs}")
        for run in r.runs:
            if run.position + run.tokens > c.max_context:
                raise ProgramError(f"a run must end at position {c.max_context} at most, not {run.position + run.tokens}")
            if run.budget:
                self._check_budget(run)
        if PassFlag.CHOOSE in r.options and not c.kv_budget:
            raise ProgramError("PASS must be without CHOOSE in a build without kv_budget")
        if not 0 <= r.wanted <= r.count or any(not 0 <= t < r.count for t in r.want[: r.wanted]):
            raise ProgramError(f"wanted tokens must be tokens of the pass, not {r.want[: r.wanted]} of {r.count}")
        if r.loop and not (r.run_count == r.count == r.wanted and r.want[: r.count] == list(range(r.count))):
            raise ProgramError(f"every run of a loop must have one token, and want it, not {r.runs} and {r.want[: r.wanted]}")
        if r.loop and any(draw.count > c.topk for draw in r.draws):
            raise ProgramError(f"a loop must draw from at most {c.topk} candidates, not {r.draws}")
        if r.loop * r.run_count > CHOSEN_TOKENS:
            raise ProgramError(f"a loop must choose at most {CHOSEN_TOKENS} tokens, not {r.loop} times {r.run_count}")

    def _check_budget(self, run: Run) -> None:
        r, c = self.registers, self.config
        if run.budget > c.kv_budget:
            raise ProgramError(f"a budget must be at most kv_budget ({c.kv_budget}), not {run.budget}")
        if PassFlag.CHOOSE not in r.options:
            raise ProgramError(f"PASS must have CHOOSE where a run has a budget, not {r.options!r}")
        if run.tokens != 1:
            raise ProgramError(f"a run with a budget must have one token, not {run.tokens}")
        if not may_choose(c, run.position, run.budget):
            most = len(candidates(c, run.position)) - 1
            raise ProgramError(f"a budget at position {run.position} must be at most {max(0, most)}, not {run.budget}")
        pages = summary_pages(c, run.position)
        if run.pages < pages:
            raise ProgramError(f"a run that chooses at position {run.position} must have PAGES {pages} at least, not {run.pages}")

    # ---- operators -----------------------------------------------------------------------------------------------
    def _execute(self, d: Operation) -> None:
        if d.fetch not in d.row.fetches:
            allowed = " or ".join(fetch.name for fetch in d.row.fetches)
            raise ProgramError(f"operator {d.tag} {d.opcode.name} must have fetch {allowed}, not {d.fetch.name}")
        try:
            getattr(self, _METHODS[d.opcode])(d)
        except ProgramError:
            raise
        except (IndexError, RuntimeError, ValueError) as error:  # an address or a size outside the build's memories
            raise ProgramError(f"operator {d.tag} {d.opcode.name}: {error}") from error

    def _embed(self, d: Operation) -> None:
        rows = np.stack(self._token_segments(d)).reshape(self.count, -1).view(np.uint16)
        self._store(d, torch.from_numpy(widen_bf16(rows[:, : d.vectors * self.config.width])))

    def _param(self, d: Operation) -> None:
        beats = self._segment(d, d.stream_address)
        self.param[d.dst : d.dst + d.vectors] = beats.view(np.float32).reshape(-1, self.config.width)[: d.vectors]

    def _rotary(self, d: Operation) -> None:
        rows = np.stack(self._token_segments(d)).view(np.float32).reshape(self.count, -1, self.config.width)[:, : d.vectors]
        self.param[self._addresses(d.param_writes).numpy()] = rows

    def _norm(self, d: Operation) -> None:
        wanted = self.registers.want[self.first : self.first + self.count] if Flag.LOGITS in d.flags else None
        x = self._load(d, wanted)
        gain = torch.ones(x.shape[1]) if Format.PLAIN in d.format else self._constants(d)
        if d.stores:
            heads = x.reshape(self.count, d.heads, -1)
            self._store(d, norm_heads(heads, gain, d.scalar0, d.scalar1).flatten(1))
            return
        if d.fp8:
            integers, scale = norm_e4m3(x, gain, d.scalar0, d.scalar1)
            q = e4m3_codes(integers).view(torch.int8)
        else:
            q, scale = norm_quantize(x, gain, d.scalar0, d.scalar1)
        n = q.shape[1]
        if Flag.TO_QUERY in d.flags:
            if self.count != 1:
                raise ProgramError(f"operator {d.tag} NORM with TO_QUERY must have one token, not {self.count}")
            self.head_query[:n] = q[0].numpy()
            self.head_scale[0] = scale[0].item()
            return
        at = d.dst * self.config.width
        self.activation[d.activation_half, : self.count, at : at + n] = q.numpy()
        self.activation_scale[self.first : self.first + self.count] = scale.numpy()

    def _linear(self, d: Operation) -> None:
        size = self._weights.beats(d)
        if d.fetch is Fetch.STREAM:
            address = d.stream_address
            beats = self._segment(d, address, size)
        elif self._held is not None and self._held[1] == size:
            address = self._held[0]
            beats = self._beats(address, size)
        else:
            raise ProgramError(f"operator {d.tag} LINEAR must find {size} beats held in the ring, not {self._held}")
        panel = self._weights.panel(d, address, beats)
        if panel.rows > self.config.panel_rows:
            raise ProgramError(f"operator {d.tag} LINEAR must have at most {self.config.panel_rows} rows, not {panel.rows}")
        self._held = (address, size) if Flag.REPLAY in d.flags and has_more_rounds(d, self.tokens, self.registers.wanted) else None
        q = self.activation[d.activation_half, : self.count, : panel.inputs]
        self.accumulator[d.accumulator_half, : self.count, : panel.rows] = panel.products(q)

    def _drain(self, d: Operation) -> None:
        if len(d.drain_modes) != 1:
            raise ProgramError(f"operator {d.tag} DRAIN must have one mode flag, not {d.flags!r}")
        at, width = d.accumulators, self.config.width
        acc = torch.from_numpy(self.accumulator[d.accumulator_half, : self.count, at.base * width : (at.base + at.count) * width])
        if d.joins_digits:
            acc = join_digits(acc, width)
        scale = torch.from_numpy(self.activation_scale[self.first : self.first + self.count])
        if d.fp8:
            y = dequantize_rows(acc, fmul(scale, constant(d.scalar0)), self._constants(d))
        else:
            y = dequantize(acc, scale, d.scalar0)
        result = drain(y, d.drain_modes[0], self._load(d) if d.reads_scratch else None)
        self._store(d, result)
        if d.of_vocabulary:
            self._rank(d, result)

    def _rope(self, d: Operation) -> None:
        dim, parts = d.head_vectors * self.config.width, d.rope_heads
        if not parts:
            raise ProgramError(f"operator {d.tag} ROPE must have QUERIES, KEYS or VALUES in its flags")
        heads = self._load(d).reshape(self.count, -1, dim)
        turned = heads[:, : d.rotated_heads]
        if d.adds:
            if not d.stores or d.mixing is not Format.MIX:
                raise ProgramError(f"operator {d.tag} ROPE must have STORE and MIX where it adds a row")
            turned = fadd(turned, self._vectors(self.scratch, d.row_reads, [0]).reshape(1, -1, dim))
        elif d.mixing:
            turned = (unmix if d.mixing is Format.UNMIX else mix)(turned, (d.param or dim // 2,))
        else:
            turned = rotate(turned, self._vectors(self.param, d.param_reads)[:, None])
        self._store(d, turned)
        if d.stores:
            return
        active = slice(self.first, self.first + self.count)
        if Flag.QUERIES in parts:
            queries = turned[:, parts[Flag.QUERIES]]
            if d.e4m3_query:
                integers, q_scale = quantize_query_e4m3(queries, d.scalar0)
                q8 = e4m3_codes(integers).view(torch.int8)
            else:
                q8, q_scale = quantize_query(queries, d.scalar0)
            self.query[active, : d.heads, :dim] = q8.numpy()
            self.query_scale[active, : d.heads] = q_scale.numpy()
        for kind, (flag, source) in enumerate(((Flag.KEYS, turned), (Flag.VALUES, heads))):
            if flag not in parts:
                continue
            four_bits = (Format.INT4_KEYS, Format.INT4_VALUES)[kind] in d.format
            k8, k_scale = quantize_kv(source[:, parts[flag]], four_bits=four_bits)
            self.kv_store[kind, active, : d.kv_heads, :dim] = k8.numpy()
            self.kv_scale[kind, active, : d.kv_heads] = k_scale.numpy().view(np.uint32) >> 16


check_complete([o for o in Opcode if hasattr(GoldenMachine, f"_{o.name.lower()}")], "golden/machine.py, methods of GoldenMachine")
