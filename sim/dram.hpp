// A DDR memory behind several AXI4 ports: what the accelerator's memory ports see on the board, cycle by cycle.
//
// Each port queues transactions; one controller serves them in chunks of up to 256 bytes over a shared data bus of limited
// bandwidth with banks, open rows, refresh and a read / write turnaround. Read data is taken from memory when the beat
// is put on the port and written data lands when its response is: as late as AXI allows, so that a design that does not wait
// for its responses is caught.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "axi.hpp"
#include "axi_monitor.hpp"

namespace hwgen {

// Mirrored field by field by `DramTiming` in dram.py, which documents the fields.
struct DramTiming {
  double bytes_per_cycle;
  double ready_probability;
  double data_probability;
  uint64_t read_latency;
  uint64_t write_latency;
  uint64_t latency_jitter;
  uint64_t max_reads;
  uint64_t max_writes;
  uint64_t read_buffer_bytes;
  uint64_t banks;
  uint64_t row_bytes;
  uint64_t row_miss_cycles;
  uint64_t scheduling_window;
  uint64_t refresh_interval;
  uint64_t refresh_cycles;
  uint64_t turnaround_cycles;
  uint64_t write_batch_bytes;
  uint64_t write_patience;
  uint64_t reorder;
  uint64_t interleave;
  uint64_t seed;
};

// Mirrored by `PortStatistics` in dram.py. Counts of clock cycles outside reset unless the name says otherwise.
struct PortStatistics {
  uint64_t read_commands;   // AR handshakes
  uint64_t read_beats;      // R handshakes: the cycles in which the port was busy
  uint64_t read_stalled;    // RVALID and not RREADY: the accelerator held the memory up
  uint64_t read_waiting;    // reads outstanding, RVALID low: the memory held the accelerator up
  uint64_t read_idle;       // nothing outstanding and RVALID low
  uint64_t read_address_stalled;  // ARVALID and not ARREADY
  uint64_t write_commands;
  uint64_t write_beats;
  uint64_t write_stalled;   // WVALID and not WREADY
  uint64_t write_waiting;   // writes outstanding, no W beat offered
  uint64_t write_idle;
  uint64_t write_address_stalled;
  uint64_t reads_outstanding;      // now
  uint64_t reads_outstanding_max;
  uint64_t writes_outstanding;
  uint64_t writes_outstanding_max;
};

class Dram {
 public:
  // `base` is the bus address of the first of `bytes` bytes.
  Dram(uint32_t ports, uint32_t port_bytes, uint64_t base, uint64_t bytes);
  ~Dram();
  Dram(const Dram&) = delete;
  Dram& operator=(const Dram&) = delete;

  uint8_t* memory() { return memory_; }
  void set_timing(const DramTiming& timing);  // only while nothing is outstanding
  void reset();  // forgets every transaction, keeps the contents
  bool idle() const;

  // Takes one rising edge: `masters` are the signals at the edge, `slaves` those driven into it and, on return, those to
  // drive into the next one.
  void edge(uint64_t cycle, const MasterSignals* masters, SlaveSignals* slaves);

  // Handshakes of any kind so far: a machine that makes none and computes nothing is stuck.
  uint64_t handshakes() const { return handshakes_; }
  std::vector<PortStatistics> statistics;
  RecordLog violations;
  RecordLog errors;

 private:
  static constexpr uint32_t kChunkBytes = 256;
  static constexpr uint32_t kMaxChunks = kPageBytes / kChunkBytes + 1;  // an unaligned burst touches one more
  static constexpr uint32_t kBurstBytes = 64;  // what the DDR moves at least: eight beats of eight bytes
  static constexpr uint64_t kNotServed = ~uint64_t(0);

  struct Transaction {
    AddressChannel address;
    bool outside = false;
    uint64_t arrival = 0;
    uint32_t beat = 0;    // next beat to move on the port
    uint32_t chunks = 0;
    uint32_t served = 0;  // chunks the controller has served
    uint64_t done[kMaxChunks] = {};  // cycle from which a served chunk may appear on the port
    bool complete = false;  // writes: all beats are here
    std::vector<uint8_t> data;
    std::vector<uint32_t> strobes;

    uint32_t chunk_of(uint32_t beat_index) const {
      return uint32_t(address.beat_address(beat_index) / kChunkBytes - address.addr / kChunkBytes);
    }
  };
  using Queue = std::vector<Transaction*>;  // in order of acceptance

  struct Port {
    Queue reads;
    Queue writes;
    size_t next_read = 0;   // first of `reads` with a chunk not yet served
    size_t next_write = 0;
    size_t next_data = 0;   // the write that takes W beats
    Transaction* returning = nullptr;  // the read whose burst is under way
    uint64_t buffered_bytes = 0;  // served and not yet on the port
    std::vector<std::unique_ptr<Transaction>> owned;
    Queue free;
  };

  struct Bank {
    uint64_t row = kNotServed;
    double free = 0;
  };

  struct Pick {
    uint32_t port = 0;
    Transaction* transaction = nullptr;
  };

  Transaction* accept(Port& port, uint32_t index, const AddressChannel& address, bool write);
  void finish(Port& port, Queue& queue, size_t& next, Transaction* transaction);
  void read_edge(uint32_t index, const MasterSignals& master, SlaveSignals& slave);
  void write_edge(uint32_t index, const MasterSignals& master, SlaveSignals& slave);
  void present_read(Port& port, SlaveSignals& slave);
  void present_response(Port& port, SlaveSignals& slave);
  Transaction* choose(const Queue& queue, bool (*available)(const Transaction&, uint64_t));
  void commit(const Transaction& transaction);
  void schedule();
  bool pick_direction();
  Pick pick_transaction(bool write);
  void serve(const Pick& pick, bool write);
  void bus_word(uint64_t address, uint8_t* word) const;
  bool contains(const AddressChannel& address) const;
  uint32_t bank_of(uint64_t row) const { return uint32_t((row ^ (row >> 3) ^ (row >> 6) ^ (row >> 9)) % timing_.banks); }
  bool chance(double probability);
  uint64_t random();

  uint32_t port_count_;
  uint32_t port_bytes_;
  uint64_t base_;
  uint64_t bytes_;
  uint8_t* memory_ = nullptr;
  DramTiming timing_{};
  std::vector<Port> ports_;
  std::vector<AxiMonitor> monitors_;
  std::vector<Bank> banks_;
  uint64_t now_ = 0;  // the cycle whose inputs are being decided
  uint64_t handshakes_ = 0;
  uint64_t random_state_ = 1;
  double bus_free_ = 0;
  uint64_t next_refresh_ = 0;
  uint32_t last_port_ = 0;
  uint32_t hit_streak_ = 0;
  bool writing_ = false;
  uint64_t batch_left_ = 0;
  uint32_t unserved_reads_ = 0;   // transactions with chunks to serve
  uint32_t unserved_writes_ = 0;  // likewise, with all their data here
  uint64_t unserved_write_bytes_ = 0;
};

}  // namespace hwgen
