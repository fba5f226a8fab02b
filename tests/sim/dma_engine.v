// One memory port of the design under test: reads bursts, hashes what comes back per ID, and can write it elsewhere.
module dma_port #(parameter W = 128, parameter IDB = 2) (
  input clk, input rst, input start,
  input [39:0] source, input [39:0] destination, input [15:0] bursts, input [7:0] len,
  input [31:0] scatter,       // mask of a random burst index, 0: one burst after the other
  input copy, input throttle, // throttle: RREADY and BREADY come and go
  input lead,                 // W beats are offered as they come, their address much later
  input [3:0] bug,
  output reg busy,
  output reg [64*(1<<IDB)-1:0] hashes,
  output beat, output last, output [W-1:0] beat_data,

  output reg [39:0] araddr, output reg [IDB-1:0] arid, output [7:0] arlen, output [2:0] arsize, output [1:0] arburst,
  output reg arvalid, input arready,
  input [W-1:0] rdata, input [IDB-1:0] rid, input [1:0] rresp, input rlast, input rvalid, output rready,
  output [39:0] awaddr, output [IDB-1:0] awid, output [7:0] awlen, output [2:0] awsize, output [1:0] awburst,
  output awvalid, input awready,
  output [W-1:0] wdata, output [W/8-1:0] wstrb, output wlast, output wvalid, input wready,
  input [IDB-1:0] bid, input [1:0] bresp, input bvalid, output bready
);
  localparam LOG = $clog2(W / 8);
  reg [31:0] lfsr;
  reg [15:0] to_read, reading, to_address, to_respond;
  reg [W-1:0] fifo [0:1023];
  reg [9:0] head, tail;
  reg [10:0] credit;     // beats of the FIFO not promised to a read
  reg [10:0] unclaimed;  // beats in the FIFO no AW was sent for
  reg [10:0] claimed;    // beats an AW was sent for and W was not
  reg [7:0] wbeat;
  reg [6:0] delay;       // until AW is offered
  reg [39:0] waddr;
  wire [8:0] beats = len + 1;
  wire [39:0] burst_bytes = {31'b0, beats} << LOG;

  assign arlen = len;
  assign arsize = bug == 7 ? LOG + 1 : LOG;
  assign arburst = bug == 8 ? 0 : 1;
  assign rready = !throttle || lfsr[3];
  assign bready = !throttle || lfsr[7];
  assign beat = rvalid && rready;
  assign last = beat && rlast;
  assign beat_data = rdata;
  wire next_ar = !arvalid || arready;
  wire room = !copy || credit >= beats;
  wire take_ar = next_ar && to_read != 0 && room;

  wire whole = copy && to_address != 0 && unclaimed >= beats;
  assign awvalid = whole && (!lead || delay == 127);
  assign awaddr = waddr;
  assign awid = 0;
  assign awlen = len;
  assign awsize = LOG;
  assign awburst = 1;
  wire aw = awvalid && awready;
  assign wvalid = claimed != 0 || bug == 5 && busy;
  assign wdata = fifo[tail] ^ (bug == 6 ? {W{lfsr[0]}} : 0);
  assign wstrb = ~0;
  assign wlast = bug == 4 ? wbeat == 0 : wbeat == len;
  wire w = wvalid && wready && claimed != 0;

  always @(posedge clk) begin
    lfsr <= {lfsr[30:0], lfsr[31] ^ lfsr[21] ^ lfsr[1] ^ lfsr[0]};
    if (next_ar) arvalid <= 0;
    if (bug == 1 && arvalid && !arready) arvalid <= 0;
    if (bug == 2 && arvalid && !arready) araddr <= araddr ^ 64;
    if (take_ar) begin
      arvalid <= 1;
      araddr <= source + burst_bytes * (scatter != 0 ? lfsr & scatter : bursts - to_read);
      arid <= copy ? 0 : to_read;
      to_read <= to_read - 1;
    end
    if (beat) begin
      hashes[64*rid +: 64] <= {hashes[64*rid +: 63], hashes[64*rid + 63]} + rdata[63:0] + rresp;
      fifo[head] <= rdata;
      head <= head + 1;
    end
    if (last) reading <= reading - 1;
    if (aw) begin to_address <= to_address - 1; waddr <= waddr + burst_bytes; end
    if (w) begin tail <= tail + 1; wbeat <= wbeat == len ? 0 : wbeat + 1; end
    if (bvalid && bready) to_respond <= to_respond - 1;
    credit <= credit - (take_ar && copy ? beats : 0) + w;
    unclaimed <= unclaimed + (beat && copy) - (aw ? beats : 0);
    claimed <= claimed + (lead ? beat && copy : aw ? beats : 0) - w;
    delay <= aw || !whole ? 0 : delay == 127 ? 127 : delay + 1;
    if (reading == 0 && to_respond == 0) busy <= 0;
    if (start) begin
      busy <= 1; to_read <= bursts; reading <= bursts; waddr <= destination; hashes <= 0; lfsr <= 32'hACE1;
      head <= 0; tail <= 0; credit <= 1023; unclaimed <= 0; claimed <= 0; wbeat <= 0;
      to_address <= copy ? bursts : 0; to_respond <= copy ? bursts : 0;
    end
    if (rst) begin
      busy <= 0; arvalid <= 0; to_read <= 0; reading <= 0; to_address <= 0; to_respond <= 0; head <= 0; tail <= 0;
      credit <= 1023; unclaimed <= 0; claimed <= 0; wbeat <= 0; lfsr <= 32'hACE1;
      delay <= 0;
    end
  end
endmodule
