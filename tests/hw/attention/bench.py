"""What the benches of this folder share: operators, the KV store's contents, streams with random stalls."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ClockCycles, RisingEdge

from hwgen.config import BuildConfig
from hwgen.descriptors import DESCRIPTOR_BYTES, Descriptor, Opcode
from hwgen.hw.attention.candidates import INDEX_BITS
from hwgen.hw.attention.ranking import ListedLogits
from hwgen.hw.attention.store import KvStore
from hwgen.hw.attention.unit import AttentionUnit
from hwgen.hw.choice import choice_entries
from hwgen.hw.interfaces import (
    BeatStream,
    KvScaleWrite,
    KvWrite,
    MemoryWrite,
    Operator,
    QueryScaleWrite,
    QueryWrite,
    RunRead,
    TableRead,
)
from tests.cocotb_runner import reader

__all__ = [
    "FORMATS",
    "AttentionBench",
    "RunOf",
    "RunTable",
    "Sink",
    "Source",
    "answer_runs",
    "begin_operator",
    "cut_by_reset",
    "drive_operator",
    "idle_inputs",
    "pack_bytes",
    "pulse",
    "start_and_wait",
    "tiny_config",
    "write_kv_store",
    "write_query",
]


#: Changes of :func:`tiny_config` to a build that has every format and shows which stages are at work.
FORMATS: dict[str, Any] = {
    "fp8_query": True, "int4_kv": True, "chunk": 6, "max_head_dim": 64, "max_query": 512, "max_context": 128, "groups": 4,
    "probe": True,
}


def tiny_config(**changes: Any) -> BuildConfig:
    """A small build: beats of 16 bytes, blocks of 8 keys."""
    values: dict[str, Any] = {
        "beat_bytes": 16, "groups": 1, "lanes": 1, "rows": 2, "builders": 1, "query_lanes": 2,
        "kv_block": 8, "chunk": 4, "burst": 16, "ring_beats": 256, "scratch_vectors": 1024, "max_inputs": 64,
        "panel_rows": 64, "max_query": 256,
        "max_heads": 8, "max_kv_heads": 4, "max_head_dim": 32, "max_context": 64, "topk": 4,
    }
    return BuildConfig(**{**values, **changes})


def pack_bytes(values: np.ndarray) -> int:
    """Little-endian integer of an array's bytes."""
    return int.from_bytes(np.ascontiguousarray(values).tobytes(), "little")


#: Context position of a run's first token, its tokens, the entry of the page table that has its first page, and its budget in
#: builds that have one.
RunOf = tuple[int, ...]
#: The same by the names of :func:`RunRead`.
_RUN = ("position", "tokens", "pages", "budget")


def drive_operator(
    dut: Any, descriptor: Descriptor, *, runs: Sequence[RunOf] = ((0, 1, 0),), first: int = 0, count: int | None = None,
    write_logits: bool = False, logits: int = 0,
) -> None:
    """An operator of all tokens of the runs, or of ``count``, on the bus, and the runs in their table (see `RunTable`)."""
    tokens = sum(run[1] for run in runs)
    dut.op__descriptor.value = int.from_bytes(descriptor.pack(), "little")
    dut.op__runs.value = len(runs)
    dut.op__first.value = first
    dut.op__count.value = tokens if count is None else count
    dut.op__tokens.value = tokens
    dut.op__gang.value = 0
    for number, run in enumerate(runs):
        for name, value in zip(_RUN, run, strict=False):
            getattr(dut, f"table__{name}__{number}").value = value
    dut.op__write_logits.value = int(write_logits)
    dut.op__logits.value = logits


async def pulse(dut: Any, signal: Any) -> None:
    signal.value = 1
    await RisingEdge(dut.clk)
    signal.value = 0


async def begin_operator(dut: Any) -> None:
    """Start the operator on the bus. Until then the bus has another one of other sizes, as behind the sequencer: what a unit
    derives from it beforehand is of that one."""
    await RisingEdge(dut.clk)  # it is on the bus
    descriptor = int(dut.op__descriptor.value)
    mine = Descriptor.unpack(descriptor.to_bytes(DESCRIPTOR_BYTES, "little"))
    opcode = {Opcode.HEAD: Opcode.ATTENTION, Opcode.ATTENTION: Opcode.HEAD}.get(mine.opcode, mine.opcode)
    for other in (Descriptor(opcode=opcode, vectors=1, head_vectors=1, heads=1, kv_heads=1), Descriptor(opcode=opcode)):
        dut.op__descriptor.value = int.from_bytes(other.pack(), "little")
        await ClockCycles(dut.clk, 2)
    dut.op__descriptor.value = descriptor
    await pulse(dut, dut.start)


async def cut_by_reset(dut: Any, beats: Source, items: Sequence[int], cycles: int) -> None:
    """Start the operator on the bus, with its beats at hand, and reset the unit so many cycles later."""
    beats.items += items
    await begin_operator(dut)
    await ClockCycles(dut.clk, cycles)
    dut.rst.value = 1
    beats.clear()
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


async def start_and_wait(dut: Any, limit: int = 20000) -> int:
    """Start the operator on the bus; the cycles until ``done``."""
    await begin_operator(dut)
    done, edge = reader(dut.done), RisingEdge(dut.clk)
    for cycle in range(limit):
        await edge
        if done():  # before the edge
            return cycle
    raise AssertionError(f"not done after {limit} cycles")


async def write_kv_store(dut: Any, config: BuildConfig, data: np.ndarray, scales: np.ndarray) -> None:
    """``data`` int8 ``[bank, kind, head, dim]`` and ``scales`` uint16 ``[bank, kind, head]`` into the store."""
    banks, kinds, heads, dim = data.shape
    for bank, kind, head in np.ndindex(banks, kinds, heads):
        dut.kv_scale__bank.value = dut.kv__bank.value = bank
        dut.kv_scale__value.value = dut.kv__value.value = kind
        dut.kv_scale__head.value = dut.kv__head.value = head
        dut.kv__head_vectors.value = dim // config.width
        dut.kv_scale__scale.value = int(scales[bank, kind, head])
        dut.kv__valid.value = 1
        for vector in range(dim // config.width):
            dut.kv_scale__valid.value = int(vector == 0)
            dut.kv__vector.value = vector
            dut.kv__data.value = pack_bytes(data[bank, kind, head, vector * config.width : (vector + 1) * config.width])
            await RisingEdge(dut.clk)
    dut.kv__valid.value = 0
    dut.kv_scale__valid.value = 0


def RunTable(config: BuildConfig) -> wiring.Signature:
    """The table of runs as ports of a bench."""
    read = RunRead(config).members
    return wiring.Signature({name: Out(read[name].shape).array(config.chunk) for name in _RUN if name in read})


def answer_runs(m: Module, table: Any, reader: Any) -> None:
    """``reader`` reads the table, as from the register file."""
    for name in (name for name in _RUN if hasattr(reader, name)):
        answer = Signal.like(getattr(reader, name), name=f"{name}_of_run")
        m.d.sync += answer.eq(Array(getattr(table, name))[reader.index])
        m.d.comb += getattr(reader, name).eq(answer)


class AttentionBench(wiring.Component):
    """Attention unit with its KV store, and a short list in ``blocks``. With ``config.probe`` ``activity`` has the stages at work:
    scores, softmax, values.
    """

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "op": In(Operator(config)), "start": In(1), "done": Out(1),
            "kv": In(KvWrite(config)), "kv_scale": In(KvScaleWrite(config)),
            "query": In(QueryWrite(config)), "query_scale": In(QueryScaleWrite(config)), "beats": In(BeatStream(config)),
            "scratch_write": Out(MemoryWrite(config.scratch_vectors, 32 * config.width)),
            "table": In(RunTable(config)),
            **({"chosen": In(TableRead(choice_entries(config))), "choice_done": Out(1)} if config.kv_budget else {}),
            **({
                "listed": Out(ListedLogits(config)), "blocks": In(INDEX_BITS).array(config.shortlist),
            } if config.has_ternary else {}),
            **({"activity": Out(3)} if config.probe else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.store = store = KvStore(self.config)
        m.submodules.unit = unit = AttentionUnit(self.config)
        for name in ("op", "query", "query_scale", "beats", "scratch_write"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(unit, name))
        for name in ("kv", "kv_scale"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(store, name))
        wiring.connect(m, unit.store, store.read)
        m.d.comb += [unit.start.eq(self.start), self.done.eq(unit.done)]
        if self.config.probe:
            m.d.comb += self.activity.eq(Cat(unit.scoring, unit.weighting, unit.summing))
        if self.config.kv_budget:
            wiring.connect(m, wiring.flipped(self.chosen), unit.chosen)
            m.d.comb += self.choice_done.eq(unit.choice_done)
        for runs in unit.runs:
            answer_runs(m, self.table, runs)
        if self.config.has_ternary:
            wiring.connect(m, wiring.flipped(self.listed), unit.listed)
            m.d.sync += unit.list_block.eq(Array(self.blocks)[unit.list_index])
        return m


def idle_inputs(dut: Any) -> None:
    """Nothing is written, nothing starts."""
    for name in ("start", "kv__valid", "kv_scale__valid", "query__valid", "query_scale__valid"):
        getattr(dut, name).value = 0


async def write_query(
    dut: Any, config: BuildConfig, query: np.ndarray, scale: float, *, slot: int, kv_head: int, kv_heads: int
) -> None:
    """One int8 query with its scale into the query memory."""
    for bus in (dut.query__slot, dut.query_scale__slot):
        bus.value = slot
    for bus in (dut.query__kv_head, dut.query_scale__kv_head):
        bus.value = kv_head
    for bus in (dut.query__kv_heads, dut.query_scale__kv_heads):
        bus.value = kv_heads
    vectors = len(query) // config.width
    dut.query__head_vectors.value = min(vectors, config.max_head_dim // config.width)
    dut.query_scale__scale.value = int(np.float32(scale).view(np.uint32))
    dut.query__valid.value = 1
    for vector in range(vectors):
        dut.query_scale__valid.value = int(vector == 0)
        dut.query__vector.value = vector
        dut.query__data.value = pack_bytes(query[vector * config.width : (vector + 1) * config.width])
        await RisingEdge(dut.clk)
    dut.query__valid.value = 0
    dut.query_scale__valid.value = 0


class Source:
    """Drives a stream with ``items``, stalling with probability ``stall``."""

    def __init__(self, dut: Any, name: str, stall: float, seed: int) -> None:
        self.clock = dut.clk
        self.valid, self.ready, self.payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
        self.items: list[int] = []
        self.taken, self.cleared = 0, False
        self.stall, self.random = stall, random.Random(seed)
        self.valid.value = 0
        self.payload.value = 0
        cocotb.start_soon(self._run())

    def clear(self) -> None:
        self.items.clear()
        self.valid.value, self.cleared = 0, True

    async def _run(self) -> None:
        offered, was, shown, ready, edge = False, None, None, reader(self.ready), RisingEdge(self.clock)
        while True:
            if not offered:
                offered = bool(self.items) and self.random.random() >= self.stall
            offered = offered and bool(self.items)
            if offered is not was:
                self.valid.value = int(offered)
                was = offered
            if offered and self.items[0] != shown:
                self.payload.value = shown = self.items[0]
            await edge
            if self.cleared:
                self.cleared, was = False, None
            if offered and ready() and self.items:
                self.items.pop(0)
                self.taken += 1
                offered = False


class Sink:
    """Takes a stream into ``items``, stalling with probability ``stall``; checks that a waiting payload does not change."""

    def __init__(self, dut: Any, name: str, stall: float, seed: int) -> None:
        self.clock, self.reset = dut.clk, dut.rst
        self.valid, self.ready, self.payload = (getattr(dut, f"{name}__{part}") for part in ("valid", "ready", "payload"))
        self.items: list[int] = []
        self.stall, self.random = stall, random.Random(seed)
        self.ready.value = 0
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        waiting: int | None = None
        offered, contents, resets, edge = reader(self.valid), reader(self.payload), reader(self.reset), RisingEdge(self.clock)
        was: bool | None = None
        while True:
            ready = self.random.random() >= self.stall
            if ready is not was:
                self.ready.value = int(ready)
                was = ready
            await edge
            valid, in_reset = offered() == 1, resets() == 1
            payload = contents() if valid else None
            assert in_reset or waiting is None or payload == waiting, "a payload changed before it was taken"
            if valid and ready and not in_reset:
                assert payload is not None
                self.items.append(payload)
            waiting = payload if valid and not ready and not in_reset else None
