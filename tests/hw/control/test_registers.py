"""RegisterFile and Counters behind AXI4-Lite: every register of the map, access rights, doorbell, tables."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.config import BuildConfig, ConfigError
from hwgen.contract import CONTRACT_VERSION, contract_hash
from hwgen.hw.active import Pass
from hwgen.hw.axi.signature import Axi4Lite
from hwgen.hw.control.counters import Counters
from hwgen.hw.control.registers import RegisterFile, run_readers
from hwgen.hw.interfaces import ADDRESS_BITS, RunRead, TableRead
from hwgen.operators import OPERATORS, Unit
from hwgen.registers import (
    COUNTERS,
    LOOP_PASSES,
    MAGIC,
    RUN_BUDGET,
    RUN_PAGES,
    RUN_TOKENS,
    STOP_TOKENS,
    TRACE_WORDS,
    WINDOW_BYTES,
    Control,
    Register,
    Status,
    register,
    register_map,
)
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import Bench
from tools.mutant_config import CONFIG as MUTATED

CONFIGS = {
    "even": MUTATED,
    "odd": BuildConfig(ports=3, beat_bytes=16, groups=1, lanes=1, rows=2, kv_block=8, chunk=8, builders=7, max_context=200, topk=3,
                       trace_entries=5, kv_budget=3),
}
IGNORED = {"trace_count": 32, "finished": 1, "stopped": 1, "unasked": 2, "error": 1, "error_response": 2, "error_write": 1,
           "error_port": 8, "error_operator": 16, "current_operator": 32}
TRACE_PATTERN = 0x10003
CANDIDATE_PATTERN = 0x30007


class Registers(wiring.Component):
    """Register file with its counters."""

    def __init__(self, config: BuildConfig) -> None:
        self.config = config
        super().__init__({
            "bus": In(Axi4Lite()), "start": Out(1), "stop": Out(1), "busy": Out(1), "irq": Out(1), "program": Out(ADDRESS_BITS),
            "logits": Out(ADDRESS_BITS), "current": Out(Pass(config)), "write_logits": Out(1),
            "port_enable": Out(config.ports),
            "tokens": In(TableRead(config.chunk)), "want": In(TableRead(config.chunk)),
            "pages": In(TableRead(config.page_entries)).array(2), "runs": In(RunRead(config)).array(run_readers(config)),
            "events": In(len(COUNTERS)), "running": In(len(Unit)), "opcodes": In(8).array(len(Unit)),
            "port_busy": In(config.ports), "port_stall": In(config.ports),
            **{name: In(bits) for name, bits in IGNORED.items()},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = r = RegisterFile(self.config)
        m.submodules.counters = c = Counters(self.config)
        # A trace memory and lists of candidates that hold their own addresses.
        m.d.sync += [r.trace_word.eq(r.trace_index * TRACE_PATTERN), r.candidate_word.eq(r.candidate * CANDIDATE_PATTERN)]
        connect(m, flipped(self.bus), r.bus)
        connect(m, flipped(self.tokens), r.tokens)
        connect(m, flipped(self.want), r.want)
        for outer, inner in zip((*self.pages, *self.runs), (*r.pages, *r.runs), strict=True):
            connect(m, flipped(outer), inner)
        m.d.comb += [
            *(getattr(self, name).eq(getattr(r, name))
              for name in ("start", "stop", "busy", "irq", "program", "logits", "write_logits", "port_enable")),
            *(getattr(self.current, name).eq(getattr(r.current, name)) for name in Pass(self.config).members),
            *(getattr(r, name).eq(getattr(self, name)) for name in IGNORED),
            *(getattr(c, name).eq(getattr(self, name)) for name in ("events", "running", "port_busy", "port_stall")),
            *(inner.eq(outer) for inner, outer in zip(c.opcodes, self.opcodes, strict=True)),
            c.clear.eq(r.start),
            Cat(r.counters).eq(Cat(c.values)),
        ]
        return m


class Host:
    """AXI4-Lite master with random delays on every channel; now and then it waits for an answer before it is ready for one."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.dut = bench, bench.dut
        for channel, names in (("aw", ("addr", "valid")), ("w", ("data", "strb", "valid")), ("b", ("ready",)),
                               ("ar", ("addr", "valid")), ("r", ("ready",))):
            for name in names:
                self.signal(channel, name).value = 0
        self.todo: dict[str, int] = {}
        self.read_data: int | None = None
        self.answered = False
        self.waits = False
        bench.agents.append(self)

    def signal(self, channel: str, name: str) -> Any:
        return getattr(self.dut, f"bus__{channel}__{name}")

    def drive(self) -> None:
        for channel in ("aw", "w", "ar"):
            if self.todo.get(channel) == 0 or (channel in self.todo and self.bench.random.random() < 0.4):
                self.todo[channel] = 0
                self.signal(channel, "valid").value = 1
            else:
                self.signal(channel, "valid").value = 0
        for channel in ("b", "r"):
            asked = not self.waits or self.signal(channel, "valid").value
            self.signal(channel, "ready").value = int(asked and self.bench.random.random() < 0.5)

    def sample(self) -> None:
        for channel in ("aw", "w", "ar"):
            if self.signal(channel, "valid").value and self.signal(channel, "ready").value:
                del self.todo[channel]
        if self.signal("b", "valid").value and self.signal("b", "ready").value:
            assert int(self.signal("b", "resp").value) == 0
            self.answered = True
        if self.signal("r", "valid").value and self.signal("r", "ready").value:
            assert int(self.signal("r", "resp").value) == 0
            self.read_data = int(self.signal("r", "data").value)

    async def write(self, offset: int, value: int, strobe: int = 15) -> None:
        self.signal("aw", "addr").value = offset
        self.signal("w", "data").value = value
        self.signal("w", "strb").value = strobe
        self.todo, self.answered, self.waits = {"aw": 1, "w": 1}, False, self.bench.random.random() < 0.5
        await self.bench.until(lambda: self.answered)
        await self.bench.step(2)

    async def read(self, offset: int) -> int:
        self.signal("ar", "addr").value = offset
        self.todo, self.read_data, self.waits = {"ar": 1}, None, self.bench.random.random() < 0.5
        await self.bench.until(lambda: self.read_data is not None)
        assert self.read_data is not None
        return self.read_data


async def set_up(dut: Any, seed: int) -> tuple[BuildConfig, Bench, Host, Any]:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, seed)
    for name in (*IGNORED, "events", "running", "port_busy", "port_stall", *(f"opcodes__{u.value}" for u in Unit)):
        getattr(dut, name).value = 0
    host = Host(bench)
    await bench.start()
    return config, bench, host, lambda name: register(config, name).offset


@cocotb.test()
async def holds_values(dut: Any) -> None:
    config, bench, host, at = await set_up(dut, 1)
    assert await host.read(at("MAGIC")) == MAGIC
    assert await host.read(at("VERSION")) == CONTRACT_VERSION
    assert await host.read(at("HASH_LOW")) | await host.read(at("HASH_HIGH")) << 32 == contract_hash(config)
    writable = [row for row in register_map(config) if row.access == "rw"]
    assert len(writable) == 11
    every_port = (1 << config.ports) - 1
    assert await host.read(at("PORT_ENABLE")) == int(dut.port_enable.value) == every_port
    values = {row.name: bench.random.getrandbits(32) & ~1 for row in writable}
    for row in writable:
        await host.write(row.offset, values[row.name])
    values["PORT_ENABLE"] &= every_port
    values["LOOP"] = LOOP_PASSES.extract(values["LOOP"])
    for row in writable:
        assert await host.read(row.offset) == values[row.name], row.name
    assert int(dut.port_enable.value) == values["PORT_ENABLE"]
    await host.write(at("WANTED"), 0xFFFFFFFF, strobe=0b0010)
    assert await host.read(at("WANTED")) == values["WANTED"] | 0xFF00
    assert int(dut.program.value) == (values["PROGRAM_LOW"] | values["PROGRAM_HIGH"] << 32) % 2**40
    assert int(dut.logits.value) == (values["LOGITS_LOW"] | values["LOGITS_HIGH"] << 32) % 2**40
    # Nothing happens at read-only and unmapped addresses.
    for offset in (at("MAGIC"), at("CURRENT"), 0x01C, 0x3FC, WINDOW_BYTES - 4):
        before = await host.read(offset)
        await host.write(offset, ~before & 0xFFFFFFFF)
        assert await host.read(offset) == before
    assert await host.read(WINDOW_BYTES - 4) == 0


@cocotb.test()
async def shows_the_pass(dut: Any) -> None:
    config, _, host, at = await set_up(dut, 2)
    for name, number in (("COUNT", dut.current__tokens), ("RUNS", dut.current__runs), ("WANTED", dut.current__wanted)):
        for count, seen in ((1, 1), (config.chunk, config.chunk), (config.chunk + 1, config.chunk), (1 << 31, config.chunk)):
            await host.write(at(name), count)
            assert int(number.value) == seen
    for value in range(4 if config.kv_budget else 2):
        await host.write(at("PASS"), value)
        assert int(dut.write_logits.value) == value & 1
        assert not config.kv_budget or int(dut.current__chooses.value) == value >> 1


class Doorbells:
    def __init__(self, bench: Bench) -> None:
        self.dut, self.rung, self.stops = bench.dut, 0, 0
        bench.agents.append(self)

    def drive(self) -> None: ...

    def sample(self) -> None:
        self.rung += int(self.dut.start.value)
        self.stops += int(self.dut.stop.value)


@cocotb.test()
async def doorbell_and_interrupt(dut: Any) -> None:
    _, bench, host, at = await set_up(dut, 3)
    bells = Doorbells(bench)

    async def finish() -> None:
        dut.finished.value = 1
        await bench.step()
        dut.finished.value = 0
        await bench.step(2)

    assert await host.read(at("STATUS")) == 0
    await host.write(at("CONTROL"), 1, strobe=0b1110)
    assert bells.rung == 0
    await host.write(at("CONTROL"), 1)
    assert bells.rung == 1 and await host.read(at("STATUS")) == Status.BUSY
    await host.write(at("CONTROL"), 1)
    assert bells.rung == 1, "a second doorbell while busy must be ignored"
    await finish()
    assert await host.read(at("STATUS")) == Status.DONE and not dut.irq.value
    await host.write(at("INTERRUPT"), 1)
    assert dut.irq.value
    await host.write(at("CONTROL"), 2)
    assert not dut.irq.value and await host.read(at("STATUS")) == 0
    await host.write(at("CONTROL"), 1)
    await finish()
    assert dut.irq.value
    await host.write(at("CONTROL"), 3)
    assert bells.rung == 3 and not dut.irq.value and await host.read(at("STATUS")) == Status.BUSY
    dut.error.value, dut.error_response.value, dut.error_write.value, dut.error_port.value = 1, 2, 1, 5
    dut.error_operator.value = 0x1234
    assert await host.read(at("STATUS")) == Status.BUSY | Status.ERROR
    assert await host.read(at("ERROR")) == 2 | 1 << 2 | 5 << 8 | 0x1234 << 16
    dut.error.value = 0
    assert await host.read(at("ERROR")) == 0
    dut.current_operator.value = 0xABCD1234
    assert await host.read(at("CURRENT")) == 0xABCD1234


@cocotb.test()
async def stop_and_leftovers(dut: Any) -> None:
    _, bench, host, at = await set_up(dut, 7)
    bells = Doorbells(bench)

    async def pulse(name: str) -> None:
        getattr(dut, name).value = 1
        await bench.step()
        getattr(dut, name).value = 0
        await bench.step(2)

    await host.write(at("INTERRUPT"), 1)
    await host.write(at("CONTROL"), Control.STOP)
    assert bells.stops == 0, "no pass runs"
    await host.write(at("CONTROL"), Control.START | Control.STOP)
    assert (bells.rung, bells.stops) == (1, 0)
    await host.write(at("CONTROL"), Control.START | Control.STOP)
    assert (bells.rung, bells.stops) == (1, 1)
    assert await host.read(at("STATUS")) == Status.BUSY and not dut.irq.value
    await pulse("stopped")
    assert await host.read(at("STATUS")) == Status.DONE | Status.STOPPED and dut.irq.value
    await host.write(at("CONTROL"), Control.ACKNOWLEDGE)
    assert await host.read(at("STATUS")) == Status.STOPPED and not dut.irq.value
    await host.write(at("CONTROL"), Control.START)
    assert await host.read(at("STATUS")) == Status.BUSY
    await pulse("finished")
    assert await host.read(at("STATUS")) == Status.DONE

    total = 0
    for _ in range(50):
        count = bench.random.choice([0, 1, 1, 2])
        total += count
        dut.unasked.value = count
        await bench.step()
    dut.unasked.value = 0
    assert await host.read(at("UNASKED")) == total
    await host.write(at("CONTROL"), Control.START)
    await host.write(at("UNASKED"), 0)
    assert await host.read(at("UNASKED")) == total, "since reset, not since the doorbell"


@cocotb.test()
async def a_stop_token_in_any_register_ends_a_loop(dut: Any) -> None:
    _, bench, host, at = await set_up(dut, 8)

    async def end_of_pass() -> None:
        dut.finished.value = 1
        await bench.step()
        dut.finished.value = 0
        await bench.step(40)

    for name, value in (("COUNT", 1), ("RUNS", 1), ("LOOP", 2)):
        await host.write(at(name), value)
    for place in (None, *range(STOP_TOKENS)):
        for number in range(STOP_TOKENS):
            # The first candidate is token 0.
            await host.write(at("STOP_TOKEN") + 4 * number, 0 if number == place else 0xFFFFFF)
        await host.write(at("CONTROL"), Control.ACKNOWLEDGE | Control.START)
        await end_of_pass()
        assert await host.read(at("STATUS")) == (Status.BUSY if place is None else Status.DONE), place
        if place is None:
            await end_of_pass()
            assert await host.read(at("STATUS")) == Status.DONE


@cocotb.test()
async def tables(dut: Any) -> None:
    config, bench, host, at = await set_up(dut, 4)
    tables = (("TOKEN", ["tokens"], config.chunk), ("WANT", ["want"], config.chunk),
              ("PAGE", ["pages__0", "pages__1"], config.page_entries))
    for name, readers, depth in tables:
        values = [bench.random.getrandbits(24) for _ in range(depth)]
        for index, value in enumerate(values):
            await host.write(at(name) + 4 * index, value)
        # Beyond the end nothing is written.
        await host.write(at(name) + 4 * depth, 0)
        await host.write(at(name) - 4, 0)
        for reader in readers:
            for index, value in enumerate(values):
                getattr(dut, f"{reader}__index").value = index
                await bench.step()
                assert int(getattr(dut, f"{reader}__number").value) == value


@cocotb.test()
async def runs(dut: Any) -> None:
    config, bench, host, at = await set_up(dut, 7)
    values = [
        {"position": bench.random.randrange(config.max_context), "tokens": bench.random.randint(1, config.chunk),
         "pages": bench.random.randrange(config.page_entries),
         **({"budget": bench.random.randrange(config.kv_budget + 1)} if config.kv_budget else {})}
        for _ in range(config.chunk)
    ]
    for number, run in enumerate(values):
        await host.write(at("RUN") + 8 * number, run["position"])
        await host.write(at("RUN") + 8 * number + 4, (
            RUN_TOKENS.put(run["tokens"]) | RUN_PAGES.put(run["pages"]) | RUN_BUDGET.put(run.get("budget", 0))
        ))
    await host.write(at("RUN") + 8 * config.chunk, 0)
    await host.write(at("RUN") - 4, 0)
    for reader in range(run_readers(config)):
        for number, run in enumerate(values):
            getattr(dut, f"runs__{reader}__index").value = number
            await bench.step()
            assert {name: int(getattr(dut, f"runs__{reader}__{name}").value) for name in run} == run


@cocotb.test()
async def candidates(dut: Any) -> None:
    config, bench, host, at = await set_up(dut, 8)
    count = 2 * config.topk * config.chunk
    for word in [0, 1, 2, count - 1, *(bench.random.randrange(count) for _ in range(20))]:
        assert await host.read(at("TOPK") + 4 * word) == word * CANDIDATE_PATTERN & 0xFFFFFFFF
    assert await host.read(at("TOPK") + 4 * count) == 0
    assert await host.read(at("TOPK") - 4) == 0


@cocotb.test()
async def trace(dut: Any) -> None:
    config, bench, host, at = await set_up(dut, 6)
    dut.trace_count.value = config.trace_entries - 1
    assert await host.read(at("TRACE_COUNT")) == config.trace_entries - 1
    count = TRACE_WORDS * config.trace_entries
    assert register(config, "TRACE").count == count
    for index in [0, 1, 2, 3, 4, count - 1, *(bench.random.randrange(count) for _ in range(20))]:
        assert await host.read(at("TRACE") + 4 * index) == index * TRACE_PATTERN
        await host.write(at("TRACE") + 4 * index, 0)
    assert await host.read(at("TRACE") + 4 * count) == 0
    assert await host.read(at("TRACE") - 4) == 0


@cocotb.test()
async def counters(dut: Any) -> None:
    config, bench, host, at = await set_up(dut, 5)
    rows = [row for row in register_map(config) if row.name.startswith("COUNT_")]
    expected: dict[int, int] = {}

    def offset(row: Register, index: int) -> int:
        return row.offset + index * row.step

    events, busy, stall = len(COUNTERS), config.ports, config.ports
    for _ in range(50):
        now = [bench.random.getrandbits(events), bench.random.getrandbits(busy), bench.random.getrandbits(stall)]
        running = bench.random.getrandbits(len(Unit))
        opcodes = {unit: bench.random.choice([o for o, row in OPERATORS.items() if row.unit is unit]) for unit in Unit}
        dut.events.value, dut.port_busy.value, dut.port_stall.value = now
        dut.running.value = running
        for unit, opcode in opcodes.items():
            getattr(dut, f"opcodes__{unit.value}").value = opcode
        hits = [offset(rows[i], 0) for i in range(events) if now[0] >> i & 1]
        by_name = {row.name: row for row in rows}
        hits += [offset(by_name["COUNT_OPCODE"], opcode) for unit, opcode in opcodes.items() if running >> unit & 1]
        hits += [offset(by_name["COUNT_PORT_BUSY"], p) for p in range(busy) if now[1] >> p & 1]
        hits += [offset(by_name["COUNT_PORT_STALL"], p) for p in range(stall) if now[2] >> p & 1]
        for hit in hits:
            expected[hit] = expected.get(hit, 0) + 1
        await bench.step()
    for name in ("events", "running", "port_busy", "port_stall"):
        getattr(dut, name).value = 0
    for row in rows:
        for index in range(row.count):
            assert await host.read(offset(row, index)) == expected.get(offset(row, index), 0), (row.name, index)
    await host.write(at("CONTROL"), 1)
    assert await host.read(rows[0].offset) == 0


def test_windows_may_not_meet() -> None:
    many = {"topk": 1024, "shortlist": 256}
    for fields, name in (({"page_entries": 1 << 14}, "PAGE"), ({"trace_entries": 1 << 14}, "TRACE"), (many, "TOPK")):
        with pytest.raises(ConfigError, match=f"{name} must have at most"):
            register_map(BuildConfig(**fields))


@pytest.mark.parametrize("name", CONFIGS)
def test_registers(name: str, tmp_path: Path) -> None:
    run_cocotb(partial(Registers, CONFIGS[name]), test_module=__name__, build_dir=tmp_path,
               parameters={"config": asdict(CONFIGS[name])})
