"""Memories, linear engine and attention unit as `VectorUnit` sees them, and what each operator must leave in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from cocotb.triggers import RisingEdge
from torch import Tensor

from hwgen.config import TRITS_PER_BYTE, BuildConfig
from hwgen.descriptors import Buffers, Descriptor, Flag, Format, Opcode
from hwgen.golden.activation import relu2, silu
from hwgen.golden.float32 import bf16_bits, fadd, fmul, int_to_f32
from hwgen.golden.int4 import (
    dequantize_rows,
    e4m3_codes,
    norm_e4m3,
    quantize_e4m3,
    quantize_query_e4m3,
)
from hwgen.golden.norm import norm_heads, norm_quantize, quantize_int8
from hwgen.golden.rotary import mix, quantize_kv, quantize_query, rotate, unmix
from hwgen.hw.interfaces import ACCUMULATOR_LATENCY, SCRATCH_LATENCY
from hwgen.layout import lane_strides
from hwgen.operators import accumulator_vectors
from tests.cocotb_runner import reader, start_clock
from tests.hw.float.stimulus import EDGES, random_numbers, to_bits, to_float

Places = dict[tuple[int, ...], int]
"""Contents of a memory by the members of its write bus, in their order."""

#: Exponent fields of random numbers.
RANGES = {"one": (120, 134), "huge": (245, 254), "tiny": (2, 12), "wide": (2, 254), "spread": (108, 134)}

STYLES = (*RANGES, "edges", "zero")

BUSES = {
    "activation": "half token addr data",
    "query": "slot kv_head kv_heads head_vectors vector data",
    "query_scale": "slot kv_head kv_heads scale",
    "kv": "bank value head head_vectors vector data",
    "kv_scale": "bank value head scale",
    "scratch_write": "addr data",
}
"""Members of the write buses beside ``valid``; the last one is what is written."""


def config_of_width(width: int, **changes: Any) -> BuildConfig:
    """A small build with vectors of ``width`` elements, 1, 2 or 4 of them in a beat."""
    sizes: dict[int, dict[str, Any]] = {
        4: {"beat_bytes": 64, "beat_vectors": 4, "groups": 1, "lanes": 3, "kv_block": 32, "chunk": 10, "builders": 1},
        8: {"beat_bytes": 64, "beat_vectors": 2, "groups": 2, "lanes": 2, "kv_block": 32, "chunk": 6, "builders": 1},
        16: {"beat_bytes": 64, "groups": 2, "lanes": 1, "kv_block": 32, "builders": 27},
    }
    return BuildConfig(**{"scratch_vectors": 1024, "param_vectors": 256, "burst": 16, **sizes[width], **changes})


def pack(elements: Sequence[int], bits: int) -> int:
    """One word, element 0 in the lowest bits."""
    return sum((element & ((1 << bits) - 1)) << bits * k for k, element in enumerate(elements))


def _words_of_bytes(values: Tensor, size: int) -> list[int]:
    """The memory of a tensor as words of ``size`` bytes."""
    memory = values.numpy().tobytes()
    return [int.from_bytes(memory[k : k + size], "little") for k in range(0, len(memory), size)]


def words(values: Tensor, width: int) -> list[int]:
    """Vectors of ``width`` float32 as words."""
    return _words_of_bytes(values.contiguous().view(-1), 4 * width)


def bytes_of(values: Tensor, width: int) -> list[int]:
    """Vectors of ``width`` bytes (int8 or codes) as words."""
    return _words_of_bytes(values.contiguous().view(-1).to(torch.uint8), width)


def random_floats(rng: random.Random, count: int, style: str) -> Tensor:
    """Contract values of one of the `STYLES`."""
    if style == "zero":
        return torch.zeros(count)
    if style == "edges":
        return to_float(rng.choices(EDGES, k=count))
    numbers = random_numbers(rng, count, *RANGES[style])
    return to_float([0 if rng.random() < 0.05 else number for number in numbers])


class VectorBench:
    """Drives one `VectorUnit`.

    ``scratch``, ``param`` are ``[vectors, width]`` float32; ``accumulators`` ``[half, tokens, panel_rows]`` integers, by
    the tokens' places among the active ones; ``scales`` what NORM must have left for each token. ``written`` holds what
    the operator wrote, by bus; writing a place twice is an error.
    """

    def __init__(self, dut: Any, config: BuildConfig, seed: int) -> None:
        self.dut, self.config = dut, config
        self.formats = Format.PLAIN  # that the unit must know
        for format, present in (
            (Format.FP8, config.engine != "ternary"),
            (Format.FP8_QUERY, config.fp8_query),
            (Format.INT4_KEYS | Format.INT4_VALUES | Format.MIX | Format.UNMIX, config.int4_kv),
        ):
            self.formats |= format if present else Format.NONE
        self.rng = random.Random(seed)
        self.scratch = random_floats(self.rng, config.scratch_vectors * config.width, "wide").view(-1, config.width)
        self.param = random_floats(self.rng, config.param_vectors * config.width, "wide").view(-1, config.width)
        self.accumulators = torch.zeros(2, config.tokens, config.panel_rows, dtype=torch.int64)
        self.scales = torch.zeros(config.chunk)
        #: Wanted tokens by number.
        self.want = self.rng.choices(range(config.chunk), k=config.chunk)
        self.written: dict[str, Places] = {}
        self.gang = False
        self.cycles = 0
        self._scratch_words: list[int] = []
        self._param_words: list[int] = []
        self._scratch_reads = [0] * (SCRATCH_LATENCY - 1)
        self._param_reads = [0] * (SCRATCH_LATENCY - 1)
        self._accumulator_reads = [0] * (ACCUMULATOR_LATENCY - 1)
        self._buses = {
            bus: (reader(getattr(dut, f"{bus}__valid")), [reader(getattr(dut, f"{bus}__{name}")) for name in names.split()])
            for bus, names in BUSES.items()
        }
        self._request = [reader(getattr(dut, f"accumulator__{name}")) for name in ("half", "gang", "token", "vector")]
        self._done, self._want, self._scratch_address, self._scratch_enable, self._param_address = (
            reader(getattr(dut, name))
            for name in ("done", "want__index", "scratch_read__addr", "scratch_read__en", "param_read__addr")
        )
        #: Words of accumulators by what asks for them, as long as these are the same.
        self._accumulator_words: dict[tuple[int, ...], int] = {}
        #: Inputs that answer what the unit asks for, and what they were set to last.
        answers = ("want__number", "scratch_read__data", "param_read__data", "accumulator__data")
        self._answers = [getattr(dut, name) for name in answers]
        self._answered: list[int | None] = [None] * len(self._answers)

    async def reset(self) -> None:
        """Start the clock with all inputs 0."""
        for name in ("descriptor", "first", "count", "tokens", "runs", "gang", "write_logits", "logits"):
            getattr(self.dut, f"op__{name}").value = 0
        for name in ("start", "scratch_read__data", "param_read__data", "accumulator__data", "want__number", "lists_busy"):
            getattr(self.dut, name).value = 0
        self.dut.room.value = 1
        await start_clock(self.dut)
        self._show_memories()

    def _show_memories(self) -> None:
        self._scratch_words = words(self.scratch, self.config.width)
        self._param_words = words(self.param, self.config.width)

    def _accumulator_word(self) -> int:
        request = half, gang, token, vector = tuple([read() for read in self._request])
        c = self.config
        if gang != self.gang or token >= c.tokens or vector >= c.panel_vectors:
            return 0
        if request not in self._accumulator_words:
            row = self.accumulators[half, token, vector * c.width : (vector + 1) * c.width]
            self._accumulator_words[request] = pack(row.tolist(), c.acc_bits)
        return self._accumulator_words[request]

    async def cycle(self) -> bool:
        """One rising edge; returns ``done`` of the cycle that it ends."""
        await RisingEdge(self.dut.clk)
        self.cycles += 1
        done = bool(self._done())
        word = self._scratch_words[self._scratch_address()]
        self._scratch_reads.append(word if self._scratch_enable() else word ^ ((1 << 32 * self.config.width) - 1))
        self._param_reads.append(self._param_words[self._param_address()])
        self._accumulator_reads.append(self._accumulator_word())
        number = self.want[self._want() % self.config.chunk]
        for bus, (valid, members) in self._buses.items():
            if valid():
                *where, what = [read() for read in members]
                assert not done, f"{bus} is written in the cycle of done"
                assert tuple(where) not in self.written[bus], f"{bus} {where} is written twice"
                self.written[bus][tuple(where)] = what
                if bus == "scratch_write":
                    self._scratch_words[where[0]] = what
        answers = number, self._scratch_reads.pop(0), self._param_reads.pop(0), self._accumulator_reads.pop(0)
        for i, answer in enumerate(answers):
            if answer != self._answered[i]:
                self._answers[i].value = self._answered[i] = answer
        return done

    async def begin(self, d: Descriptor, *, first: int = 0, count: int = 1, gang: bool | None = None) -> None:
        """Start an operator, and end its first cycle."""
        dut = self.dut
        self.gang = count <= self.config.lanes if gang is None else gang
        self.written = {bus: {} for bus in BUSES}
        self._accumulator_words = {}
        self._show_memories()
        dut.op__descriptor.value = int.from_bytes(d.pack(), "little")
        dut.op__first.value, dut.op__count.value, dut.op__tokens.value = first, count, first + count
        dut.op__runs.value = self.rng.randrange(self.config.chunk)
        dut.op__gang.value = int(self.gang)
        dut.start.value = 1
        await self.cycle()
        dut.start.value = 0

    async def run(self, d: Descriptor, *, first: int = 0, count: int = 1, gang: bool | None = None) -> int:
        """Run one operator, hold what it wrote against the golden model and take that over; returns cycles from
        ``start`` to ``done``."""
        await self.begin(d, first=first, count=count, gang=gang)
        started = self.cycles
        limit = 1000 + 4 * count * (d.vectors + d.head_vectors * (d.heads + 2 * d.kv_heads))
        if Flag.CANDIDATES in d.flags:
            limit += count * (100 + d.vectors * max(TRITS_PER_BYTE, self.config.width))
        if d.opcode is Opcode.NORM:  # heads are normed one after the other
            limit += count * d.heads * (250 + 2 * d.vectors)
        while not await self.cycle():
            assert self.cycles - started < limit, f"{d.opcode.name} does not end"
        expected = {bus: {} for bus in BUSES} | self.expected(d, range(first, first + count))
        for bus in BUSES:
            self._compare(bus, d, self.written[bus], expected[bus])
        return self.cycles - started

    def _compare(self, bus: str, d: Descriptor, got: Places, want: Places) -> None:
        context = f"{d.opcode.name} {d.flags!r}: {bus}"
        missing, surplus = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
        assert not missing and not surplus, f"{context}: not written {missing[:4]}, written too {surplus[:4]}"
        wrong = [(where, hex(got[where]), hex(want[where])) for where in want if got[where] != want[where]]
        assert not wrong, f"{context}: {len(wrong)} of {len(want)} differ, (where, is, should be): {wrong[:2]}"

    def expected(self, d: Descriptor, tokens: range) -> dict[str, Places]:
        """What the operator writes, by bus; ``scratch`` and ``scales`` take their new values."""
        match d.opcode:
            case Opcode.NORM:
                return self._norm(d, tokens)
            case Opcode.DRAIN:
                return self._drain(d, tokens)
            case _:
                return self._rope(d, tokens)

    def _rows(self, memory: Tensor, base: int, vectors: int) -> Tensor:
        return memory[base : base + vectors].reshape(-1)

    def _norm(self, d: Descriptor, tokens: range) -> dict[str, Places]:
        c = self.config
        activation: Places = {}
        query: Places = {}
        query_scale: Places = {}
        if Flag.STORE in d.flags:
            return self._norm_heads(d, tokens)
        gain = self._rows(self.param, d.param, d.vectors)
        plain = Format.PLAIN in d.format
        for i, t in enumerate(tokens):
            place = self.want[t] if Flag.LOGITS in d.flags else t
            x = self._rows(self.scratch, d.src + place * d.src_stride, d.vectors)
            if Format.FP8 in d.format & self.formats:
                integers, self.scales[t] = quantize_e4m3(x) if plain else norm_e4m3(x, gain, d.scalar0, d.scalar1)
                q = e4m3_codes(integers)
            else:
                q, self.scales[t] = quantize_int8(x) if plain else norm_quantize(x, gain, d.scalar0, d.scalar1)
            for v, word in enumerate(bytes_of(q, c.width)):
                if d.flags & Flag.TO_QUERY:
                    query[0, 0, d.kv_heads, d.head_vectors, v] = word
                else:
                    activation[int(Buffers.ACTIVATION in d.buffers), i, d.dst + v] = word
            if d.flags & Flag.TO_QUERY:
                query_scale[0, 0, d.kv_heads] = to_bits(self.scales[t : t + 1])[0]
        return {"activation": activation, "query": query, "query_scale": query_scale}

    def _norm_heads(self, d: Descriptor, tokens: range) -> dict[str, Places]:
        places: Places = {}
        gain = self._rows(self.param, d.param, d.vectors)
        for t in tokens:
            for head in range(d.heads):
                base = d.src + t * d.src_stride + head * d.vectors
                y = norm_heads(self._rows(self.scratch, base, d.vectors), gain, d.scalar0, d.scalar1).view(d.vectors, -1)
                self.scratch[base : base + d.vectors] = y
                places |= {(base + v,): word for v, word in enumerate(words(y, self.config.width))}
        return {"scratch_write": places}

    def _drain(self, d: Descriptor, tokens: range) -> dict[str, Places]:
        width = self.config.width
        places: Places = {}
        for i, t in enumerate(tokens):
            scale = fmul(self.scales[t], torch.tensor(d.scalar0))
            half = int(Buffers.ACCUMULATOR in d.buffers)
            rows = self.accumulators[half, i, d.row_blocks * width : (d.row_blocks + accumulator_vectors(d)) * width]
            if Flag.DIGITS in d.flags:
                digits = rows.view(d.vectors, TRITS_PER_BYTE, width)
                rows = reduce(lambda total, digit: 3 * total + digit, digits.unbind(1)).flatten()
            if Format.FP8 in d.format & self.formats:
                y = dequantize_rows(rows, scale, self._rows(self.param, d.param, d.vectors))
            else:
                y = fmul(int_to_f32(rows), scale)
            source = self._rows(self.scratch, d.src + t * d.src_stride, d.vectors)
            if d.flags & Flag.RELU2:
                y = relu2(y)
            elif d.flags & Flag.SILU:
                y = silu(y)
            elif d.flags & Flag.MULTIPLY:
                y = fmul(y, source)
            elif d.flags & Flag.ADD:
                y = fadd(source, y)
            target = d.dst + t * d.dst_stride
            self.scratch[target : target + d.vectors] = y.view(-1, width)
            places |= {(target + v,): word for v, word in enumerate(words(y, width))}
        return {"scratch_write": places}

    def _turn(self, d: Descriptor, head: Tensor, row: Tensor) -> Tensor:
        """A head rotated by its row, or with pairs of its halves, or of elements of a vector, mixed or unmixed."""
        known, stride = d.format & self.formats, d.param if d.param in lane_strides(self.config) else head.shape[-1] // 2
        if Format.UNMIX in known:
            return unmix(head, (stride,))
        return mix(head, (stride,)) if Format.MIX in known else rotate(head, row)

    def _rope(self, d: Descriptor, tokens: range) -> dict[str, Places]:
        c, h = self.config, d.head_vectors
        group = d.heads // d.kv_heads
        scratch: Places = {}
        query: Places = {}
        query_scale: Places = {}
        kv: Places = {}
        kv_scale: Places = {}
        for t in tokens:
            row = self._rows(self.param, d.param + t * d.param_stride, h)
            kinds = [Flag.QUERIES] * d.heads + [Flag.KEYS] * d.kv_heads + [Flag.VALUES] * d.kv_heads
            mine = [head for head, kind in enumerate(kinds) if kind in d.flags]
            for place, head in enumerate(mine):
                base = d.src + t * d.src_stride + place * h
                y = self._rows(self.scratch, base, h)
                if head < d.heads + d.kv_heads:
                    adds = Flag.ADD in d.flags
                    y = fadd(y, self._rows(self.scratch, d.dst + place * h, h)) if adds else self._turn(d, y, row)
                    self.scratch[base : base + h] = y.view(h, -1)
                    scratch |= {(base + v,): word for v, word in enumerate(words(y, c.width))}
                if Flag.STORE in d.flags:
                    continue
                if head < d.heads:
                    if Format.FP8_QUERY in d.format & self.formats:
                        integers, scale = quantize_query_e4m3(y, d.scalar0)
                        q = e4m3_codes(integers)
                    else:
                        q, scale = quantize_query(y, d.scalar0)
                    kv_head, member = divmod(head, group)
                    slot = t * group + member
                    query |= {(slot, kv_head, d.kv_heads, h, v): word for v, word in enumerate(bytes_of(q, c.width))}
                    query_scale[slot, kv_head, d.kv_heads] = to_bits(scale.view(1))[0]
                else:
                    value, kv_head = divmod(head - d.heads, d.kv_heads)
                    bits = Format.INT4_VALUES if value else Format.INT4_KEYS
                    q, scale = quantize_kv(y, four_bits=bits in d.format & self.formats)
                    kv |= {(t, value, kv_head, h, v): word for v, word in enumerate(bytes_of(q, c.width))}
                    kv_scale[t, value, kv_head] = int(bf16_bits(scale.view(1))[0])
        return {"scratch_write": scratch, "query": query, "query_scale": query_scale, "kv": kv, "kv_scale": kv_scale}
