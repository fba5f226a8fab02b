"""Functional model of the whole accelerator: registers, memory and every operator, bit for bit, without time.

Written for reading beside ``docs/machine.md``: one method an operator. State keeps logical shapes; where the hardware
folds it into lanes and banks, the attribute's comment says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import BuildConfig
from ..descriptors import DESCRIPTOR_BYTES, Buffers, Descriptor, Fetch, Flag, Format, Opcode
from ..formats import widen_bf16
from ..layout import Int4Layout, KvBlockLayout, from_planes, head_block_beats, pad_beats, to_planes
from ..registers import PassFlag
from ..rounding import ceil_div
from .attention import AttentionState
from .float32 import bf16_bits, fmul
from .head import head_logits, short_list, top_candidates
from .int4 import (
    dequantize_rows,
    e4m3_codes,
    e4m3_values,
    int4_matmul,
    norm_e4m3,
    quantize_e4m3,
    quantize_kv4,
    quantize_query_e4m3,
)
from .linear import dequantize, drain, integer_matmul
from .norm import norm_quantize
from .registers import RegisterWindow
from .rotary import quantize_kv, quantize_query, rotate
from .unpacked_weights import StationaryWeights

__all__ = ["GoldenMachine", "ProgramError"]

Bytes = npt.NDArray[np.uint8]

#: DRAIN modes by flag.
_DRAIN_MODES = {Flag.STORE: "store", Flag.RELU2: "relu2", Flag.SILU: "silu", Flag.MULTIPLY: "multiply", Flag.ADD: "add"}

#: What else it may be fetched by; LINEAR also finds its data in the ring.
_OTHER_FETCHES = (
    (Opcode.LINEAR, Fetch.STREAM), (Opcode.EMBED, Fetch.STREAM), (Opcode.HEAD, Fetch.SHORTLIST),
)

#: What an operator's data is fetched by, where it has any.
_FETCHES = {
    Opcode.EMBED: Fetch.TOKEN,
    Opcode.PARAM: Fetch.STREAM,
    Opcode.ROTARY: Fetch.POSITION,
    Opcode.ATTENTION: Fetch.CACHE,
    Opcode.HEAD: Fetch.STREAM,
}


class ProgramError(RuntimeError):
    """A program or a pass that the machine does not define: a fault of the compiler or of the host."""


class GoldenMachine:
    """The accelerator built with ``config``, over ``memory_bytes`` of memory.

    Host side: :attr:`memory`, :meth:`write_register`, :meth:`read_register`; a doorbell runs the program to its end
    at once. ``on_retire(descriptor, machine)`` is called after every executed operator. :meth:`steps` runs a pass
    operator by operator instead.
    """

    def __init__(self, config: BuildConfig, memory_bytes: int = 1 << 28) -> None:
        self.config = config
        #: External memory, seen by all ports.
        self.memory: Bytes = np.zeros(memory_bytes, np.uint8)
        #: Called after every executed operator.
        self.on_retire: Callable[[Descriptor, GoldenMachine], None] | None = None
        c = config
        #: Scratch memory ``[scratch_vectors, width]`` float32.
        self.scratch = np.zeros((c.scratch_vectors, c.width), np.float32)
        #: Parameter memory ``[param_vectors, width]`` float32.
        self.param = np.zeros((c.param_vectors, c.width), np.float32)
        #: Activation memory ``[half, i, max_inputs]`` of the i-th active token: int8, or e4m3 codes.
        self.activation = np.zeros((2, c.tokens, c.max_inputs), np.int8)
        #: Scale of the activations of every token of the chunk.
        self.activation_scale = np.zeros(c.chunk, np.float32)
        #: Accumulators ``[half, i, row]`` of the i-th active token and a row of the panel (with ``gang`` the hardware
        #: spreads row blocks over the groups).
        self.accumulator = np.zeros((2, c.tokens, c.panel_rows), np.int64)
        #: Queries ``[token, head, element]``: int8, or e4m3 codes.
        self.query = np.zeros((c.chunk, c.max_heads, c.max_head_dim), np.int8)
        #: Scales of the queries ``[token, head]``.
        self.query_scale = np.zeros((c.chunk, c.max_heads), np.float32)
        #: int8 input of the LM head ``[max_inputs]`` (the hardware keeps it in the query memory) and its scale ``[1]``.
        self.head_query = np.zeros(c.max_inputs, np.int8)
        self.head_scale = np.zeros(1, np.float32)
        #: int8 keys (0) and values (1) of the chunk ``[kind, bank, head, element]``: a bank a token.
        self.kv_store = np.zeros((2, c.chunk, c.max_kv_heads, c.max_head_dim), np.int8)
        #: Their scales, bf16 bits ``[kind, bank, head]``.
        self.kv_scale = np.zeros((2, c.chunk, c.max_kv_heads), np.uint16)
        #: Scores of the rows that DRAIN with SHORTLIST has seen ``[vocab]``.
        self.scores = np.zeros(0, np.float32)
        #: All logits of the last HEAD ``[vocab]``.
        self.logits = np.zeros(0, np.float32)
        self.registers = RegisterWindow(config)
        self._weights = StationaryWeights(config)
        #: Matrix segment that the ring holds for the next round (REPLAY): address and beats.
        self._held: tuple[int, int] | None = None
        #: Active range of the operator being executed.
        self.first = self.count = 0

    # ---- host side -----------------------------------------------------------------------------------------------
    def write_register(self, offset: int, value: int) -> None:
        """Write 32 bits at ``offset`` of the register window; a doorbell runs the program before it returns."""
        if self.registers.write(offset, value):
            for _ in self.steps():
                pass

    def read_register(self, offset: int) -> int:
        """Read 32 bits at ``offset``. Counters of time read 0; those of beats and operators are exact."""
        return self.registers.read(offset)

    @property
    def irq(self) -> bool:
        return self.registers.irq

    @property
    def tokens(self) -> int:
        """Tokens of this pass."""
        return self.registers.count

    @property
    def position(self) -> int:
        """Context position of the first token of this pass."""
        return self.registers.position

    @property
    def gang(self) -> bool:
        """All groups of the linear engine work on the same tokens."""
        return self.count <= self.config.lanes

    @property
    def topk_index(self) -> list[int]:
        """Token ids of the candidates, best first."""
        return [index for index, _ in self.registers.candidates]

    @property
    def topk_logit(self) -> list[float]:
        """Logits of the candidates, best first."""
        return [logit for _, logit in self.registers.candidates]

    def steps(self) -> Iterator[Descriptor]:
        """Run one pass with the present registers; yields after every executed operator (after ``on_retire``)."""
        r, c = self.registers, self.config
        if not 1 <= r.count <= c.chunk:
            raise ProgramError(f"COUNT must be 1 to {c.chunk}, not {r.count}")
        if r.position + r.count > c.max_context:
            raise ProgramError(f"POSITION + COUNT must be at most {c.max_context}, not {r.position + r.count}")
        self._held = None
        r.begin()
        address = r.program
        try:
            while (d := Descriptor.unpack(self._read(address, DESCRIPTOR_BYTES).tobytes())).opcode is not Opcode.END:
                address += DESCRIPTOR_BYTES
                if self._skipped(d):
                    continue
                self.first = r.count - 1 if Flag.LAST in d.flags else d.token_start
                self.count = 1 if Flag.LAST in d.flags else min(d.token_count, r.count - d.token_start)
                r.current = d.tag
                self._execute(d)
                r.counters["operators"] += 1
                if self.on_retire is not None:
                    self.on_retire(d, self)
                yield d
            r.end()
        finally:
            r.abandon()

    def _skipped(self, d: Descriptor) -> bool:
        tokens = self.registers.count
        return (
            d.token_start >= tokens
            or (Flag.LOGITS in d.flags and PassFlag.LOGITS not in self.registers.options)
            or (Flag.MULTI in d.flags and tokens <= 2 * d.token_count)
        )

    # ---- memory --------------------------------------------------------------------------------------------------
    def _read(self, address: int, size: int) -> Bytes:
        if not 0 <= address <= address + size <= self.memory.size:
            raise ProgramError(
                f"read of {size} bytes at {address:#x} is outside the memory of {self.memory.size:#x} bytes"
            )
        return self.memory[address : address + size]

    def _write_segment(self, address: int, beats: Bytes) -> None:
        self._read(address, beats.size)[:] = to_planes(self.config, beats)
        self.registers.counters["write_beats"] += len(beats)

    def _stream(self, d: Descriptor, address: int, beats: int | None = None) -> Bytes:
        """The bytes of one segment as stored; ``beats``: what the operator consumes, if other fields decide it."""
        if self._held is not None:
            raise ProgramError(f"operator {d.tag} reads from memory while the ring holds a matrix for replay")
        if d.stream_beats % self.config.groups:
            raise ProgramError(
                f"operator {d.tag}: stream_beats must be a multiple of {self.config.groups}, not {d.stream_beats}"
            )
        if beats is not None and d.stream_beats != beats:
            raise ProgramError(f"operator {d.tag} {d.opcode.name}: stream_beats must be {beats}, not {d.stream_beats}")
        self.registers.counters["stream_beats"] += d.stream_beats
        return self._read(address, d.stream_beats * self.config.beat_bytes)

    def _segment(self, d: Descriptor, address: int, beats: int | None = None) -> Bytes:
        """The beats of one segment ``[stream_beats, beat_bytes]``."""
        return from_planes(self.config, self._stream(d, address, beats))

    def _token_segments(self, d: Descriptor) -> list[Bytes]:
        """One segment an active token, by token id or by position."""
        active = range(self.first, self.first + self.count)
        if d.fetch is Fetch.STREAM:
            return [self._segment(d, d.stream_address)]
        if d.fetch is Fetch.TOKEN:
            return [self._segment(d, d.stream_address + self.registers.token_ids[t] * d.stride) for t in active]
        return [self._segment(d, d.stream_address + (self.position + t) * d.stride) for t in active]

    # ---- operators -----------------------------------------------------------------------------------------------
    def _execute(self, d: Descriptor) -> None:
        needs = _FETCHES.get(d.opcode, Fetch.NONE)
        if d.fetch is not needs and (d.opcode, d.fetch) not in _OTHER_FETCHES:
            raise ProgramError(f"operator {d.tag} {d.opcode.name} must have fetch {needs.name}, not {d.fetch.name}")
        if d.opcode in (Opcode.NORM, Opcode.LINEAR, Opcode.DRAIN) and self.count > self.config.tokens:
            raise ProgramError(
                f"operator {d.tag} {d.opcode.name} must have at most {self.config.tokens} tokens, not {self.count}"
            )
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # operators are small; waking other threads costs more than they save
        try:
            getattr(self, f"_{d.opcode.name.lower()}")(d)
        except ProgramError:
            raise
        except (IndexError, RuntimeError, ValueError) as error:  # an address or a size outside the build's memories
            raise ProgramError(f"operator {d.tag} {d.opcode.name}: {error}") from error
        finally:
            torch.set_num_threads(threads)

    def _addresses(self, base: int, stride: int, vectors: int) -> Tensor:
        """Vector indices ``[active tokens, vectors]``."""
        tokens = torch.arange(self.first, self.first + self.count)
        return base + tokens[:, None] * stride + torch.arange(vectors)

    def _load(self, base: int, stride: int, vectors: int) -> Tensor:
        """``[active tokens, vectors * width]`` from the scratch."""
        return torch.from_numpy(self.scratch)[self._addresses(base, stride, vectors)].flatten(1)

    def _store(self, base: int, stride: int, values: Tensor) -> None:
        vectors = values.reshape(self.count, -1, self.config.width)
        torch.from_numpy(self.scratch)[self._addresses(base, stride, vectors.shape[1])] = vectors

    def _embed(self, d: Descriptor) -> None:
        rows = np.stack(self._token_segments(d)).reshape(self.count, -1).view(np.uint16)
        self._store(d.dst, d.dst_stride, _widen(rows[:, : d.vectors * self.config.width]))

    def _param(self, d: Descriptor) -> None:
        beats = self._segment(d, d.stream_address)
        self.param[d.dst : d.dst + d.vectors] = beats.view(np.float32).reshape(-1, self.config.width)[: d.vectors]

    def _rotary(self, d: Descriptor) -> None:
        rows = np.stack(self._token_segments(d)).view(np.float32).reshape(self.count, -1, self.config.width)[:, : d.vectors]
        self.param[self._addresses(d.dst, d.dst_stride, d.vectors).numpy()] = rows

    def _norm(self, d: Descriptor) -> None:
        x = self._load(d.src, d.src_stride, d.vectors)
        gain = torch.from_numpy(self.param[d.param : d.param + d.vectors].reshape(-1))
        if Format.FP8 not in d.format:
            q, scale = norm_quantize(x, gain, d.scalar0, d.scalar1)
        else:
            plain = Format.PLAIN in d.format
            integers, scale = quantize_e4m3(x) if plain else norm_e4m3(x, gain, d.scalar0, d.scalar1)
            q = e4m3_codes(integers).view(torch.int8)
        n = q.shape[1]
        if Flag.TO_QUERY in d.flags:
            if self.count != 1:
                raise ProgramError(f"operator {d.tag} NORM with TO_QUERY must have one token, not {self.count}")
            self.head_query[:n] = q[0].numpy()
            self.head_scale[0] = scale[0].item()
            return
        self.activation[activation_half(d), : self.count, :n] = q.numpy()
        self.activation_scale[self.first : self.first + self.count] = scale.numpy()

    def _linear(self, d: Descriptor) -> None:
        fp8 = Format.FP8 in d.format
        layout = Int4Layout.of(self.config, d) if fp8 else None
        beats = d.slices * d.row_blocks if layout is None else layout.beats
        if d.fetch is Fetch.STREAM:
            address = d.stream_address
            planes = self._stream(d, address, beats)
        elif self._held is not None and self._held[1] == beats:
            address = self._held[0]
            planes = self._read(address, beats * self.config.beat_bytes)
        else:
            raise ProgramError(f"operator {d.tag} LINEAR must find {beats} beats held in the ring, not {self._held}")
        if layout is None:
            matrix = self._weights.ternary(address, planes, d.slices, d.row_blocks)
        else:
            matrix = self._weights.int4(address, planes, layout)
        if matrix.shape[0] > self.config.panel_rows:
            raise ProgramError(
                f"operator {d.tag} LINEAR must have at most {self.config.panel_rows} rows, not {matrix.shape[0]}"
            )
        another_round = d.token_start + d.token_count < self.tokens
        self._held = (address, beats) if Flag.REPLAY in d.flags and another_round else None
        inputs = min(matrix.shape[1], self.config.max_inputs)
        q = torch.from_numpy(self.activation[activation_half(d), : self.count, :inputs])
        if fp8:
            acc = int4_matmul(e4m3_values(q.view(torch.uint8)), matrix[:, :inputs].double())
        else:
            acc = integer_matmul(q.float(), matrix[:, :inputs].float(), 127)
        self.accumulator[accumulator_half(d), : self.count, : matrix.shape[0]] = acc.numpy()

    def _drain(self, d: Descriptor) -> None:
        rows = slice(d.row_blocks * self.config.width, (d.row_blocks + d.vectors) * self.config.width)
        acc = torch.from_numpy(self.accumulator[accumulator_half(d), : self.count, rows])
        scale = torch.from_numpy(self.activation_scale[self.first : self.first + self.count])
        modes = [mode for flag, mode in _DRAIN_MODES.items() if flag in d.flags]
        if len(modes) != 1:
            raise ProgramError(f"operator {d.tag} DRAIN must have one mode flag, not {d.flags!r}")
        other = self._load(d.src, d.src_stride, d.vectors) if modes[0] in ("multiply", "add") else None
        if Format.FP8 in d.format:
            row_scale = torch.from_numpy(self.param[d.param : d.param + d.vectors].reshape(-1))
            y = dequantize_rows(acc, fmul(scale, torch.tensor(d.scalar0, dtype=torch.float32)), row_scale)
        else:
            y = dequantize(acc, scale, d.scalar0)
        result = drain(y, modes[0], other)
        self._store(d.dst, d.dst_stride, result)
        if Flag.SHORTLIST in d.flags:
            if d.stride == 0:
                self.scores = np.full(d.head_stride, -np.inf, np.float32)
            scores = result[0].numpy()[: d.head_stride - d.stride]
            self.scores[d.stride : d.stride + scores.size] = scores

    def _rope(self, d: Descriptor) -> None:
        dim = d.head_vectors * self.config.width
        parts = rope_heads(d)
        if not parts:
            raise ProgramError(f"operator {d.tag} ROPE must have QUERIES, KEYS or VALUES in its flags")
        heads = self._load(d.src, d.src_stride, sum(parts.values()) * d.head_vectors).reshape(self.count, -1, dim)
        active = slice(self.first, self.first + self.count)
        rows = torch.from_numpy(self.param)[self._addresses(d.param, d.param_stride, d.head_vectors)].flatten(1)
        turned = heads.clone()
        rotated = sum(count for flag, count in parts.items() if flag is not Flag.VALUES)
        turned[:, :rotated] = rotate(heads[:, :rotated], rows[:, None])
        self._store(d.src, d.src_stride, turned.flatten(1))
        of = dict(zip(parts, torch.split(turned, list(parts.values()), dim=1), strict=True))
        if Flag.QUERIES in of:
            if Format.FP8_QUERY in d.format:
                integers, q_scale = quantize_query_e4m3(of[Flag.QUERIES], d.scalar0)
                q8 = e4m3_codes(integers).view(torch.int8)
            else:
                q8, q_scale = quantize_query(of[Flag.QUERIES], d.scalar0)
            self.query[active, : d.heads, :dim] = q8.numpy()
            self.query_scale[active, : d.heads] = q_scale.numpy()
        for kind, flag in enumerate((Flag.KEYS, Flag.VALUES)):
            if flag not in of:
                continue
            k8, k_scale = quantize_kv4(of[flag]) if Format.INT4_KV in d.format else quantize_kv(of[flag])
            self.kv_store[kind, active, : d.kv_heads, :dim] = k8.numpy()
            self.kv_scale[kind, active, : d.kv_heads] = bf16_bits(k_scale).numpy().astype(np.uint16)

    def _attention(self, d: Descriptor) -> None:
        c, dim, group = self.config, d.head_vectors * self.config.width, d.heads // d.kv_heads
        active = slice(self.first, self.first + self.count)

        def slots(heads: npt.NDArray[np.generic]) -> Tensor:
            """``[token, head, ...]`` -> ``[kv_head, token * group + g, ...]``."""
            parts = torch.from_numpy(heads.reshape(self.count, d.kv_heads, group, *heads.shape[2:]))
            return parts.transpose(0, 1).flatten(1, 2)

        q8, q_scale = slots(self.query[active, : d.heads, :dim]), slots(self.query_scale[active, : d.heads])
        if Format.FP8_QUERY in d.format:
            q8 = e4m3_values(q8.contiguous().view(torch.uint8))
        state = AttentionState.initial(q_scale.shape, dim)
        own = np.arange(self.tokens)
        keys, values = (
            (torch.from_numpy(self.kv_store[kind, : self.tokens, : d.kv_heads, :dim]).transpose(0, 1),
             _widen(self.kv_scale[kind, : self.tokens, : d.kv_heads]).transpose(0, 1)) for kind in range(2)
        )
        causal = torch.from_numpy(own <= np.arange(active.start, active.stop)[:, None]).repeat_interleave(group, dim=0)
        state.attend(q8, q_scale, keys, values, causal)
        for block in range(ceil_div(self.position, c.kv_block)):
            keys, values = self._cache_block(d, block, dim)
            valid = torch.arange(c.kv_block) < self.position - block * c.kv_block
            state.attend(q8, q_scale, keys, values, valid)
        out = state.result().reshape(d.kv_heads, self.count, group * dim).transpose(0, 1)
        self._store(d.dst, d.dst_stride, out.flatten(1))

    def _cache_address(self, d: Descriptor, head: int, block: int) -> int:
        return d.stream_address + self.registers.pages[block] * d.stride + head * d.head_stride

    def _cache_block(self, d: Descriptor, block: int, dim: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Keys, values of a cached block: int8 ``[kv_heads, kv_block, dim]``, scales ``[kv_heads, kv_block]`` each."""
        c, layout = self.config, KvBlockLayout(self.config, dim, Format.INT4_KV in d.format)
        beats = np.stack([self._segment(d, self._cache_address(d, h, block), layout.beats) for h in range(d.kv_heads)])
        scales = _widen(
            beats[:, : layout.header_beats].reshape(d.kv_heads, -1).view(np.uint16).reshape(d.kv_heads, 2, c.kv_block)
        )
        parts = []
        for kind in range(2):
            first = layout.header_beats + kind * layout.data_beats
            elements = layout.split(beats[:, first : first + layout.data_beats])
            parts.append((torch.from_numpy(elements), scales[:, kind]))
        return parts[0], parts[1]

    def _kv_write(self, d: Descriptor) -> None:
        c, dim = self.config, d.head_vectors * self.config.width
        layout = KvBlockLayout(c, dim, Format.INT4_KV in d.format)
        positions = self.position + np.arange(self.tokens)
        for head in range(d.kv_heads):
            for block in np.unique(positions // c.kv_block).tolist():
                mine = positions[positions // c.kv_block == block]
                banks, slot = mine - self.position, mine % c.kv_block
                address = self._cache_address(d, head, block)
                beats = from_planes(c, self._read(address, layout.bytes))
                header = beats[: layout.header_beats].reshape(-1).view(np.uint16).reshape(2, c.kv_block)
                header[:, slot] = self.kv_scale[:, banks, head]
                for kind in range(2):
                    first = layout.header_beats + kind * layout.data_beats
                    data = beats[first : first + layout.data_beats].view(np.int8)
                    data = data.reshape(layout.data_beats, c.kv_block, c.key_bytes)
                    data[:, slot] = layout.join(self.kv_store[kind, banks, head, :dim])
                self._write_segment(address, beats)

    def _head(self, d: Descriptor) -> None:
        c, n = self.config, d.vectors * self.config.width
        if d.fetch is Fetch.SHORTLIST:
            self._short_head(d, n)
            return
        if d.row_blocks != ceil_div(d.stride, c.kv_block):
            raise ProgramError(
                f"operator {d.tag} HEAD: row_blocks must be {ceil_div(d.stride, c.kv_block)}, not {d.row_blocks}"
            )
        planes = self._stream(d, d.stream_address, d.row_blocks * head_block_beats(c, n))
        rows, row_scale = self._weights.head(d.stream_address, planes, n, d.stride)
        q = torch.from_numpy(self.head_query[:n]).float()
        logits = head_logits(q, torch.from_numpy(self.head_scale)[0], rows, row_scale)
        self.logits = logits.numpy()
        self._set_candidates(torch.arange(d.stride), logits)
        if PassFlag.WRITE_LOGITS in self.registers.options:
            size = pad_beats(c, ceil_div(d.stride * 4, c.beat_bytes))
            beats = np.zeros(size * c.beat_bytes // 4, np.float32)
            beats[: d.stride] = self.logits
            self._write_segment(self.registers.logits, beats.view(np.uint8).reshape(size, c.beat_bytes))


    def _set_candidates(self, rows: Tensor, logits: Tensor) -> None:
        index, value = top_candidates(logits, self.config.topk)
        self.registers.candidates = list(zip(rows[index].tolist(), value.tolist(), strict=True))

    def _short_head(self, d: Descriptor, n: int) -> None:
        """Exact logits of the blocks in the short list; the others are unknown, and none are written to memory. Of equal
        logits the one that comes first in the list's order goes first.
        """
        c = self.config
        entries = min(c.shortlist, ceil_div(d.stride, c.kv_block))
        if d.row_blocks != entries or self.scores.size != d.stride:
            raise ProgramError(
                f"operator {d.tag} HEAD must have {entries} blocks of {self.scores.size} scored rows, "
                f"not {d.row_blocks} of {d.stride}"
            )
        rows, logits = [], []
        for block in short_list(torch.from_numpy(self.scores), c.kv_block, entries).tolist():
            address = d.stream_address + block * d.head_stride
            size = min(c.kv_block, d.stride - block * c.kv_block)
            weights, scale = self._weights.head(address, self._stream(d, address, head_block_beats(c, n)), n, size)
            q = torch.from_numpy(self.head_query[:n]).float()
            logits.append(head_logits(q, torch.from_numpy(self.head_scale)[0], weights, scale))
            rows.append(block * c.kv_block + torch.arange(size))
        self._set_candidates(torch.cat(rows), torch.cat(logits))


def rope_heads(d: Descriptor) -> dict[Flag, int]:
    """Heads of each kind that ROPE works on, in their order."""
    counts = {Flag.QUERIES: d.heads, Flag.KEYS: d.kv_heads, Flag.VALUES: d.kv_heads}
    return {flag: count for flag, count in counts.items() if flag in d.flags}


def activation_half(d: Descriptor) -> int:
    return int(Buffers.ACTIVATION in d.buffers)


def accumulator_half(d: Descriptor) -> int:
    return int(Buffers.ACCUMULATOR in d.buffers)


def _widen(bits: npt.NDArray[np.uint16]) -> Tensor:
    """bf16 bits -> the same values in float32."""
    return torch.from_numpy(widen_bf16(bits))
