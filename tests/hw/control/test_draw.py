"""DrawUnit beside a list of candidates, against the integers of `hwgen.draw`."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from hwgen.config import BuildConfig
from hwgen.draw import (
    EXPONENT_ONE,
    MULTIPLIER,
    ROUNDS,
    SCALE_BITS,
    WEYL,
    Draw,
    draw_scale,
    draw_weight,
    fixed_logit,
)
from hwgen.hw.control.draw import DrawUnit
from hwgen.registers import draw_words
from tests.cocotb_runner import cocotb_parameters, run_cocotb, start_clock

POSITIONS = 20
#: Bits behind the point of a difference of logits times a scale.
POWER_ONE = 36
#: So many keys are tried for one that draws at the edge of a weight.
KEYS = 1 << 15
#: Some hundred of what logits are counted in.
NEAR = 3e-4

Words = npt.NDArray[np.uint64]


class Listed(wiring.Component):
    """The unit and a list that it reads."""

    def __init__(self, config: BuildConfig) -> None:
        self.unit = DrawUnit(config)
        super().__init__({
            "ask": In(1), "how": In(32), "key": In(32), "position": In(POSITIONS), "done": Out(1), "candidate": Out(32),
            "put": In(1), "place": In(8), "word": In(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        m.submodules.words = words = memory.Memory(shape=32, depth=256, init=[])
        put, get = words.write_port(), words.read_port()
        m.d.comb += [
            put.en.eq(self.put), put.addr.eq(self.place), put.data.eq(self.word), get.addr.eq(Cat(unit.of_logit, unit.entry)),
            *(getattr(unit, name).eq(getattr(self, name)) for name in ("ask", "how", "key", "position")),
            unit.candidate.eq(get.data), self.candidate.eq(get.data), self.done.eq(unit.done),
        ]
        return m


class Bench:
    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.logits: list[int] = []

    async def load(self, logits: list[int]) -> None:
        """Logits, and tokens whose numbers are 100 more than their places."""
        self.dut.put.value = 1
        for place, word in enumerate(word for number, bits in enumerate(logits) for word in (100 + number, bits)):
            self.dut.place.value, self.dut.word.value = place, word
            await FallingEdge(self.dut.clk)
        self.dut.put.value = 0
        self.logits = logits

    async def ask(self, draw: Draw, position: int) -> int:
        """The number of the candidate: it is the right one, takes as many cycles as it should, and is asked for no more."""
        dut = self.dut
        dut.how.value, dut.key.value = draw_words(draw)
        dut.ask.value, dut.position.value = 1, 0
        number = draw.choose(self.logits, position)
        cycles = cycles_of(draw, self.logits, number)
        for cycle in range(1, cycles + 1):
            await FallingEdge(dut.clk)
            assert dut.done.value == (cycle == cycles), (cycle, cycles, draw)
            if cycle == 2:
                dut.position.value = position
        assert dut.candidate.value == 100 + number, (draw, position, [hex(bits) for bits in self.logits])
        dut.ask.value = 0
        await FallingEdge(dut.clk)
        return number


def cycles_of(draw: Draw, logits: list[int], number: int) -> int:
    """From ``ask`` on until candidate ``number`` is the token, as the states of the unit say."""
    if draw.count < 2:
        return 1
    fixed = [fixed_logit(bits) for bits in logits[: draw.count]]
    aligned = sum(max(0, EXPONENT_ONE - (bits >> 23 & 0xFF)) for bits in logits[: draw.count])
    halved = sum((fixed[0] - logit) * draw.scale >> POWER_ONE & 31 for logit in fixed)
    fetch, load, align, differ, power, table, halve = 1, 1, 1, 1, 5, 4, 1
    each = fetch + load + align + differ + power + table + halve
    start, top, random_, part, name = 1, 1, 7 * ROUNDS, 5, 1
    return start + top + each * draw.count + aligned + halved + random_ + part + 2 * number + 1 + name


def on_edges(generator: random.Random, draw: Draw, logits: list[int], position: int) -> list[Draw]:
    """Draws with other keys, as many as there are among some, and four at most: the part of the sum that is drawn is the first or
    the last one of a candidate's weight.
    """
    fixed = [fixed_logit(bits) for bits in logits[: draw.count]]
    weights = [draw_weight(fixed[0] - logit, draw.scale) for logit in fixed]
    edges = {sum(weights[:number]) - less for number in range(1, draw.count) for less in (0, 1)}
    keys = np.array([generator.getrandbits(32) for _ in range(KEYS)], np.uint64)
    parts = random_words(position, keys) * np.uint64(sum(weights)) >> np.uint64(32)
    hits = keys[np.isin(parts, np.array(sorted(edges), np.uint64))]
    return [replace(draw, key=int(key)) for key in hits[:4]]


def random_words(position: int, keys: Words) -> Words:
    """Philox of many keys at the same time. That it is wrong would make draws less telling, not other ones right."""
    word, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    first, second = np.full_like(keys, position), np.zeros_like(keys)
    for _ in range(ROUNDS):
        product = first * np.uint64(MULTIPLIER)
        first, second, keys = product >> half ^ keys ^ second, product & word, keys + np.uint64(WEYL) & word
    return first


def float_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def some_logits(generator: random.Random, count: int, width: float) -> list[int]:
    """Bits of falling logits: near ones, equal ones, tiny ones, and what is not finite."""
    middle = generator.choice([0.0, 5.0, -20.0, 2040.0])
    logits = [float_bits(middle + generator.gauss(0, width)) for _ in range(count)]
    for place in range(count):
        if generator.random() < 0.1:
            logits[place] = generator.choice([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF,
                                              logits[0]])
    return sorted(logits, key=lambda bits: bits ^ (0xFFFFFFFF if bits >> 31 else 1 << 31), reverse=True)


@cocotb.test()
async def draws(dut: Any) -> None:
    config = BuildConfig.from_dict(cocotb_parameters()["config"])
    generator, bench = random.Random(4), Bench(dut)
    for name in ("ask", "how", "key", "position", "put", "place", "word"):
        getattr(dut, name).value = 0
    await start_clock(dut)
    await FallingEdge(dut.clk)
    chosen, edges = set(), 0
    for case in range(cocotb_parameters()["cases"]):
        near = case % 4 == 1
        await bench.load(some_logits(generator, config.topk, NEAR if near else generator.choice([0.0, 0.01, 1.0, 6.0, 300.0])))
        scale = draw_scale(generator.choice([0.0015, 0.1, 0.7, 1.0, 2.5, 100.0]))
        assert scale is not None
        if case % 4 == 0:
            scale = generator.choice([0, 1, (1 << SCALE_BITS) - 1])
        if near:
            scale = (1 << SCALE_BITS) - 1
        for count in (generator.randint(0, config.topk), config.topk):
            draw = Draw(count, scale, generator.getrandbits(32))
            position = generator.randrange(config.max_context)
            chosen.add(await bench.ask(draw, position))
            if count > 1:
                for edge in on_edges(generator, draw, bench.logits, position):
                    edges += 1
                    chosen.add(await bench.ask(edge, position))
        # Asked and not waited for: nothing of it is left.
        dut.ask.value = 1
        for _ in range(generator.randrange(400)):
            await FallingEdge(dut.clk)
        dut.ask.value = 0
        await FallingEdge(dut.clk)
    assert chosen == set(range(config.topk)) and edges > cocotb_parameters()["cases"]


@pytest.mark.parametrize("topk", [8, 4, 3])
def test_draws(topk: int, tmp_path: Path) -> None:
    config = BuildConfig(topk=topk)
    parameters = {"config": config.to_dict(), "cases": 60}
    run_cocotb(partial(Listed, config), test_module=__name__, build_dir=tmp_path, parameters=parameters)
