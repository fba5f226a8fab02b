"""Noise where nothing is promised: what the Verilog of Amaranth becomes, and that a design that relies on luck is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgen.sim.accelerator import SimulatedAccelerator
from hwgen.sim.noise import NoiseError, add_noise
from hwgen.sim.verilate import build_library
from tests.cocotb_runner import to_verilog

from .dma_engine import ID_BITS, PROBES, dma_verilog

#: Of the registers of `Lucky`.
PLANTED = 0x200


class Lucky(wiring.Component):
    """Relies on luck in three ways, and in three on what is promised. ``write`` puts ``data`` at ``addr`` and reads, in the same
    cycle, the word at the low bits of ``data``."""

    def __init__(self) -> None:
        super().__init__({
            "write": In(1),
            "addr": In(4),
            "data": In(32),
            "select": In(2),
            # the word read; the same where the design asks for the word being written; a counter without a reset; one with
            "q": Out(32),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = memory.Memory(shape=32, depth=16, init=[])
        m.submodules.constants = constants = memory.Memory(shape=32, depth=2, init=[1, 1])
        put = words.write_port()
        plain, transparent, one = words.read_port(), words.read_port(transparent_for=(put,)), constants.read_port(domain="comb")
        m.d.comb += [put.en.eq(self.write), put.addr.eq(self.addr), put.data.eq(self.data)]
        for read in (plain, transparent):
            m.d.comb += [read.en.eq(self.write), read.addr.eq(self.data)]
        free, counted = Signal(32, reset_less=True), Signal(32)
        with m.If(self.write):
            m.d.sync += [free.eq(free + one.data), counted.eq(counted + one.data)]
        m.d.comb += self.q.eq(
            Mux(self.select[1], Mux(self.select[0], counted, free), Mux(self.select[0], transparent.data, plain.data))
        )
        return m


def lucky_design() -> str:
    """The DMA engine with a `Lucky` at its registers."""
    pins = ".clk(clk), .rst(rst), .write(write), .addr(s_axi_awaddr[5:2]), .data(s_axi_wdata), .select(s_axi_araddr[3:2]), .q(q)"
    top = dma_verilog(1, 32)
    for old, new in (
        ("  reg start, started, write_error;", f"  wire [31:0] q;\n  lucky planted ({pins});\n  reg start, started, write_error;"),
        ("s_axi_rdata <= s_axi_araddr == 0 ?", "s_axi_rdata <= s_axi_araddr[9] ? q : s_axi_araddr == 0 ?"),
    ):
        assert top.count(old) == 1
        top = top.replace(old, new)
    return to_verilog(Lucky(), top="lucky") + top


@pytest.fixture(scope="module")
def library() -> Path:
    return build_library(
        lucky_design(), top="dma", ports=1, port_bits=32, id_bits=ID_BITS, probes=PROBES, optimize=False, noise=True
    )


@pytest.fixture
def start(library: Path) -> Callable[[int], SimulatedAccelerator]:
    return lambda seed: SimulatedAccelerator(library, memory_bytes=4096, noise=seed)


def put(device: SimulatedAccelerator, addr: int, data: int) -> list[int]:
    """Write; then what is at ``q``."""
    device.write_register(PLANTED + 4 * addr, data)
    return [device.read_register(PLANTED + 4 * select) for select in range(4)]


def test_a_design_that_relies_on_luck_is_found(start: Callable[[int], SimulatedAccelerator]) -> None:
    plains, begins, frees = [], [], []
    for seed in (1, 2, 1):
        device = start(seed)
        plain, transparent, free, counted = put(device, 4, 0x107)  # reads word 7, which nothing has written
        assert plain == transparent and counted == 1
        begins.append(plain)
        frees.append(free)
        put(device, 7, 0x204)
        plain, transparent, free, counted = put(device, 3, 0x307)  # reads word 7
        assert plain == transparent == 0x204 and counted == 3
        assert free == (frees[-1] + 2) % (1 << 32)
        plain, transparent, _, _ = put(device, 5, 0x405)  # reads the word that it writes
        assert transparent == 0x405 and plain != transparent
        plains.append(plain)
        device.reset()
        assert [device.read_register(PLANTED + 4 * select) for select in (2, 3)] == [(frees[-1] + 3) % (1 << 32), 0]
    for noise in (plains, begins, frees):
        assert noise[0] != noise[1] and noise[0] == noise[2] != 0


def test_the_seed_belongs_to_a_library_with_noise(library: Path, dma_library: Path) -> None:
    with pytest.raises(ValueError, match="noise must be a seed with this library, not None"):
        SimulatedAccelerator(library, memory_bytes=4096)
    with pytest.raises(ValueError, match="noise must be None with this library, not 1"):
        SimulatedAccelerator(dma_library, memory_bytes=4096, noise=1)
    with pytest.raises(ValueError, match="noise must be 1 to 2147483647, not 0"):
        SimulatedAccelerator(library, memory_bytes=4096, noise=0)


MODULE = """module top(clk, en, a, b, d, q);
  (* ram_style = "block" *)
  reg [39:0] \\words$1  [7:0];
  always @(posedge clk) begin
    if (\\en$2 )
      \\words$1 [a[2:0]] <= d;
    if (en[1])
      \\words$1 [{ a, b }][3:0] <= d[3:0];
  end
  reg [39:0] _0_;
  always @(posedge clk) begin
    _0_ <= \\words$1 [b];
  end
  reg [3:0] table [1:0];
  initial begin
    table[0] = 4'h3;
  end
  assign q = table[b[0]];
  reg [7:0] count = 8'h00;
  reg one = 1'h1;
  reg \\dump_module$8  = 0;
  always @(posedge clk)
    count <= \\$1 ;
endmodule
"""


def test_what_the_text_becomes() -> None:
    found = add_noise(MODULE)
    meets = "((\\en$2  ) && (a[2:0] ) == (b )) || ((en[1] ) && ({ a, b } ) == (b ))"
    assert f"    _0_ <= ({meets}) ? {{$urandom, $urandom}} : \\words$1 [b];\n" in found
    assert "  reg [7:0] count;\n  reg one;\n  reg \\dump_module$8  = 0;\n" in found
    assert found.count("\n") == MODULE.count("\n") and "    table[0] = 4'h3;\n" in found and "  assign q = table[b[0]];\n" in found


@pytest.mark.parametrize(("old", "new", "message"), [
    ("_0_ <= \\words$1 [b];", "_0_ <= \\words$1 [b][3:0];", "part of a word of memory"),
    ("assign q = table[b[0]];", "assign q = table[b[0]] + 1;", "memory table is used 1 times, of which 0 are"),
    ("  initial begin\n", "  always @* begin\n", "memory table is used 2 times, of which 1 are"),
])
def test_uses_that_are_not_understood_are_errors(old: str, new: str, message: str) -> None:
    assert old in MODULE
    with pytest.raises(NoiseError, match=message):
        add_noise(MODULE.replace(old, new))
