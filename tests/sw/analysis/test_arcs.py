"""What starts, ends and passes a path at each kind of cell, by netlists of a few cells."""

from __future__ import annotations

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.analysis import delays as d
from hwgen.sw.analysis.arcs import compact_netlist
from hwgen.sw.analysis.paths import longest_paths

from .small_netlist import netlist_of, register

PRODUCT = d.DSP_PREADD + d.DSP_MULTIPLY
UNREGISTERED = d.DSP_INPUT + PRODUCT + d.DSP_M + d.DSP_ADD + d.DSP_OUTPUT


@pytest.mark.parametrize(
    ("kind", "parameter", "port", "out"),
    [
        ("RAMB36E2", "DOB_REG", "DOUTBDOUT", (d.BLOCK_RAM_OUT, d.BLOCK_RAM_OUT_REGISTERED)),
        ("RAMB18E2", "DOA_REG", "DOUTADOUT", (d.BLOCK_RAM_OUT, d.BLOCK_RAM_OUT_REGISTERED)),
        ("URAM288", "OREG_A", "DOUT_A", (d.ULTRA_RAM_OUT, d.ULTRA_RAM_OUT_REGISTERED)),
    ],
)
@pytest.mark.parametrize("registered", [False, True])
def test_the_output_register_of_a_memory(
    kind: str, parameter: str, port: str, out: tuple[float, float], registered: bool
) -> None:
    cells = {"memory": [kind, {parameter: registered}, {port: [10]}], "$1": register(10, 11)}
    path, = longest_paths(netlist_of(cells, {"q": [11]}), "top", ["top"])
    assert (path["ns"], path["from"], path["to"]) == (pytest.approx(out[registered] + d.NET), "memory", "q")


def test_address_and_data_of_a_memory_end_a_path() -> None:
    cells = {"memory": ["URAM288", {}, {"ADDR_A": [11], "CLK": [1]}], "$1": register(11, 11)}
    path, = longest_paths(netlist_of(cells, {"q": [11]}), "top", ["top"])
    assert (path["ns"], path["from"], path["to"]) == (pytest.approx(d.REGISTER_OUT + d.NET + d.MEMORY_SETUP), "q", "memory")


@pytest.mark.parametrize(
    ("registers", "read", "unregistered"),
    [(1, None, 7), (2, None, 4), (4, None, 2), (7, None, 1), (8, None, 1), (4, 1, 4), (4, 2, 3), (0, None, 7)],
)
def test_registers_behind_a_matrix_of_ultra_ram(registers: int, read: int | None, unregistered: int) -> None:
    """A row more without register takes longer; a register that logic reads lies outside, and so do those behind it."""
    cells = {"words.0.0": ["URAM288", {}, {"DOUT_A": [10], "CLK": [1]}], "choose": ["LUT1", {}, {"I0": [10], "O": [11]}],
             **{f"$r{k}": register(11 + k, 12 + k) for k in range(registers)}}
    if read is not None:
        cells |= {"reader": ["LUT1", {}, {"I0": [12 + read], "O": [50]}], "$reader": register(50, 51)}
    netlist = netlist_of(cells, {})
    netlist["top"]["rows"] = {"words": 7}
    inside = d.ULTRA_RAM_OUT + (unregistered - 1) * d.ULTRA_RAM_CASCADE + d.NET
    longest = max(inside, d.ULTRA_RAM_OUT + 2 * d.NET + d.LUT if registers else 0.0)
    assert longest_paths(netlist, "top", ["top"])[0]["ns"] == pytest.approx(longest)


def dsp_paths(**registers: bool) -> list[tuple[float, str, str]]:
    """Register ``a`` to slice ``dsp`` to register ``p``: ``(ns, from, to)``."""
    cells = {
        "dsp": ["DSP48E2", registers, {"CLK": [1], "A": [10], "P": [12], "PCIN": ["0"]}],
        "$a": register(13, 10),
        "$p": register(12, 13),
    }
    return [(p["ns"], p["from"], p["to"]) for p in longest_paths(netlist_of(cells, {"a": [10], "p": [13]}), "top", ["top"])]


@pytest.mark.parametrize(
    ("registers", "ns", "ends"),
    [
        ({}, d.REGISTER_OUT + d.NET + UNREGISTERED + d.NET, ("a", "p")),
        ({"PREG": True}, d.REGISTER_OUT + d.NET + d.DSP_INPUT + PRODUCT + d.DSP_M + d.DSP_ADD, ("a", "dsp")),
        ({"AREG": True}, d.DSP_REGISTER_OUT + PRODUCT + d.DSP_M + d.DSP_ADD + d.DSP_OUTPUT + d.NET, ("dsp", "p")),
        ({"AREG": True, "PREG": True}, d.DSP_REGISTER_OUT + PRODUCT + d.DSP_M + d.DSP_ADD, ("dsp", "dsp")),
        ({"MREG": True, "PREG": True}, d.REGISTER_OUT + d.NET + d.DSP_INPUT + PRODUCT, ("a", "dsp")),
        ({"AREG": True, "MREG": True, "PREG": True}, d.DSP_REGISTER_OUT + PRODUCT, ("dsp", "dsp")),
        ({"ADREG": True, "MREG": True, "PREG": True}, d.DSP_REGISTER_OUT + d.DSP_MULTIPLY, ("dsp", "dsp")),
        ({"AREG": True, "ADREG": True, "MREG": True, "PREG": True}, d.DSP_REGISTER_OUT + d.DSP_MULTIPLY, ("dsp", "dsp")),
        ({"AREG": True, "MREG": True}, d.DSP_REGISTER_OUT + d.DSP_ADD + d.DSP_OUTPUT + d.NET, ("dsp", "p")),
    ],
)
def test_registers_of_a_dsp_slice(registers: dict[str, bool], ns: float, ends: tuple[str, str]) -> None:
    assert dsp_paths(**registers) == [(pytest.approx(ns, abs=1e-3), *ends)]


@pytest.mark.parametrize(
    ("port", "registers", "ns"),
    [("C", {"PREG": True}, d.NET + d.DSP_INPUT + d.DSP_ADD), ("C", {"CREG": True}, d.NET + d.DSP_SETUP),
     ("PCIN", {"PREG": True}, d.DSP_CASCADE + d.DSP_ADD), ("CEP", {"PREG": True}, d.NET + d.DSP_SETUP)],
)
def test_addend_and_enable_of_a_dsp_slice(port: str, registers: dict[str, bool], ns: float) -> None:
    cells = {"dsp": ["DSP48E2", registers, {"CLK": [1], port: [10]}], "$a": register(11, 10)}
    path, = longest_paths(netlist_of(cells, {"a": [10]}), "top", ["top"])
    assert (path["ns"], path["from"], path["to"]) == (pytest.approx(d.REGISTER_OUT + ns, abs=1e-3), "a", "dsp")


def test_s_of_a_carry_chain_takes_a_look_up_table() -> None:
    carry = ["CARRY4", {}, {"CI": ["0"], "CYINIT": ["0"], "DI": ["0"] * 4, "S": [10, "0", "0", "0"], "O": [12, 13, 14, 15]}]
    cells = {"$c": carry, "$a": register(12, 10)}
    path, = longest_paths(netlist_of(cells, {"a": [10]}), "top", ["top"])
    ns = d.REGISTER_OUT + d.NET + d.LUT + d.LUT_TO_CARRY + d.CARRY_SUM + d.CARRY_TO_REGISTER
    assert (path["ns"], path["carries"]) == (pytest.approx(ns), 1)


def test_distributed_memory_and_shift_register() -> None:
    ram = ["RAM32M16", {}, {"ADDRA": [10, "0"], "ADDRH": [10], "DIA": [20], "DOA": [11], "WCLK": [1], "WE": ["1"]}]
    cells = {"ram": ram, "$a": register(11, 10)}
    path, = longest_paths(netlist_of(cells, {"a": [10]}), "top", ["top"])
    assert path["ns"] == pytest.approx(d.LUT_RAM_OUT + d.NET) and path["from"] == "ram"
    cells = {"$srl": ["SRL16E", {}, {"D": [10], "Q": [11], "A0": ["1"], "CLK": [1], "CE": ["1"]}], "$a": register(11, 10)}
    path, = longest_paths(netlist_of(cells, {"a": [10], "late": [11]}), "top", ["top"])
    assert (path["ns"], path["from"], path["to"]) == (pytest.approx(d.LUT_RAM_OUT + d.NET), "late", "a")


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(HwgenError, match=r"no cell of kind LDCE \(latch\)"):
        longest_paths(netlist_of({"latch": ["LDCE", {}, {"Q": [3]}]}, {}), "top", ["top"])


def test_what_is_kept_of_a_netlist() -> None:
    cell = {"hide_name": 0, "type": "URAM288", "parameters": {"OREG_A": "TRUE", "OREG_B": "FALSE", "INIT": "01"},
            "connections": {"ADDR_A": [2, "x"]}}
    dsp = {"type": "DSP48E2", "parameters": {"AREG": "0" * 32, "PREG": "1".zfill(32)}, "connections": {}}
    nets = {"\\a": {"hide_name": 0, "bits": [2]}, "$1": {"hide_name": 1, "bits": [2]}}
    module = {"ports": {"i": {"direction": "input", "bits": [2]}}, "cells": {"m": cell, "d": dsp}, "netnames": nets}
    assert compact_netlist({"modules": {"top": module}}) == {
        "top": {
            "ports": {"i": [2]},
            "cells": {"m": ["URAM288", {"OREG_A": True, "OREG_B": False}, {"ADDR_A": [2, "x"]}],
                      "d": ["DSP48E2", {"AREG": False, "PREG": True}, {}]},
            "names": {"a": [2]},
        }
    }
