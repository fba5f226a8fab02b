"""A planted fault is called harmless only where nothing can come of it."""

from __future__ import annotations

import pytest

pytest.importorskip("pyosys", reason="proofs of equivalence need pyosys: pip install pyosys")

from hwgen.sim.mutants import Mutant
from tools.equivalence import is_harmless

#: A counter to two whose unit is told to go on; the value of its last state, and a value that the neighbour only looks at in time.
VERILOG = """\
module \\top.design.outer (clk, go, o);
  input clk;
  wire clk;
  input go;
  wire go;
  output o;
  wire o;
  wire [1:0] state;
  wire value;
  assign o = state[1] & value;
  \\top.design.outer.unit  unit (
    .clk(clk),
    .go(go),
    .state(state),
    .value(value)
  );
endmodule

module \\top.design.outer.unit (clk, go, state, value);
  input clk;
  wire clk;
  input go;
  wire go;
  output [1:0] state;
  reg [1:0] state = 2'h0;
  output value;
  wire value;
  wire \\$1 ;
  wire [1:0] \\$2 ;
  wire \\$3 ;
  assign \\$1  = state == 2'h2;
  assign \\$2  = state + 1'h1;
  assign \\$3  = state == 2'h3;
  assign value = state[0] | \\$1 ;
  always @(posedge clk)
    state <= \\$3  ? 2'h0 : \\$1  ? 2'h0 : go ? \\$2  : state;
endmodule
"""


@pytest.mark.parametrize(("before", "after", "harmless"), [
    ("state == 2'h3", "state == 2'h2", True),  # never in that state, and goes on to the same
    ("state == 2'h2", "state != 2'h2", False),
    ("state + 1'h1", "state - 1'h1", False),
    ("state[0] | \\$1 ", "\\$1 ", True),  # looked at in the last state alone: seen in the module around it
])
def test_what_is_harmless(before: str, after: str, harmless: bool) -> None:
    line = next(i for i, text in enumerate(VERILOG.split("\n")) if f"= {before};" in text)
    mutant = Mutant("\\top.design.outer.unit", line, "operator", before, after)
    assert is_harmless(VERILOG, mutant) is harmless
