"""The design under test of the simulator's own tests: DMA ports behind a few registers (`dma_engine.v`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwgen.sim import Probe
from hwgen.sim.accelerator import SimulatedAccelerator

CONTROL, BUG, PORT = 0x00, 0x04, 0x40
PORT_STRIDE = 0x20
SOURCE, DESTINATION, BURSTS, LEN, SCATTER, FLAGS = range(0, 24, 4)
HASHES = 0x100
UNMAPPED = 0x800
COPY, THROTTLE, LEAD = 1, 2, 4
ID_BITS = 2
PROBES = (Probe("beats", 64, 32, 2), Probe("odd", 64, 5, 3), Probe("wide", 8, 72))

_TOP = """
module dma #(parameter W = {width}) (
  input clk, input rst, output irq,
  input [11:0] s_axi_awaddr, input s_axi_awvalid, output s_axi_awready,
  input [31:0] s_axi_wdata, input [3:0] s_axi_wstrb, input s_axi_wvalid, output s_axi_wready,
  output [1:0] s_axi_bresp, output reg s_axi_bvalid, input s_axi_bready,
  input [11:0] s_axi_araddr, input s_axi_arvalid, output s_axi_arready,
  output reg [31:0] s_axi_rdata, output reg [1:0] s_axi_rresp, output reg s_axi_rvalid, input s_axi_rready,
  output [1:0] probe_beats_valid, output [5:0] probe_beats_addr, output [63:0] probe_beats_data,
  output [2:0] probe_odd_valid, output [5:0] probe_odd_addr, output [14:0] probe_odd_data,
  output probe_wide_valid, output [2:0] probe_wide_addr, output [71:0] probe_wide_data,
  output probe_retire_valid, output [15:0] probe_retire_index,
{declarations}
);
  reg [31:0] config_words [0:63];
  reg start, started, write_error;
  reg [15:0] beats, retired;
  wire [{ports}-1:0] busy;
  wire write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid;
  wire read = s_axi_arvalid && !s_axi_rvalid;
  assign s_axi_awready = write;
  assign s_axi_wready = write;
  assign s_axi_arready = read;
  assign s_axi_bresp = {{write_error, 1'b0}};
  assign irq = started && !start && busy == 0;
  wire [{ports}*256-1:0] hashes;
  wire [W-1:0] beat_data;
  wire beat, last;
  assign probe_beats_valid = {{beat && beats[0], beat}};
  assign probe_beats_addr = beats[5:0];
  assign probe_beats_data = {{beat_data[31:0], beat_data[31:0]}};
  assign probe_odd_valid = {{3{{beat}}}};
  assign probe_odd_addr = beats[5:0];
  assign probe_odd_data = {{beats[4:0], ~beats[4:0], beat_data[4:0]}};
  assign probe_wide_valid = beat;
  assign probe_wide_addr = beats[2:0];
  assign probe_wide_data = {{beats[7:0], beat_data[31:0], beat_data[31:0]}};
  assign probe_retire_valid = last;
  assign probe_retire_index = retired;
  always @(posedge clk) begin
    start <= 0;
    if (s_axi_bready) s_axi_bvalid <= 0;
    if (s_axi_rready) s_axi_rvalid <= 0;
    if (beat) beats <= beats + 1;
    if (last) retired <= retired + 1;
    if (write) begin
      s_axi_bvalid <= 1;
      write_error <= s_axi_awaddr[11];
      config_words[s_axi_awaddr[7:2]] <= s_axi_wdata;
      if (s_axi_awaddr == 0) begin start <= 1; started <= s_axi_wdata[0]; beats <= 0; retired <= 0; end
    end
    if (read) begin
      s_axi_rvalid <= 1;
      s_axi_rresp <= {{s_axi_araddr[11], 1'b0}};
      s_axi_rdata <= s_axi_araddr == 0 ? {{irq, busy}} :
        s_axi_araddr[8] ? hashes[32 * s_axi_araddr[7:2] +: 32] : config_words[s_axi_araddr[7:2]];
    end
    if (rst) begin
      start <= 0; started <= 0; s_axi_bvalid <= 0; s_axi_rvalid <= 0; beats <= 0; retired <= 0; config_words[1] <= 0;
    end
  end
{instances}
endmodule
"""

_OUTPUTS = {
    "araddr": 40, "arid": ID_BITS, "arlen": 8, "arsize": 3, "arburst": 2, "arvalid": 1, "rready": 1,
    "awaddr": 40, "awid": ID_BITS, "awlen": 8, "awsize": 3, "awburst": 2, "awvalid": 1,
    "wlast": 1, "wvalid": 1, "bready": 1,
}
_INPUTS = {
    "arready": 1, "rid": ID_BITS, "rresp": 2, "rlast": 1, "rvalid": 1, "awready": 1, "wready": 1,
    "bid": ID_BITS, "bresp": 2, "bvalid": 1,
}


def dma_verilog(ports: int, port_bits: int) -> str:
    """A design with module `dma` on top."""
    outputs = {**_OUTPUTS, "wdata": port_bits, "wstrb": port_bits // 8}
    inputs = {**_INPUTS, "rdata": port_bits}
    declarations, instances = [], []
    for port in range(ports):
        prefix = f"m{port:02d}_axi_"
        declarations += [f"  output [{bits - 1}:0] {prefix}{name}" for name, bits in outputs.items()]
        declarations += [f"  input [{bits - 1}:0] {prefix}{name}" for name, bits in inputs.items()]
        word = PORT // 4 + port * PORT_STRIDE // 4
        pins = [f".{name}({prefix}{name})" for name in (*outputs, *inputs)]
        if port == 0:
            pins += [".beat(beat)", ".last(last)", ".beat_data(beat_data)"]
        pins += [
            ".clk(clk), .rst(rst), .start(start && started)",
            f".source({{8'b0, config_words[{word}]}}), .destination({{8'b0, config_words[{word + 1}]}})",
            f".bursts(config_words[{word + 2}][15:0])",
            f".len(config_words[{word + 3}][7:0]), .scatter(config_words[{word + 4}])",
            f".copy(config_words[{word + 5}][0]), .throttle(config_words[{word + 5}][1]), .bug(config_words[1][3:0])",
            f".lead(config_words[{word + 5}][2])",
            f".busy(busy[{port}]), .hashes(hashes[{port * 256} +: 256])",
        ]
        instances.append(f"  dma_port #(.W(W), .IDB({ID_BITS})) port{port} ({', '.join(pins)});")
    top = _TOP.format(
        width=port_bits, ports=ports, declarations=",\n".join(declarations), instances="\n".join(instances)
    )
    return Path(__file__).with_name("dma_engine.v").read_text() + top


@dataclass
class Job:
    """What one port is to do."""

    source: int
    bursts: int
    len: int
    destination: int = 0
    scatter: int = 0
    flags: int = 0


def start(accelerator: SimulatedAccelerator, jobs: list[Job], bug: int = 0) -> None:
    """Writes the jobs of ports 0, 1, ... and sets them off; ports without a job do nothing."""
    accelerator.write_register(BUG, bug)
    for port in range(accelerator.description.ports):
        job = jobs[port] if port < len(jobs) else Job(0, 0, 0)
        values = (job.source, job.destination, job.bursts, job.len, job.scatter, job.flags)
        for offset, value in enumerate(values):
            accelerator.write_register(PORT + PORT_STRIDE * port + 4 * offset, value)
    accelerator.write_register(CONTROL, 1)


def read_hashes(accelerator: SimulatedAccelerator, port: int) -> list[int]:
    """The four hashes of a port, by ID."""
    words = [accelerator.read_register(HASHES + 32 * port + 4 * word) for word in range(8)]
    return [words[2 * index] | words[2 * index + 1] << 32 for index in range(4)]


def expected_hashes(memory: np.ndarray, job: Job, port_bytes: int) -> list[int]:
    """What `read_hashes` is for a job without scatter: a hash that depends on the order of the beats of each ID."""
    hashes = [0] * 4
    mask = (1 << 64) - 1
    for burst in range(job.bursts):
        index = 0 if job.flags & COPY else (job.bursts - burst) % 4
        begin = job.source + burst * (job.len + 1) * port_bytes
        for beat in range(job.len + 1):
            address = begin + beat * port_bytes
            word = int.from_bytes(memory[address : address + min(8, port_bytes)].tobytes(), "little")
            value = hashes[index]
            hashes[index] = ((value << 1 | value >> 63) + word) & mask
    return hashes
