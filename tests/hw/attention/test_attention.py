"""ATTENTION on the unit with its KV store, bit for bit against the golden online softmax."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
import torch
from cocotb.triggers import RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Format, Opcode
from hwgen.formats import to_four_bits
from hwgen.golden.attention import AttentionState
from hwgen.golden.int4 import e4m3_values
from hwgen.hw.attention.reciprocal import Reciprocal
from hwgen.layout import KV_FORMATS, KvBlockLayout
from hwgen.rounding import ceil_div
from tests.cocotb_runner import cocotb_parameters, reader, run_cocotb, start_clock
from tests.hw.attention.bench import (
    FORMATS,
    AttentionBench,
    Source,
    cut_by_reset,
    drive_operator,
    idle_inputs,
    pack_bytes,
    start_and_wait,
    tiny_config,
    write_kv_store,
    write_query,
)
from tools.mutant_config import CONFIG as MUTATED


@dataclass
class Sequence:
    """What one run attends to: keys and values of all its positions, int8 ``[kind, kv_head, position, dim]``, and their scales,
    bf16 bits ``[kind, kv_head, position]``."""

    position: int
    tokens: int
    kv: np.ndarray
    scale: np.ndarray


class Case:
    """Random operands of one operator and what the golden model makes of them. ``runs`` are positions and tokens; ``kind`` chooses
    the extremes; ``formats`` is empty or has ``e4m3`` (queries) or one of ``k8v4`` and ``k4v4`` (keys and values) in it."""

    def __init__(
        self, config: BuildConfig, seed: int, heads: int, kv_heads: int, head_dim: int, runs: list[tuple[int, int]], kind: str,
        formats: str = "",
    ) -> None:
        self.config, self.kv_heads, self.head_dim, self.runs = config, kv_heads, head_dim, runs
        self.count = count = sum(tokens for _, tokens in runs)
        self.heads, self.group = heads, heads // kv_heads
        rng = np.random.default_rng(seed)
        self.e4m3 = "e4m3" in formats
        self.kv = next((kv for kv in KV_FORMATS if kv in formats), "k8v8")
        self.layout = KvBlockLayout(config, head_dim, KV_FORMATS[self.kv])
        self.query = rng.integers(-127, 128, (count, heads, head_dim), dtype=np.int8)
        if self.e4m3:
            # any finite code: -0 and subnormals too
            self.query = rng.choice(np.delete(np.arange(256, dtype=np.uint8), (0x7F, 0xFF)), (count, heads, head_dim))
        if kind == "lowest":
            self.query[:] = 0xFE if self.e4m3 else -127
        if kind == "extremes":
            self.query = rng.choice(np.array([0x7E, 0xFE] if self.e4m3 else [127, 129], np.uint8), self.query.shape)
            self.query = self.query if self.e4m3 else self.query.view(np.int8)
        if kind == "subnormal":
            self.query &= np.uint8(0x8F)
        self.query_scale = rng.uniform(0.5e-3, 2e-3, (count, heads)).astype(np.float32)
        if self.e4m3:
            self.query_scale *= np.float32(2.0 ** (-3 if kind == "subnormal" else -10))
        self.sequences = [Sequence(*run, *self._keys(rng, sum(run), kind)) for run in runs]

    def _keys(self, rng: np.random.Generator, positions: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values of a sequence, and their scales."""
        kv = rng.integers(-127, 128, (2, self.kv_heads, positions, self.head_dim), dtype=np.int8)
        if kind == "lowest":
            kv[:] = -127
        if kind == "extremes":
            kv = np.where(kv < 0, -127, 127).astype(np.int8)
        for of in (0, 1):
            if self.kv[2 * of + 1] == "4":
                kv[of] = to_four_bits(kv[of])
        exponents = {"wide": (90, 170), "tiny": (2, 8), "huge": (240, 255), "lowest": (120, 127)}.get(kind, (112, 124))
        scale = rng.integers(exponents[0] << 7, exponents[1] << 7, (2, self.kv_heads, positions), dtype=np.uint16)
        scale[0] = rng.integers(118 << 7, 122 << 7, (self.kv_heads, positions), dtype=np.uint16)
        if kind == "saturated":
            scale[0] += 30 << 7
        if kind == "zero":
            scale[:] = 0
        scale[1, rng.random((self.kv_heads, positions)) < 0.1] = 0
        if kind == "equal":
            kv[0, :, :] = kv[0, :, :1]
            scale[0] = scale[0, :, :1]
        return kv, scale

    def descriptor(self, dst: int) -> Descriptor:
        vectors = self.head_dim // self.config.width
        return Descriptor(
            opcode=Opcode.ATTENTION, heads=self.heads, kv_heads=self.kv_heads, head_vectors=vectors, dst=dst,
            dst_stride=self.heads * vectors + 1, stream_beats=self.layout.beats,
            format=(Format.FP8_QUERY if self.e4m3 else Format.NONE) | KV_FORMATS[self.kv],
        )

    def beats(self, rng: np.random.Generator) -> list[int]:
        """Cached blocks of every run and head; slots that hold no cached position are noise."""
        layout, block, size = self.layout, self.config.kv_block, self.config.key_bytes
        out = []
        for of, head in itertools.product(self.sequences, range(self.kv_heads)):
            for first in range(0, of.position, block):
                image = rng.integers(0, 256, (layout.beats, self.config.beat_bytes), dtype=np.uint8)
                header = image[: layout.header_beats].reshape(-1).view(np.uint16)
                for slot in range(min(block, of.position - first)):
                    header[slot], header[block + slot] = of.scale[:, head, first + slot]
                    place = slice(slot * size, (slot + 1) * size)
                    for kind in (0, 1):
                        parts = of.kv[kind, head, first + slot].view(np.uint8).reshape(-1, size)
                        if self.kv[2 * kind + 1] == "4":
                            codes = parts >> 4 & 8 | parts & 7
                            parts = codes[0::2] | codes[1::2] << 4
                        at = layout.header_beats + kind * (self.head_dim // size // (2 if self.kv[1] == "4" else 1))
                        image[at : at + len(parts), place] = parts
                out += [pack_bytes(beat) for beat in image]
        return out

    async def load(self, dut: Any, rng: np.random.Generator) -> None:
        """Queries into the query memory, the pass's own keys and values into the store, noise into its other banks."""
        data = rng.integers(-127, 128, (self.config.chunk, 2, self.kv_heads, self.head_dim), dtype=np.int8)
        scales = rng.integers(0, 1 << 15, (self.config.chunk, 2, self.kv_heads), dtype=np.uint16)
        own = [(of, of.position + i) for of in self.sequences for i in range(of.tokens)]
        for token, (of, position) in enumerate(own):
            data[token], scales[token] = of.kv[:, :, position], of.scale[:, :, position]
        await write_kv_store(dut, self.config, data, scales)
        for token, head in np.ndindex(self.count, self.heads):
            await write_query(
                dut, self.config, self.query[token, head], float(self.query_scale[token, head]),
                slot=token * self.group + head % self.group, kv_head=head // self.group, kv_heads=self.kv_heads,
            )

    def expected(self, dst: int) -> dict[int, int]:
        """Scratch words by address."""
        words, first = {}, 0
        for of in self.sequences:
            words |= self._expected_of(of, first, dst)
            first += of.tokens
        return words

    def _expected_of(self, of: Sequence, first: int, dst: int) -> dict[int, int]:
        """Those of a run whose tokens begin with ``first`` of the pass."""
        tokens = slice(first, first + of.tokens)
        shape = torch.Size((self.kv_heads, self.group * of.tokens))
        state = AttentionState.initial(shape, self.head_dim)
        # [kv_head, token * group + member, dim]
        codes = torch.from_numpy(self.query[tokens])
        codes = codes.reshape(of.tokens, self.kv_heads, self.group, -1).transpose(0, 1).reshape(*shape, -1)
        query = e4m3_values(codes) if self.e4m3 else codes
        scale = torch.from_numpy(self.query_scale[tokens]).reshape(of.tokens, self.kv_heads, self.group)
        scale = scale.transpose(0, 1).reshape(shape)
        kv = torch.from_numpy(of.kv)
        kv_scale = torch.from_numpy((of.scale.astype(np.uint32) << 16).view(np.float32))
        position = of.position + torch.arange(of.tokens).repeat_interleave(self.group)[:, None]
        for begin in range(0, of.position + of.tokens, self.config.kv_block):
            keys = slice(begin, begin + self.config.kv_block)
            valid = begin + torch.arange(kv[0, 0, keys].shape[0]) <= position
            state.attend(query, scale, (kv[0, :, keys], kv_scale[0, :, keys]), (kv[1, :, keys], kv_scale[1, :, keys]), valid)
        result = state.result().reshape(self.kv_heads, of.tokens, self.group, self.head_dim).numpy()
        vectors, stride = self.head_dim // self.config.width, self.descriptor(dst).dst_stride
        words = {}
        for kv_head, t, member, v in np.ndindex(self.kv_heads, of.tokens, self.group, vectors):
            address = dst + (first + t) * stride + (kv_head * self.group + member) * vectors + v
            words[address] = pack_bytes(result[kv_head, t, member, v * self.config.width : (v + 1) * self.config.width])
        return words


@cocotb.test()
async def attends(dut: Any) -> None:
    parameters = cocotb_parameters()
    config = BuildConfig.from_dict(parameters["config"])
    idle_inputs(dut)
    drive_operator(dut, Descriptor())
    beats = Source(dut, "beats", 0.0, 3)
    written: list[tuple[int, int]] = []
    #: Cycles by the stages that were at work.
    activity = [0] * 8

    async def watch() -> None:
        valid, address, data = (reader(getattr(dut, f"scratch_write__{name}")) for name in ("valid", "addr", "data"))
        stages, edge = reader(dut.activity) if config.probe else None, RisingEdge(dut.clk)
        while True:
            await edge
            if valid():
                written.append((address(), data()))
            if stages is not None:
                activity[stages()] += 1

    await start_clock(dut)
    cocotb.start_soon(watch())
    for number, (stall, interrupt, *arguments) in enumerate(parameters["cases"]):
        rng = np.random.default_rng(number)
        case = Case(config, number, *arguments)
        dst = 3 + number % 5
        await case.load(dut, rng)
        drive_operator(dut, case.descriptor(dst), runs=[(*run, 0) for run in case.runs])
        beats.stall = stall
        if interrupt:
            await cut_by_reset(dut, beats, case.beats(rng), interrupt)
        written.clear()
        items = case.beats(rng)
        beats.taken = 0
        beats.items += items
        activity[:] = [0] * 8
        cycles = await start_and_wait(dut)
        expected = case.expected(dst)
        dut._log.info("%s: %d cycles, %d beats, activity %s", arguments, cycles, len(items), activity)
        assert beats.taken == len(items) and not beats.items
        assert len(written) == len(expected), (arguments, len(written), len(expected))
        for address, word in written:
            assert word == expected[address], (arguments, address, hex(word), hex(expected[address]))
        assert len(dict(written)) == len(expected)
        if not stall and len(case.runs) == 1 and case.head_dim // config.key_bytes >= config.kv_block + 16:
            check_time(case, cycles, activity)


def check_time(case: Case, cycles: int, activity: list[int]) -> None:
    """How long one run takes with every beat at hand."""
    config, (position, count) = case.config, case.runs[0]
    dims, beats = case.head_dim // config.key_bytes, KvBlockLayout(config, case.head_dim).beats
    past, blocks = ceil_div(position, config.kv_block), ceil_div(position + count, config.kv_block)
    rounds = ceil_div(count * case.group, config.query_lanes)
    if rounds == 1:
        # One beat a cycle; beside them the pass's own keys and values, of no more beats than a cached block, which take time of
        # their own for the last head, and where fewer are cached; and the way through the stages. A beat of 4-bit keys takes two
        # cycles, while the one of values is loaded; the ring waits for a memory that the pass's own go to.
        way = 220 + Reciprocal.latency * config.query_lanes
        loads = past * (max(dims + 2, case.layout.beats) + 1) + (0 if case.kv == "k8v8" else 2 * dims)
        assert cycles <= case.kv_heads * max(loads + 5, beats + 15) + beats + way, cycles
        return
    # An item takes a cycle for each key beat; beside the items each round has an output pass. The first begins when all of the
    # own values and keys of the pass are there.
    steps = case.kv_heads * rounds * blocks * dims
    output = case.kv_heads * rounds * (max(dims, 32) + 40)
    assert cycles <= steps + output + beats + 150, (cycles, steps)
    if config.probe and past >= 8:
        # Scores of an item, softmax of the one before and values of the one before that: nearly always together.
        scoring, weighting = sum(activity[1::2]), activity[2] + activity[3] + activity[6] + activity[7]
        assert scoring == steps and activity[5] + activity[7] >= 0.9 * scoring, activity
        assert activity[7] >= 0.9 * weighting, activity


def random_runs(config: BuildConfig, seed: int) -> list[tuple[int, int]]:
    """Runs of a whole pass: many of one token, some of several, near and far from their blocks' ends."""
    rng = np.random.default_rng([seed, 7])
    left, runs = int(rng.integers(1, config.chunk + 1)), []
    while left:
        tokens = int(rng.choice([1, left, rng.integers(1, left + 1)]))
        block = config.kv_block * int(rng.integers(config.max_pages))
        position = block + int(rng.choice([0, 1, config.kv_block - 1, rng.integers(config.kv_block)]))
        runs.append((min(position, config.max_context - tokens), tokens))
        left -= tokens
    return runs


def format_cases(config: BuildConfig) -> list[tuple[Any, ...]]:
    """As :func:`cases`, with every mixture of formats the build has, changing from one operator to the next."""
    block, chunk, dim, step = config.kv_block, config.chunk, config.max_head_dim, 2 * config.width
    formats = [f for f in ("", "k4v4", "e4m3", "k8v4", "e4m3 k4v4") if config.fp8_query or "e4m3" not in f]
    formats = [f for f in formats if config.int4_kv or "v4" not in f]
    positions = [0, 1, block - 1, block, block + 1, 2 * block + 3, 4 * block, config.max_context - chunk]
    found: list[tuple[Any, ...]] = [
        (0.4 * (n % 3 == 1), (0, 97)[n % 5 == 3], (4, 6, 3, 8)[n % 4], (4, 2, 1, 2)[n % 4], (dim, step)[n % 5 == 2],
         [(position, 1 + n % chunk)], "", formats[(n + turn) % len(formats)])
        for turn in range(2) for n, position in enumerate(positions)
    ]
    found += [
        (0.2, 40 * (n % 2) * n, 6, 2, dim, [(3 * block - n, 1 + n % chunk)], kind, f)
        for n, kind in enumerate(["extremes", "subnormal", "lowest", "wide", "tiny", "huge", "zero", "equal"])
        for f in formats[1:]
    ]
    found += [(0.3 * (n % 2), 0, (4, 6, 3)[n % 3], (4, 2, 1)[n % 3], dim, random_runs(config, n), "", formats[n % len(formats)])
              for n in range(8)]
    return [*found, *((0.0, 0, 4, 2, dim, [(8 * block, n)], "", f) for f in formats for n in (1, chunk))]


def fitted(config: BuildConfig, found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Cases with no more heads and no longer sequences than a build has."""
    fit = []
    for stall, interrupt, heads, kv_heads, dim, runs, *others in found:
        if heads > config.max_heads or kv_heads > config.max_kv_heads:
            heads, kv_heads = config.max_heads, config.max_kv_heads
        within = [(min(position, config.max_context - tokens), tokens) for position, tokens in runs]
        fit.append((stall, interrupt, heads, kv_heads, dim, within, *others))
    return fit


def cases(config: BuildConfig) -> list[tuple[Any, ...]]:
    """``(stall, cycle of a reset or 0, heads, kv_heads, head_dim, runs, kind)``"""
    block, chunk, dim, step = config.kv_block, config.chunk, config.max_head_dim, 2 * config.width
    found: list[tuple[Any, ...]] = [
        (0.0, 0, 1, 1, step, [(0, 1)], ""),
        (0.0, 0, 3, 1, dim, [(0, chunk)], ""),
        (0.0, 0, 4, 2, dim, [(block, 1)], ""),
        (0.0, 0, 4, 2, dim, [(2 * block + n % block, 1) for n in range(chunk)], ""),
    ]
    found += [
        (0.4 * (n % 2), 0, (4, 6, 3, 8)[n % 4], (4, 2, 1, 2)[n % 4], (dim, step)[n % 3 == 2], [(position, 1 + n % chunk)], "")
        for n, position in enumerate([1, block - 1, block, block + 1, 2 * block + 3, 4 * block, 5 * block - 1])
    ]
    found += [
        (0.2, 40 * (n % 2) * n, 6, 2, dim, [(3 * block - n, 1 + n % chunk)], kind)
        for n, kind in enumerate(["wide", "tiny", "huge", "lowest", "saturated", "zero", "equal"])
    ]
    found += [
        (0.3 * (n % 2), 60 * (n == 3), (1, 4, 6, 3, 8)[n % 5], (1, 4, 2, 1, 2)[n % 5], (dim, step)[n % 3 == 2],
         random_runs(config, n), "")
        for n in range(10)
    ]
    end = config.max_context
    return [*found, (0.0, 0, 8, 2, dim, [(end - 1, 1)], ""), (0.0, 0, 8, 1, dim, [(end - chunk, chunk)], "")]


@pytest.mark.parametrize(
    "changes",
    [
        {"chunk": 6, "max_head_dim": 64, "max_query": 512},
        {"query_lanes": 1, "kv_block": 4, "chunk": 4},
        {"query_lanes": 4, "kv_block": 16, "chunk": 2, "rows": 1, "groups": 4},
        {"beat_bytes": 32, "kv_block": 16, "chunk": 10, "beat_vectors": 2, "query_lanes": 4},
    ],
)
def test_attends(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    run_cocotb(
        partial(AttentionBench, config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "cases": cases(config)},
    )


@pytest.mark.parametrize(
    "changes",
    [
        FORMATS,
        {"int4_kv": True, "query_lanes": 1, "kv_block": 4, "chunk": 4},
        {"fp8_query": True, "query_lanes": 1, "kv_block": 4, "chunk": 2},
    ],
)
def test_formats(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    run_cocotb(
        partial(AttentionBench, config), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "cases": format_cases(config)},
    )


def test_a_small_machine(tmp_path: Path) -> None:
    """Heads, pages and context as one has them in which faults are planted, and every format."""
    run_cocotb(
        partial(AttentionBench, MUTATED), test_module=__name__, build_dir=tmp_path,
        parameters={"config": MUTATED.to_dict(), "cases": fitted(MUTATED, format_cases(MUTATED)[:22])},
    )
