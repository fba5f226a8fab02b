"""Products of 4-bit weights and e4m3 codes, in both forms: every code with every weight, at every place of a chain."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
import pytest
import torch
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import RisingEdge

from hwgen.config import BuildConfig
from hwgen.golden.int4 import e4m3_values
from hwgen.hw.interfaces import ActivationWrite
from hwgen.hw.linear.int4_dot import Int4Dot
from hwgen.hw.linear.int4_loader import Int4Loader, Int4Shape
from hwgen.hw.linear.int4_weights import Int4Decoder
from hwgen.hw.linear.panel import connect_inputs
from hwgen.int4 import pack_nibbles
from tests.cocotb_runner import cocotb_parameters, reader, run_cocotb, start_clock

#: Every finite code; 0x7e and 0xfe are the extremes.
CODES = np.array([c for c in range(256) if c & 0x7F != 0x7F], np.uint8)
BEATS = 16

Codes = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.int8]


class BothForms(wiring.Component):
    """One token's path from activation codes to sums: loader, decoder, and a dot product of either form.

    ``loaded`` and ``taken`` as in `Int4Loader`. ``beat`` two cycles after ``taken`` is the first that finds the slice. The sums
    come ``dot_cycle - 1`` cycles after ``beat``, row after row.
    """

    def __init__(self, config: BuildConfig, longest_chain: int) -> None:
        self.config, self.shape = config, Int4Shape(config, longest_chain)
        sums = Out(signed(self.shape.dot_bits)).array(config.rows)
        super().__init__({
            "write": In(ActivationWrite(config)),
            "start": In(1),
            "slices": In(16),
            "loaded": Out(1),
            "taken": In(1),
            "beat": In(8 * config.beat_bytes),
            "packed": sums,
            "plain": sums,
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, shape = self.config, self.shape
        m.submodules.loader = loader = Int4Loader(config, shape)
        m.submodules.decoder = decoder = Int4Decoder(config, shape)
        connect_inputs(m, loader.write, self.write)
        take = Signal(shape.chain + 2)
        m.d.sync += take.eq(Cat(self.taken, take))
        m.d.comb += [
            loader.start.eq(self.start), loader.count.eq(1), loader.slices.eq(self.slices), loader.taken.eq(self.taken),
            self.loaded.eq(loader.loaded), decoder.beat.eq(self.beat),
        ]
        for name in ("packed", "plain"):
            m.submodules[name] = dot = Int4Dot(config, shape, packed=name == "packed")
            connect_inputs(m, dot.load, loader.load)
            m.d.comb += [dot.here.eq(Cat(loader.value_token[0], loader.center_token[0])), dot.take.eq(take[1:])]
            for bus in ("skewed", "codes", "pairs"):
                m.d.comb += [a.eq(b) for a, b in zip(getattr(dot, bus), getattr(decoder, bus), strict=True)]
            m.d.comb += [a.eq(b) for a, b in zip(getattr(self, name), dot.dot, strict=True)]
        return m


def stimulus(config: BuildConfig) -> tuple[Codes, Weights]:
    """Codes ``[slices, inputs]`` and weights ``[slices, beats, rows, inputs]``."""
    rng = np.random.default_rng(11)
    size, rows = config.int4_slice_inputs, config.rows
    codes: list[Codes] = []
    weights: list[Weights] = []
    extremes, limits = np.array([0x7E, 0xFE], np.uint8), np.array([-8, 7], np.int8)
    place, beat, row = np.arange(size), np.arange(BEATS)[:, None, None], np.arange(rows)[:, None]
    every = ((beat + 5 * row + place) % 16 - 8).astype(np.int8)  # every weight at every place and row
    for k in range(len(CODES)):
        turning = CODES[(k + 31 * place) % len(CODES)]
        for parity in range(2):  # neighbours at their extremes
            test = place % 2 == parity
            codes.append(np.where(test, turning, rng.choice(extremes, size)))
            weights.append(np.where(test, every, rng.choice(limits, (BEATS, rows, size))))
        alone = np.where(place == k % size, CODES[k], 0)  # a product by itself
        codes.append(alone.astype(np.uint8))
        weights.append(every)
    for code in (0x7E, 0xFE, 0x01, 0x81, 0x0F, 0x8F, 0x00, 0x80):  # largest sums; all e set
        codes.append(np.full(size, code, np.uint8))
        rows_of = rng.choice(limits, (BEATS, rows, 1))
        weights.append(np.repeat(rows_of, size, axis=2))
    return np.array(codes), np.array(weights)


@cocotb.test()
async def products(dut: Any) -> None:
    parameters = cocotb_parameters()
    config = BuildConfig.from_dict(parameters["config"])
    shape = Int4Shape(config, parameters["longest_chain"])
    codes, weights = stimulus(config)
    values = e4m3_values(torch.from_numpy(codes)).numpy().astype(np.int64)
    expected = np.einsum("sbri,si->sbr", weights.astype(np.int64), values)
    beats = pack_nibbles(weights).reshape(*weights.shape[:2], -1)
    for name in ("start", "taken", "write__valid", "write__token", "write__half", "beat"):
        getattr(dut, name).value = 0
    dut.slices.value = len(codes)
    await start_clock(dut)
    for v, word in enumerate(codes.reshape(-1, config.width)):
        dut.write__valid.value, dut.write__addr.value = 1, v
        dut.write__data.value = int.from_bytes(word.tobytes(), "little")
        await RisingEdge(dut.clk)
    dut.write__valid.value = 0
    dut.start.value = 1
    await RisingEdge(dut.clk)
    dut.start.value = 0

    sent: dict[int, npt.NDArray[np.int64]] = {}  # by cycle, what its beat gives
    issued: tuple[int, int] | None = None  # in the cycle before
    taken = position = checked = 0
    loaded = False
    mask = (1 << shape.dot_bits) - 1
    sums = {form: [reader(getattr(dut, f"{form}__{r}")) for r in range(config.rows)] for form in ("packed", "plain")}
    slice_loaded, edge = reader(dut.loaded), RisingEdge(dut.clk)
    for cycle in range(200 * len(codes)):
        if issued is not None:
            dut.beat.value = int.from_bytes(beats[issued].tobytes(), "little")
            sent[cycle] = expected[issued]
        issued = divmod(position, BEATS) if position < taken * BEATS else None
        position += issued is not None
        take = loaded and position == taken * BEATS  # with the last beat of the slice before, or later
        dut.taken.value = int(take)
        taken += take
        await edge
        loaded = slice_loaded() == 1 and not take
        due = sent.pop(cycle - (shape.dot_cycle - 1), None)
        if due is not None:
            for form in ("packed", "plain"):
                got = [read() for read in sums[form]]
                assert got == [int(x) & mask for x in due], (form, divmod(checked, BEATS))
            checked += 1
        if checked == len(codes) * BEATS:
            return
    raise AssertionError("beats are missing")


#: 32, 32, 32, 16 and 8 inputs a slice; the last but one has words longer than its chains.
CASES: dict[str, tuple[dict[str, int], int]] = {
    "chains_of_16": ({"beat_bytes": 32, "rows": 2}, 16),
    "chains_of_8": ({"beat_bytes": 32, "rows": 2}, 8),
    "chains_of_4": ({"beat_bytes": 16, "rows": 1}, 4),
    "word_of_two_chains": ({"beat_bytes": 64, "rows": 8, "kv_block": 32}, 4),
    "one_chain_of_8": ({"beat_bytes": 16, "rows": 4}, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_products(tmp_path: Path, name: str) -> None:
    fields, longest_chain = CASES[name]
    config = BuildConfig.from_dict(
        {"name": name, "engine": "int4", "groups": 1, "lanes": 1, "max_inputs": 32768, "panel_rows": 256, **fields}
    )
    run_cocotb(
        partial(BothForms, config, longest_chain), test_module=__name__, build_dir=tmp_path,
        parameters={"config": config.to_dict(), "longest_chain": longest_chain},
    )


def test_stimulus_is_complete() -> None:
    """Every code meets every weight in every row, alone and beside extremes, and every place every code."""
    config = BuildConfig(engine="int4", beat_bytes=32, rows=2)
    codes, weights = stimulus(config)
    seen = {(c, w, r) for s, b, r, p in np.ndindex(weights.shape) for c, w in [(codes[s, p], weights[s, b, r, p])]}
    assert seen == {(c, w, r) for c in CODES for w in range(-8, 8) for r in range(2)}
    assert all(len(set(column)) == len(CODES) for column in codes.T)
