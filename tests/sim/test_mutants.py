"""Planted faults: what is drawn from a line, and that every one is in the text once, switched by its number."""

from __future__ import annotations

import random

import pytest

from hwgen.sim.mutants import ACTIVE, Mutant, find_mutants, mutate, plant

VERILOG = """\
module top(clk, rst, a, o);
  input clk;
  reg [3:0] count = 4'h0;
  wire \\$1 ;
  \\top.unit  unit (
    .clk(clk)
  );
endmodule

module \\top.unit (clk, rst, a, b, o);
  wire [3:0] a;
  reg [3:0] \\$next ;
  reg [3:0] tag_0 = 4'h0;
  always @(posedge clk)
    tag_0 <= tag;
  always @(posedge clk)
    count <= \\$next ;
  assign \\$1  = a + 4'h3;
  assign \\$2  = ~ b;
  assign \\$3  = b ? a : \\$1 ;
  assign \\$4  = a - \\$signature [2:0];
  assign o = { a, b, tag_0, \\$2 , \\$3 , \\$4  };
  assign \\$5  = ~ a;
  always @* begin
    if (\\$auto$verilog_backend.cc:2355:dump_module$7 ) begin end
    \\$next  = a;
    if (b) begin
      \\$next  = \\$1 ;
    end
    if (rst) begin
      \\$next  = 4'h0;
    end
  end
endmodule
"""


def found() -> list[Mutant]:
    return find_mutants(VERILOG, random.Random(2))


def test_what_may_go_wrong() -> None:
    kinds = [(mutant.kind, mutant.before.strip()) for mutant in found()]
    assert kinds == [
        ("stuck", "tag"), ("operator", "a + 4'h3"), ("constant", "a + 4'h3"), ("negation", "~ b"), ("choice", "b ? a : \\$1"),
        ("operator", "a - \\$signature [2:0]"), ("condition", "b"),
    ]
    assert {mutant.module for mutant in found()} == {"\\top.unit"}
    assert not find_mutants(VERILOG, random.Random(2), without=["unit"])


@pytest.mark.parametrize("index", range(7))
def test_one_mutant_is_one_line(index: int) -> None:
    mutant = found()[index]
    before, after = VERILOG.split("\n"), mutate(VERILOG, mutant).split("\n")
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed == [mutant.line]
    name = before[mutant.line].partition("=")[0]
    assert after[mutant.line].startswith(name) or mutant.kind == "condition", "what is assigned stays"


def test_all_are_planted_and_switched() -> None:
    chosen = list({mutant.line: mutant for mutant in found()}.values())
    text = plant(VERILOG, chosen, "top")
    assert f"  reg [15:0] {ACTIVE} = 16'd0;" in text
    for number, mutant in enumerate(chosen, 1):
        line = text.split("\n")[mutant.line + 1]  # behind the register
        assert f"((top.{ACTIVE} == 16'd{number}) ? ({mutant.after} ) : ({mutant.before} ))" in line
    assert "tag_0 <= ((top." in text
