"""MemorySystem: what a reset leaves behind, and the start that waits for it."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Fetch, Opcode, pack_program
from hwgen.hw.memory.system import SETTLE_CYCLES, MemorySystem
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import AxiMemory, Bench, Sink, Source, pattern
from tests.hw.memory.test_stream import gather, segment_beats
from tools.mutant_config import CONFIG as MUTATED

CONFIGS = {
    "three_ports": BuildConfig(
        ports=3, port_bits=64, beat_bytes=16, groups=1, lanes=1, rows=2, kv_block=8, chunk=4, builders=7, ring_beats=64, burst=4,
        outstanding=2, max_context=64, descriptor_queue=3, bank_bytes=64,
    ),
    "two_ports": MUTATED,
}
PROGRAM = 0x8000
BEATS = 40
#: Beats that are given away at once, at most.
BLOCK = 16


class Machine:
    """A memory system with a program of one segment behind three ports that share a memory."""

    def __init__(self, dut: Any, seed: int) -> None:
        self.dut = dut
        self.config = config = BuildConfig.from_dict(cocotb_parameters()["config"])
        self.bench = bench = Bench(dut, seed)
        for name in ("start", "halt", "hold", "rewind", "shortlist_complete"):
            getattr(dut, name).value = 0
        dut.program.value, dut.port_enable.value = PROGRAM, 0
        dut.current__tokens.value, dut.current__runs.value, dut.current__wanted.value = 1, 1, 1
        self.memory = pattern(1 << 16)
        self.address = 0
        self.ask(0x100, BEATS)
        self.ports = [AxiMemory(bench, f"axi__{p}", self.memory, config.port_bytes, max_words=8, latency=20 * p + 5, write=p == 0)
                      for p in range(config.ports)]
        for port in range(config.ports):
            getattr(dut, f"axi__{port}__b__valid").value = 0
        self.segments, self.beats = Source(bench, "segments"), Source(bench, "beats")
        self.rows, self.descriptors = Sink(bench, "rows"), Sink(bench, "descriptors")
        self.unasked = 0
        self.taken = 0

    def ask(self, address: int, beats: int) -> None:
        """A program of so many beats."""
        self.address = address
        stream = Descriptor(opcode=Opcode.LINEAR, fetch=Fetch.STREAM, stream_address=address, stream_beats=beats, token_count=1)
        program = pack_program([stream, Descriptor(opcode=Opcode.END)])
        self.memory[PROGRAM : PROGRAM + len(program)] = program

    async def step(self, cycles: int = 1) -> None:
        for _ in range(cycles):
            await self.bench.step()
            self.unasked += int(self.dut.unasked.value)
            held = self.asked_beats() - (self.taken + len(self.rows.items)) * self.config.groups
            assert not self.dut.ring_full.value or held + BLOCK > self.config.ring_beats, "there is room in the ring"

    def asked_beats(self) -> int:
        """Of the segment, since the last start."""
        words = sum(request["len"] + 1 for port in self.ports for request in port.requests if request["addr"] < PROGRAM)
        return words * self.config.port_bytes // self.config.beat_bytes

    def rests(self) -> bool:
        """Nothing is asked for, and all answers have come."""
        return not self.asks() and not any(port.answer or any(port.queues.values()) for port in self.ports)

    async def start(self) -> None:
        for port in self.ports:
            port.requests.clear()
        self.dut.start.value = 1
        await self.step()
        self.dut.start.value = 0

    async def finish(self) -> None:
        config = self.config
        expected = gather(segment_beats(config, self.memory, self.address, BEATS), 8 * config.beat_bytes, config.groups)
        await self.step(3)
        for _ in range(600):
            await self.step()
            assert not self.dut.quiet.value or self.rests() and len(self.descriptors.items) == 2, "not quiet yet"
            if len(self.rows.items) == len(expected) and self.dut.quiet.value and self.dut.drained.value:
                break
        assert self.rows.items == expected and self.dut.quiet.value and self.dut.drained.value
        assert len(self.descriptors.items) == 2
        self.rows.items.clear()
        self.descriptors.items.clear()

    def asks(self) -> bool:
        return any(port.ar.valid.value for port in self.ports)


@cocotb.test()
async def the_first_program_waits_for_the_last_leftover(dut: Any) -> None:
    machine = Machine(dut, 1)
    await machine.bench.start()
    # Words of each ID, and write responses, come now and then, the last one 700 cycles behind the start.
    leftovers = {100: (0, 0), 300: (0, 1), 301: (machine.config.ports - 1, 0), 900: (1, 0)}
    await machine.step(200)
    count = len(leftovers) + 1
    for cycle, (number, identity) in leftovers.items():
        port = machine.ports[number]
        port.queues.setdefault(identity, deque()).append((0x40, 1, port.cycle + cycle))
    machine.ports[0].responses.append((machine.ports[0].cycle + 500, 0))
    await machine.start()
    waited = 0
    while not machine.asks():
        await machine.step()
        waited += 1
        assert waited < 900 + SETTLE_CYCLES + 20, "the program is not read"
    assert waited >= 900 + SETTLE_CYCLES - 5
    assert machine.unasked == count
    await machine.finish()
    # It is settled now: the next one starts at once.
    await machine.start()
    await machine.step(5)
    assert machine.asks() or machine.ports[0].requests
    await machine.finish()
    assert machine.unasked == count


@cocotb.test()
async def halts_and_drains(dut: Any) -> None:
    """Halted anywhere in a pass it drains; from a reset then it runs the program anew."""
    machine = Machine(dut, 2)
    bench = machine.bench
    await bench.start()
    await machine.step(SETTLE_CYCLES)
    for number in range(6):
        await machine.start()
        await machine.step(bench.random.randint(3, 120))
        dut.halt.value = 1
        await machine.step(3)
        await bench.until(lambda: bool(dut.drained.value), 400)
        await machine.step(2)
        assert dut.drained.value and not machine.asks()
        if number % 2:
            await bench.reset()  # as a flush is: drained, so that nothing is left over
            machine.rows.items.clear()
            machine.descriptors.items.clear()
            machine.rows.forget()
            machine.descriptors.forget()
            dut.halt.value = 0
            await machine.step(SETTLE_CYCLES + 2)
            assert machine.unasked == 0
            await machine.start()
        dut.halt.value = 0
        await machine.finish()


@cocotb.test()
async def takes_over_the_enabled_ports_at_the_start(dut: Any) -> None:
    machine = Machine(dut, 3)
    await machine.bench.start()
    await machine.step(SETTLE_CYCLES)
    last = machine.config.ports - 1
    for enable, used in ((1 << last, {last}), (0, set(range(last + 1))), ((1 << last) - 1, set(range(last)))):
        dut.port_enable.value = enable
        await machine.start()
        dut.port_enable.value = ~enable & ~(1 << last) & (1 << last + 1) - 1 or 1 << last  # not before the next one
        await machine.finish()
        assert {p for p, port in enumerate(machine.ports) if any(not r["id"] for r in port.requests)} == used


@cocotb.test()
async def segments_begin_anywhere_in_a_burst(dut: Any) -> None:
    machine = Machine(dut, 6)
    config = machine.config
    await machine.bench.start()
    await machine.step(SETTLE_CYCLES)
    for beat in range(1, 2 * config.burst_beats):
        machine.ask(0x100 + beat * config.beat_bytes, BEATS)
        await machine.start()
        await machine.finish()


@cocotb.test()
async def waits_for_room_in_the_ring(dut: Any) -> None:
    machine = Machine(dut, 4)
    await machine.bench.start()
    await machine.step(SETTLE_CYCLES)
    # More than the ring holds, of which nothing is taken for a while.
    machine.ask(0x100, 2 * BEATS)
    machine.rows.enable = False
    await machine.start()
    await machine.step(300)
    beats = machine.asked_beats()
    assert dut.ring_full.value and machine.config.ring_beats - BLOCK < beats <= machine.config.ring_beats
    machine.rows.enable = True
    await machine.bench.until(lambda: machine.rests() and len(machine.rows.items) * machine.config.groups == 2 * BEATS, 600)
    await machine.step(2)
    assert not dut.ring_full.value


@cocotb.test()
async def is_not_quiet_before_the_last_answer(dut: Any) -> None:
    """What is read beyond END is in flight for long behind it."""
    machine = Machine(dut, 5)
    machine.memory[PROGRAM : PROGRAM + 64] = pack_program([Descriptor(opcode=Opcode.END)])[:64]
    machine.ports[0].latency = 60
    await machine.bench.start()
    await machine.step(SETTLE_CYCLES)
    await machine.start()
    await machine.step(3)
    behind = 0
    while not dut.quiet.value:
        behind += len(machine.descriptors.items)
        await machine.step()
    assert machine.rests() and len(machine.descriptors.items) == 1 and behind > 3


@pytest.mark.parametrize("name", CONFIGS)
def test_system(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    run_cocotb(partial(MemorySystem, config), test_module=__name__, build_dir=tmp_path, parameters={"config": asdict(config)})
