"""Program in memory -> descriptors for two readers -> segments, against the rules written out in Python."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.block_choice import attended_blocks, first_position, summary_pages
from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Fetch, Flag, Opcode, pack_program
from hwgen.hw.active import Pass
from hwgen.hw.axi.signature import Axi4Read
from hwgen.hw.choice import choice_entries
from hwgen.hw.interfaces import ADDRESS_BITS, DescriptorLayout, RunRead, Segment, TableRead, index_bits
from hwgen.hw.memory.port import ErrorReport
from hwgen.hw.memory.prefetch import Prefetcher
from hwgen.hw.memory.program import ProgramReader
from hwgen.operators import active_tokens, skipped
from hwgen.rounding import ceil_div
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, Sink
from tools.mutant_config import CONFIG as MUTATED

CONFIGS = {
    "default": BuildConfig(descriptor_queue=5),
    "narrow": BuildConfig(ports=1, beat_bytes=16, groups=1, lanes=1, rows=2, kv_block=8, chunk=4, builders=7, descriptor_queue=2),
    "many_rounds": MUTATED,
    "words": BuildConfig(
        ports=4, beat_bytes=16, port_bits=32, groups=4, lanes=1, rows=1, kv_block=8, builders=27, descriptor_queue=8
    ),
    # A run may choose its blocks.
    "budget": BuildConfig(
        ports=1, beat_bytes=16, groups=1, lanes=1, rows=2, kv_block=8, chunk=4, builders=7, kv_budget=5, max_context=512,
        max_kv_heads=3,
    ),
}


class FetchPath(wiring.Component):
    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1),
            "address": In(ADDRESS_BITS),
            "axi": Out(Axi4Read(config.port_bits)),
            "descriptors": Out(stream.Signature(DescriptorLayout())),
            "current": In(Pass(config)),
            "tokens": Out(TableRead(config.chunk)),
            "pages": Out(TableRead(config.page_entries)),
            "runs": Out(RunRead(config)),
            **({"choice": Out(TableRead(choice_entries(config))), "choice_done": In(1)} if config.kv_budget else {}),
            "shortlist": Out(TableRead(config.shortlist)),
            "shortlist_number": Out(index_bits(config.chunk)),
            "shortlist_read": Out(1),
            "shortlist_complete": In(1),
            "segments": Out(Segment()),
            "error": Out(ErrorReport()),
            "idle": Out(2),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.program = program = ProgramReader(self.config)
        m.submodules.prefetcher = prefetcher = Prefetcher(self.config)
        m.d.comb += [
            program.start.eq(self.start), program.address.eq(self.address), self.idle.eq(program.idle | prefetcher.idle << 1),
            prefetcher.shortlist_complete.eq(self.shortlist_complete),
            self.shortlist_number.eq(prefetcher.shortlist_number),
            self.shortlist_read.eq(prefetcher.shortlist_read),
        ]
        connect(m, program.axi, flipped(self.axi))
        connect(m, program.error, flipped(self.error))
        connect(m, program.descriptors[0], prefetcher.descriptors)
        connect(m, program.descriptors[1], flipped(self.descriptors))
        connect(m, flipped(self.current), prefetcher.current)
        for name in ("tokens", "pages", "runs", "shortlist", "segments"):
            connect(m, getattr(prefetcher, name), flipped(getattr(self, name)))
        if self.config.kv_budget:
            connect(m, prefetcher.choice, flipped(self.choice))
            m.d.comb += prefetcher.choice_done.eq(self.choice_done)
        return m


class Table:
    """Read port with one cycle of latency."""

    def __init__(self, bench: Bench, prefix: str, values: list[int]) -> None:
        self.index, self.number = getattr(bench.dut, f"{prefix}__index"), getattr(bench.dut, f"{prefix}__number")
        self.values, self.next = values, 0
        bench.agents.append(self)

    def drive(self) -> None:
        self.number.value = self.next

    def sample(self) -> None:
        index = int(self.index.value)
        self.next = self.values[index] if index < len(self.values) else 0


class ShortLists:
    """The short list of every wanted token, with one cycle of latency where it is read; else the port has something else."""

    def __init__(self, bench: Bench, lists: list[list[int]]) -> None:
        self.bench, self.dut, self.lists, self.next = bench, bench.dut, lists, 0
        bench.agents.append(self)

    def drive(self) -> None:
        self.dut.shortlist__number.value = self.next

    def sample(self) -> None:
        index, of = int(self.dut.shortlist__index.value), self.lists[int(self.dut.shortlist_number.value)]
        self.next = of[index] if self.dut.shortlist_read.value and index < len(of) else self.bench.random.getrandbits(17)


class Choices:
    """Chosen blocks by entry, which answer a cycle later; a choice is made now and then."""

    def __init__(self, bench: Bench, entries: list[int]) -> None:
        self.bench, self.dut, self.entries, self.next = bench, bench.dut, entries, 0
        bench.agents.append(self)

    def drive(self) -> None:
        self.dut.choice__number.value = self.next
        self.dut.choice_done.value = int(self.bench.random.random() < 0.1)

    def sample(self) -> None:
        index = int(self.dut.choice__index.value)
        self.next = self.entries[index] if index < len(self.entries) else 0


RunOf = tuple[int, int, int, int]


class RunsOf:
    """The table of runs, ``(position, tokens, first page, budget)`` each, with one cycle of latency."""

    def __init__(self, bench: Bench, runs: list[RunOf]) -> None:
        self.dut, self.runs, self.next = bench.dut, runs, (0, 0, 0, 0)
        bench.agents.append(self)

    def drive(self) -> None:
        for name, value in zip(("position", "tokens", "pages", "budget"), self.next, strict=True):
            if name != "budget" or hasattr(self.dut, "runs__budget"):
                getattr(self.dut, f"runs__{name}").value = value

    def sample(self) -> None:
        index = int(self.dut.runs__index.value)
        self.next = self.runs[index] if index < len(self.runs) else (1, 1, 1, 0)


class Completion:
    """The short list is complete now and then."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.agents.append(self)

    def drive(self) -> None:
        self.bench.dut.shortlist_complete.value = int(self.bench.random.random() < 0.2)

    def sample(self) -> None: ...


def blocks_of(config: BuildConfig, run: int, head: int, runs: list[RunOf], choice: list[int]) -> list[int]:
    """Cached blocks that a run attends to with a head."""
    position, _, _, budget = runs[run]
    if not budget:
        return [*range(ceil_div(position, config.kv_block))]
    first = ((run << index_bits(config.max_kv_heads)) + head) * config.kv_budget
    return attended_blocks(config, position, choice[first : first + budget])


def summary_entries(config: BuildConfig, run: RunOf) -> list[int]:
    """Entries of the page table that have the summaries which a run looks at."""
    position, _, first, budget = run
    return [first - 1 - j for j in range(summary_pages(config, position))] if budget else [first]


def expected_segments(config: BuildConfig, program: list[Descriptor], tokens: list[int], runs: list[RunOf], wanted: int,
                      pages: list[int], lists: list[list[int]], choice: list[int]) -> list[tuple[int, int]]:
    result, chooses = [], any(run[3] for run in runs)
    for d in program:
        if skipped(d, len(tokens), wanted, chooses):
            continue
        active = active_tokens(d, len(tokens), wanted)
        numbers: list[int]
        if d.fetch is Fetch.STREAM:
            numbers = [0]
        elif d.fetch is Fetch.TOKEN:
            numbers = [tokens[t] * d.stride for t in active]
        elif d.fetch is Fetch.POSITION:
            numbers = [(position + t) * d.stride for position, count, *_ in runs for t in range(count)]
        elif d.fetch is Fetch.CACHE:
            numbers = [
                pages[first + b] * d.stride + head * d.head_stride
                for r, (_, _, first, _) in enumerate(runs) for head in range(d.kv_heads)
                for b in blocks_of(config, r, head, runs, choice)
            ]
        elif d.fetch is Fetch.SUMMARY and config.kv_budget:
            numbers = [
                pages[entry] * d.stride + head * d.head_stride
                for run in runs for head in range(d.kv_heads) for entry in summary_entries(config, run)
            ]
        elif d.fetch is Fetch.SHORTLIST:
            numbers = [lists[d.token_start][entry] * d.head_stride for entry in range(d.row_blocks)]
        else:
            numbers = []
        result += [((d.stream_address + n) % 2**40, d.stream_beats) for n in numbers if d.stream_beats]
    return result


def random_descriptor(config: BuildConfig, generator: random.Random) -> Descriptor:
    g = generator
    flags = Flag(0)
    for flag in (Flag.LOGITS, Flag.MULTI, Flag.REPLAY, *((Flag.CHOOSE,) if config.kv_budget else ())):
        if g.random() < 0.2:
            flags |= flag
    fetch = g.choice(list(Fetch))
    row_blocks = g.randint(1, config.shortlist) if fetch is Fetch.SHORTLIST else g.randrange(2**32)
    return Descriptor(
        opcode=g.choice([o for o in Opcode if o is not Opcode.END]), flags=flags, fetch=fetch,
        token_start=g.choice([0, 0, g.randrange(config.chunk)]), token_count=g.randint(1, config.chunk),
        kv_heads=g.randint(1, 3 if config.kv_budget else 4), stream_address=g.randrange(2**36),
        stream_beats=g.choice([0, 1, 64, 2**29]) * config.groups,
        stride=g.choice([64, 2**32 - 64, g.randrange(2**24)]), head_stride=g.randrange(2**32),
        src=g.randrange(2**16), scalar0=1.5, row_blocks=row_blocks,
    )


def with_budget(config: BuildConfig, g: random.Random, run: RunOf) -> RunOf:
    """The run with a budget, where it has more blocks than that to choose from."""
    budget = g.randint(1, config.kv_budget)
    position = first_position(config, budget) + g.choice([0, 1, config.kv_block - 1, 8 * config.kv_block, 30 * config.kv_block + 3])
    first = g.randrange(config.summary_pages, config.page_entries - config.max_pages)
    return position, 1, first, budget


@cocotb.test()
async def walks(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    for rate, latency, seed in ((1.0, 0, 1), (0.4, 30, 2), (0.8, 5, 3)):
        bench = Bench(dut, seed)
        g = bench.random
        dut.start.value = 0
        memory = bytearray(1 << 14)
        AxiMemory(bench, "axi", memory, config.port_bytes, max_words=64, rate=rate, latency=latency, write=False)
        descriptors, segments = Sink(bench, "descriptors", rate=g.choice([0.05, 0.3])), Sink(bench, "segments", rate=rate)
        tokens_all = [g.randrange(2**18) for _ in range(config.chunk)]
        pages = [g.randrange(2**24) for _ in range(config.page_entries)]
        Table(bench, "tokens", tokens_all)
        Table(bench, "pages", pages)
        runs: list[RunOf] = []
        RunsOf(bench, runs)
        lists = [[g.randrange(2**17) for _ in range(config.shortlist)] for _ in range(config.chunk)]
        ShortLists(bench, lists)
        Completion(bench)
        choice = [g.randrange(1, 9) for _ in range(choice_entries(config))] if config.kv_budget else []
        if config.kv_budget:
            Choices(bench, choice)
        await bench.start()
        for length in (0, 1, 12, 30):
            program = [random_descriptor(config, g) for _ in range(length)]
            base = 64 * g.randrange(40)
            data = pack_program(program)
            memory[base : base + len(data)] = data
            runs[:] = [
                (g.choice([0, 1, config.kv_block, config.kv_block + 1, 3 * config.kv_block - 1]), tokens,
                 g.randrange(config.page_entries - 3), 0)
                for tokens in g.choice(([1] * config.chunk, [config.chunk], [1, config.chunk - 1], [1]))
            ]
            if config.kv_budget:
                runs[:] = [with_budget(config, g, run) if run[1] == 1 and g.random() < 0.7 else run for run in runs]
                dut.current__chooses.value = int(any(run[3] for run in runs))
            count = sum(run[1] for run in runs)
            wanted = g.choice([0, count, g.randint(0, count)])
            dut.current__tokens.value = count
            dut.current__runs.value = len(runs)
            dut.current__wanted.value = wanted
            dut.address.value = base
            dut.start.value = 1
            await bench.step()
            dut.start.value = 0
            await bench.until(lambda d=descriptors, n=length: len(d.items) == n + 1)
            await bench.until(lambda: int(dut.idle.value) == 3)
            await bench.step(50)
            tagged = [replace(d, tag=i) for i, d in enumerate(program)] + [Descriptor()]
            assert descriptors.items == [int.from_bytes(d.pack(), "little") for d in tagged]
            found = [(value & (1 << 40) - 1, value >> 40) for value in segments.items]
            assert found == expected_segments(config, program, tokens_all[:count], runs, wanted, pages, lists, choice)
            descriptors.items.clear()
            segments.items.clear()


@cocotb.test()
async def segments_come_fast(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 4)
    program = [Descriptor(opcode=Opcode.ATTENTION, fetch=Fetch.CACHE, token_count=1, kv_heads=4, stream_beats=64, stride=4096)]
    AxiMemory(bench, "axi", bytearray(pack_program(program)), config.port_bytes, max_words=64, write=False)
    descriptors, segments = Sink(bench, "descriptors"), Sink(bench, "segments")
    for name, size in (("tokens", config.chunk), ("pages", config.page_entries)):
        Table(bench, name, [0] * size)
    dut.start.value = 1
    dut.address.value = 0
    dut.current__tokens.value = 1
    dut.current__runs.value = 1
    blocks = min(8, config.max_pages)
    RunsOf(bench, [(blocks * config.kv_block, 1, 0, 0)])
    await bench.start()
    await bench.step()
    dut.start.value = 0
    await bench.until(lambda: len(segments.items) == 1)
    cycles = await bench.until(lambda: len(segments.items) == 4 * blocks)
    assert cycles <= 6 * (4 * blocks - 1)
    await bench.until(lambda: len(descriptors.items) == 2)


@cocotb.test()
async def short_list_is_awaited(dut: Any) -> None:
    """What the list holds counts only once the operator that reads it has started."""
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 6)
    program = [
        Descriptor(opcode=Opcode.HEAD, flags=Flag.LOGITS, fetch=Fetch.SHORTLIST, token_start=number, token_count=1,
                   row_blocks=config.shortlist, stream_beats=64, stride=7, head_stride=4096)
        for number in range(2)
    ]
    AxiMemory(bench, "axi", bytearray(pack_program(program)), config.port_bytes, max_words=64, write=False)
    Sink(bench, "descriptors")
    segments = Sink(bench, "segments")
    lists = [[0] * config.shortlist for _ in range(2)]
    ShortLists(bench, lists)
    for name, values in (("tokens", [0] * config.chunk), ("pages", [0] * config.page_entries)):
        Table(bench, name, values)
    dut.shortlist_complete.value = 0
    dut.start.value = 1
    dut.address.value = 0
    dut.current__tokens.value = dut.current__wanted.value = 2
    await bench.start()
    await bench.step()
    dut.start.value = 0
    await bench.step(60)
    assert not segments.items and int(dut.idle.value) != 3
    lists[:] = [[*range(first, first + config.shortlist)] for first in (10, 50)]
    dut.shortlist_complete.value = 1
    await bench.until(lambda: int(dut.idle.value) == 3)
    assert [value & (1 << 40) - 1 for value in segments.items] == [4096 * block for of in lists for block in of]


@cocotb.test()
async def a_choice_is_awaited(dut: Any) -> None:
    """Blocks that a run has chosen are fetched when the last choice before them has ended, and not one before that."""
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    if not config.kv_budget:
        return
    bench = Bench(dut, 8)
    common = {"opcode": Opcode.ATTENTION, "token_count": 1, "kv_heads": 1, "stream_beats": 64, "stride": 1}
    program = [
        d for layer in range(2) for d in (
            Descriptor(flags=Flag.CHOOSE, fetch=Fetch.SUMMARY, layer=layer, **common),
            Descriptor(fetch=Fetch.CACHE, layer=layer, **common),
        )
    ]
    AxiMemory(bench, "axi", bytearray(pack_program(program)), config.port_bytes, max_words=64, write=False)
    Sink(bench, "descriptors")
    segments = Sink(bench, "segments")
    Table(bench, "tokens", [0] * config.chunk)
    Table(bench, "pages", [10 * entry for entry in range(config.page_entries)])
    choices = Choices(bench, choice := [0] * choice_entries(config))
    choices.drive = lambda: setattr(dut.choice__number, "value", choices.next)  # type: ignore[method-assign]  # done by hand
    RunsOf(bench, [(9 * config.kv_block + 1, 1, 20, 2)])
    dut.choice_done.value = 0
    dut.current__chooses.value = dut.current__tokens.value = dut.current__runs.value = 1
    dut.address.value, dut.start.value = 0, 1
    await bench.start()
    await bench.step()
    dut.start.value = 0
    for layer, blocks in enumerate(([5, 2], [1, 7])):
        await bench.step(80)
        assert len(segments.items) == 4 + 9 * layer  # pages of two blocks each
        choice[:2], dut.choice_done.value = blocks, 1
        await bench.step()
        dut.choice_done.value = 0
        await bench.until(lambda n=9 * layer + 9: len(segments.items) >= n)
        found = [value & (1 << 40) - 1 for value in segments.items[9 * layer : 9 * layer + 9]]
        assert found == [10 * entry for entry in (19, 18, 17, 16, 20, *(20 + block for block in blocks), 28, 29)]
    await bench.until(lambda: int(dut.idle.value) == 3)
    assert len(segments.items) == 18


async def begin_program(dut: Any, bench: Bench) -> Sink:
    """Start the program at address 0, for one token; its descriptors as they come."""
    descriptors, _ = Sink(bench, "descriptors"), Sink(bench, "segments")
    dut.start.value = 1
    dut.address.value = 0
    dut.current__tokens.value = 1
    await bench.start()
    await bench.step()
    dut.start.value = 0
    return descriptors


@cocotb.test()
async def an_error_ends_the_program(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 5)
    program = [Descriptor(opcode=Opcode.PARAM, token_count=1)] * 3
    AxiMemory(bench, "axi", bytearray(pack_program(program)[:128]), config.port_bytes, max_words=64, write=False)
    descriptors = await begin_program(dut, bench)
    errors = 0
    for _ in range(200):
        await bench.step()
        errors += int(dut.error__valid.value)
    assert errors >= 1
    assert [value & 255 for value in descriptors.items] == [Opcode.PARAM, Opcode.PARAM, Opcode.END]
    assert int(dut.idle.value) == 3


@cocotb.test()
async def a_word_that_failed_is_not_believed(dut: Any) -> None:
    """Whatever it is: END stands in place of its descriptor, also where the check word is right."""
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 7)
    program = [Descriptor(opcode=Opcode.PARAM, token_count=1)] * 2
    memory = AxiMemory(bench, "axi", bytearray(pack_program(program)), config.port_bytes, max_words=64, write=False)
    memory.failing = {64 + config.port_bytes}
    descriptors = await begin_program(dut, bench)
    responses = []
    for _ in range(200):
        await bench.step()
        if dut.error__valid.value:
            responses.append(int(dut.error__resp.value))
    assert responses == [2]
    assert [value & 255 for value in descriptors.items] == [Opcode.PARAM, Opcode.END]
    assert int(dut.idle.value) == 3


@pytest.mark.parametrize("name", CONFIGS)
def test_prefetch(name: str, tmp_path: Path) -> None:
    parameters = {"config": asdict(CONFIGS[name])}
    run_cocotb(partial(FetchPath, CONFIGS[name]), test_module=__name__, build_dir=tmp_path, parameters=parameters)
