"""The memories of the golden machine: what lies on the chip, and how operators read and write it and what is outside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import BuildConfig
from ..descriptors import Fetch
from ..operators import Vectors
from ..rounding import ceil_div
from .operation import Operation
from .registers import RegisterWindow

__all__ = ["Bytes", "Memories", "ProgramError"]

Bytes = npt.NDArray[np.uint8]

#: Bytes of external memory whose last write is known.
_PAGE = 4096


@lru_cache(maxsize=4096)
def _indices(base: int, stride: int, count: int, tokens: Sequence[int]) -> Tensor:
    """``[tokens, vectors]``, not to be written to: operators use the same ones layer by layer and pass by pass."""
    return base + torch.tensor(tokens)[:, None] * stride + torch.arange(count)


class ProgramError(RuntimeError):
    """A program or a pass that the machine does not define: a fault of the compiler or of the host."""


class Memories:
    """Registers, memories on the chip, and ``memory_bytes`` of memory outside."""

    def __init__(self, config: BuildConfig, memory_bytes: int) -> None:
        self.config = config
        self._outside: Bytes = np.zeros(memory_bytes, np.uint8)
        #: External memory, seen by all ports; not to be written to: :meth:`writable` is.
        self.memory: Bytes = self._outside.view()
        self.memory.flags.writeable = False
        #: The number of the last write to every `_PAGE` bytes of it, and of the last one to any.
        self._written = np.zeros(ceil_div(memory_bytes, _PAGE), np.int64)
        self._writes = 0
        #: Scratch memory ``[scratch_vectors, width]`` float32.
        self.scratch = np.zeros((config.scratch_vectors, config.width), np.float32)
        #: Parameter memory ``[param_vectors, width]`` float32.
        self.param = np.zeros((config.param_vectors, config.width), np.float32)
        #: Activation memory ``[half, i, max_inputs]`` of the i-th active token: int8, or e4m3 codes.
        self.activation = np.zeros((2, config.tokens, config.max_inputs), np.int8)
        #: Scale of the activations of every token of the chunk.
        self.activation_scale = np.zeros(config.chunk, np.float32)
        #: Accumulators ``[half, i, row]`` of the i-th active token and a row of the panel (with ``gang`` the hardware
        #: spreads row blocks over the groups).
        self.accumulator = np.zeros((2, config.tokens, config.panel_rows), np.int64)
        #: Queries ``[token, head, element]``: int8, or e4m3 codes.
        self.query = np.zeros((config.chunk, config.max_heads, config.max_head_dim), np.int8)
        #: Scales of the queries ``[token, head]``.
        self.query_scale = np.zeros((config.chunk, config.max_heads), np.float32)
        #: int8 input of HEAD ``[max_inputs]`` (the hardware keeps it in the query memory) and its scale ``[1]``.
        self.head_query = np.zeros(config.max_inputs, np.int8)
        self.head_scale = np.zeros(1, np.float32)
        #: int8 keys (0) and values (1) of the chunk ``[kind, bank, head, element]``: a bank a token.
        self.kv_store = np.zeros((2, config.chunk, config.max_kv_heads, config.max_head_dim), np.int8)
        #: Their scales, bf16 bits ``[kind, bank, head]``.
        self.kv_scale = np.zeros((2, config.chunk, config.max_kv_heads), np.uint16)
        #: Scores of the rows that DRAIN with SHORTLIST has seen ``[wanted token, row]``.
        self.scores = np.zeros((config.chunk, 0), np.float32)
        #: Logits of the rows that DRAIN with CANDIDATES has seen ``[wanted token, row]``.
        self.logits = np.zeros((config.chunk, 0), np.float32)
        #: Blocks of the cache that runs with a budget have chosen, best first: by number of the run, of each key/value head.
        self.choice: dict[int, list[list[int]]] = {}
        #: `stream_address` of the operator that chose.
        self._choice_address = 0
        self.registers = RegisterWindow(config)
        #: Matrix segment that the ring holds for the next round (REPLAY): address and beats.
        self._held: tuple[int, int] | None = None
        #: Active range of the operator being executed.
        self.first = self.count = 0

    @property
    def tokens(self) -> int:
        """Tokens of this pass."""
        return self.registers.count

    @property
    def positions(self) -> list[int]:
        """Context position of every token of this pass."""
        return [run.position + i for run in self.registers.runs for i in range(run.tokens)]

    def writable(self, address: int, size: int) -> Bytes:
        """A piece of the external memory, to be written to before anything else is done with the machine."""
        self._writes += 1
        self._written[address // _PAGE : ceil_div(address + size, _PAGE)] = self._writes
        return self._outside[address : address + size]

    def last_write(self, address: int, size: int) -> int:
        """The number of the last write to a piece of the external memory, or near it: the same as long as its bytes are."""
        return int(self._written[address // _PAGE : ceil_div(address + size, _PAGE)].max())

    def _read(self, address: int, size: int) -> Bytes:
        if not 0 <= address <= address + size <= self.memory.size:
            raise ProgramError(
                f"read of {size} bytes at {address:#x} is outside the memory of {self.memory.size:#x} bytes"
            )
        return self.memory[address : address + size]

    def _beats(self, address: int, beats: int) -> Bytes:
        """``[beats, beat_bytes]`` of memory itself, not a copy."""
        return self._read(address, beats * self.config.beat_bytes).reshape(beats, self.config.beat_bytes)

    def _written_segment(self, address: int, beats: int) -> Bytes:
        """``[beats, beat_bytes]`` of memory that the machine writes."""
        self.registers.counters["write_beats"] += beats
        size = self._beats(address, beats).nbytes  # refuses what is outside
        return self.writable(address, size).reshape(beats, -1)

    def _segment(self, d: Operation, address: int, beats: int | None = None) -> Bytes:
        """The beats of one segment ``[stream_beats, beat_bytes]``; ``beats``: what the operator consumes, if other fields decide.
        """
        if address % self.config.beat_bytes:
            raise ProgramError(
                f"operator {d.tag}: a segment must begin at a multiple of {self.config.beat_bytes} bytes, not at {address:#x}"
            )
        if self._held is not None:
            raise ProgramError(f"operator {d.tag} reads from memory while the ring holds a matrix for replay")
        if d.stream_beats % self.config.groups:
            raise ProgramError(
                f"operator {d.tag}: stream_beats must be a multiple of {self.config.groups}, not {d.stream_beats}"
            )
        if beats is not None and d.stream_beats != beats:
            raise ProgramError(f"operator {d.tag} {d.opcode.name}: stream_beats must be {beats}, not {d.stream_beats}")
        self.registers.counters["stream_beats"] += d.stream_beats
        return self._beats(address, d.stream_beats)

    def _token_segments(self, d: Operation) -> list[Bytes]:
        """One segment an active token, by token id or by position."""
        active = range(self.first, self.first + self.count)
        if d.fetch is Fetch.STREAM:
            return [self._segment(d, d.stream_address)]
        if d.fetch is Fetch.TOKEN:
            return [self._segment(d, d.stream_address + self.registers.token_ids[t] * d.stride) for t in active]
        return [self._segment(d, d.stream_address + self.positions[t] * d.stride) for t in active]

    # ---- vectors of the active tokens ----------------------------------------------------------------------------
    def _addresses(self, at: Vectors, tokens: Sequence[int] | None = None) -> Tensor:
        """Vector indices ``[tokens, vectors]`` of the active tokens, or of others."""
        active = range(self.first, self.first + self.count) if tokens is None else tuple(tokens)
        return _indices(at.base, at.stride, at.count, active)

    @staticmethod
    def _check_vectors(memory: npt.NDArray[np.float32], first: int, count: int) -> None:
        """Refuse vectors that a memory does not have, as an index does and a slice does not."""
        if not 0 <= first <= first + count <= memory.shape[0]:
            raise IndexError(f"vectors {first} to {first + count} of {memory.shape[0]}")

    def _vectors(self, memory: npt.NDArray[np.float32], at: Vectors, tokens: Sequence[int] | None = None) -> Tensor:
        """``[tokens, vectors * width]`` of a memory, of the active tokens or of others."""
        if self.count == 1:  # a piece of the memory: no indices are made
            first = at.base + (self.first if tokens is None else tokens[0]) * at.stride
            self._check_vectors(memory, first, at.count)
            return torch.from_numpy(memory[first : first + at.count].reshape(1, -1).copy())
        return torch.from_numpy(memory)[self._addresses(at, tokens)].flatten(1)

    def _load(self, d: Operation, tokens: Sequence[int] | None = None) -> Tensor:
        """``[tokens, vectors * width]`` from the scratch, of the active tokens or of others."""
        return self._vectors(self.scratch, d.scratch_reads, tokens)

    def _store(self, d: Operation, values: Tensor) -> None:
        """``[active tokens, vectors * width]`` to the scratch."""
        at = d.scratch_writes
        if self.count == 1:
            first = at.base + self.first * at.stride
            self._check_vectors(self.scratch, first, at.count)
            self.scratch[first : first + at.count] = values.reshape(at.count, self.config.width).numpy()
            return
        torch.from_numpy(self.scratch)[self._addresses(at)] = values.reshape(self.count, at.count, self.config.width)

    def _constants(self, d: Operation) -> Tensor:
        """``[vectors * width]`` from the parameter memory: the same for every token."""
        at = d.param_reads
        return torch.from_numpy(self.param[at.base : at.base + at.count].reshape(-1))
