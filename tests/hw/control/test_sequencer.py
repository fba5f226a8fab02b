"""Sequencer: order, skipping, operator bus, replay and the end of a pass, with units that answer at random times."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cocotb
import pytest

from hwgen.config import BuildConfig
from hwgen.descriptors import Descriptor, Flag, Opcode, field_bits
from hwgen.hw.control.sequencer import UNIT_OF, Sequencer, Unit
from tests.cocotb_runner import cocotb_parameters, run_cocotb
from tests.hw.axi.bench import Bench, Source
from tests.hw.memory.test_prefetch import random_descriptor

CONFIGS = {
    "default": BuildConfig(),
    "one_lane": BuildConfig(groups=1, lanes=1, chunk=4),
}


class Units:
    """Answers starts after a random time and records what was on the bus."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.dut = bench, bench.dut
        self.executed: list[dict[str, int]] = []
        self.rewinds: list[bool] = []
        self.retired: list[int] = []
        self.left = -1
        self.unit = 0
        self.expect_rewind = False
        self.dut.dones.value = 0
        bench.agents.append(self)

    def bus(self) -> dict[str, int]:
        values = {name: int(getattr(self.dut, f"op__{name}").value) for name in ("first", "count", "tokens", "position", "gang")}
        for name in ("opcode", "tag", "src", "row_blocks", "scalar0", "stream_address"):
            first, width = field_bits()[name]
            values[name] = int(self.dut.op__descriptor.value) >> first & ((1 << width) - 1)
        return values | {"hold": int(self.dut.hold.value), "unit": self.unit}

    def drive(self) -> None:
        self.left -= 1
        # While a unit works, strobes of the others mean nothing.
        others = self.bench.random.getrandbits(len(Unit)) & ~(1 << self.unit) if self.left > 0 else 0
        self.dut.dones.value = 1 << self.unit if self.left == 0 else others

    def sample(self) -> None:
        starts = int(self.dut.starts.value)
        rewind = bool(self.dut.rewind.value)
        if starts:
            assert self.left < 0, "started while another runs"
            self.unit = starts.bit_length() - 1
            assert starts == 1 << self.unit
            self.executed.append(self.bus())
            self.left = self.bench.random.choice([1, 1, 2, 9])
        elif self.left > 0:
            assert self.bus() == self.executed[-1], "the bus moved"
            assert int(self.dut.running.value)
        if self.dut.retire.value:
            assert self.left < 0
            self.retired.append(self.bus()["tag"])
            self.rewinds.append(rewind)
            assert not self.dut.hold.value
        else:
            assert not rewind


@cocotb.test()
async def executes(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    bench = Bench(dut, 1)
    g = bench.random
    source, units = Source(bench, "descriptors", rate=0.7), Units(bench)
    dut.quiet.value = 0
    await bench.start()
    for tokens in [1, config.chunk, *(g.randint(1, config.chunk) for _ in range(5))]:
        program = [replace(random_descriptor(config, g), tag=i, scalar0=0.0) for i in range(40)]
        logits, position = g.random() < 0.5, g.randrange(config.max_context)
        dut.current__tokens.value = tokens
        dut.current__position.value = position
        dut.current__want_logits.value = int(logits)
        source.items.extend(int.from_bytes(d.pack(), "little") for d in [*program, Descriptor()])
        for log in (units.executed, units.retired, units.rewinds):
            log.clear()
        while source.items:
            await bench.step()
        for _ in range(60):
            await bench.step()
            assert not dut.finished.value
        dut.quiet.value = 1
        finished = 0
        for _ in range(6):
            await bench.step()
            finished += int(dut.finished.value)
        dut.quiet.value = 0
        assert finished == 1

        round_tokens = config.groups * config.lanes
        expected, rewinds = [], []
        for d in program:
            if d.token_start >= tokens or (d.flags & Flag.LOGITS and not logits):
                continue
            if d.flags & Flag.MULTI and tokens <= round_tokens:
                continue
            first, count = d.token_start, min(d.token_count, tokens - d.token_start)
            if d.flags & Flag.LAST:
                first, count = tokens - 1, 1
            hold = bool(d.flags & Flag.REPLAY) and d.token_start + round_tokens < tokens
            rewinds.append(hold)
            expected.append({
                "first": first, "count": count, "tokens": tokens, "position": position, "gang": int(count <= config.lanes),
                "opcode": d.opcode, "tag": d.tag, "src": d.src, "row_blocks": d.row_blocks, "scalar0": 0,
                "stream_address": d.stream_address, "hold": int(hold), "unit": UNIT_OF[d.opcode],
            })  # fmt: skip
        assert units.executed == expected
        assert units.retired == [e["tag"] for e in expected]
        assert units.rewinds == rewinds


@cocotb.test()
async def unknown_opcodes_pass(dut: Any) -> None:
    bench = Bench(dut, 2)
    source, units = Source(bench, "descriptors"), Units(bench)
    dut.quiet.value = 1
    dut.current__tokens.value = 1
    await bench.start()
    unknown = int.from_bytes(Descriptor(opcode=Opcode.END, token_count=1).pack(), "little") | 200
    source.items.extend([unknown, int.from_bytes(Descriptor(opcode=Opcode.PARAM, token_count=1).pack(), "little"), 0])
    for _ in range(60):
        await bench.step()
        if dut.finished.value:
            break
    assert [e["unit"] for e in units.executed] == [Unit.LOADER]


def test_every_opcode_has_a_unit() -> None:
    assert set(UNIT_OF) == set(Opcode) - {Opcode.END}


@pytest.mark.parametrize("name", CONFIGS)
def test_sequencer(name: str, tmp_path: Path) -> None:
    run_cocotb(Sequencer(CONFIGS[name]), test_module=__name__, build_dir=tmp_path,
               parameters={"config": asdict(CONFIGS[name])})  # fmt: skip
