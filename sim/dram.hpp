// A DDR memory behind several AXI4 ports: what the accelerator's memory ports see on the board, cycle by cycle.
//
// Each port queues transactions and issues their chunks of up to 256 bytes while its read FIFO has room. Ports that share a
// port of the controller form a group: they take turns, and their data crosses one link. One controller serves the
// groups in turn, and another master's reads before them, over a shared data bus of limited bandwidth with banks, bank
// groups, open rows, refresh and a read / write turnaround. Read data is taken from memory when the beat is put on the port
// and written data lands when its response is: as late as AXI allows, so that a design that does not wait for its
// responses is caught. A reset of the design forgets nothing here: the ports answer what they were asked.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "axi.hpp"
#include "axi_monitor.hpp"

namespace hwgen {

constexpr uint32_t kMaxPorts = 16;

// Mirrored field by field by `DramTiming` in dram.py, which documents the fields.
struct DramTiming {
  double bytes_per_cycle;
  double ready_probability;
  double data_probability;
  uint64_t command_latency;
  uint64_t read_latency;
  uint64_t write_latency;
  uint64_t latency_jitter;
  uint64_t max_reads;
  uint64_t max_writes;
  uint64_t early_beats;
  uint64_t read_buffer_bytes;
  uint8_t port_groups[kMaxPorts];
  uint8_t port_latency[kMaxPorts];
  double group_bytes_per_cycle;
  uint64_t banks;
  uint64_t bank_groups;
  uint64_t hash_banks;
  uint64_t row_bytes;
  double row_miss_cycles;
  double row_cycle;
  double four_activates;
  double same_group_cycles;
  uint64_t row_patience;
  uint64_t scheduling_window;
  uint64_t refresh_interval;
  uint64_t refresh_cycles;
  double turnaround_cycles;
  uint64_t write_batch_bytes;
  uint64_t write_patience;
  uint64_t reorder;
  uint64_t interleave;
  double cpu_bytes_per_cycle;
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
  uint64_t read_bytes_in_flight;  // issued to the controller and not yet on the port, now
  uint64_t read_bytes_in_flight_max;
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
  void reset();  // of the design: its rules begin anew, what the ports were asked stays
  void drop();   // of the ports' FIFOs: forgets every transaction, keeps the contents
  bool idle() const;
  // The word number `after` (from 0) that a port reads from now on, or that write response, comes with this response code; the
  // word is 0xEE..., and what should have been written is not: AXI leaves both open. The highest `after` ends it.
  void fail(uint32_t port, bool write, uint64_t after, uint8_t response) { ports_[port].failures[write] = {after + 1, response}; }
  // A silent port takes nothing and answers nothing; what it took before waits.
  void silence(uint32_t port, bool silent) { ports_[port].silent = silent; }

  // Takes one rising edge: `masters` are the signals at the edge, `slaves` those driven into it and, on return, those to
  // drive into the next one.
  void edge(uint64_t cycle, const MasterSignals* masters, SlaveSignals* slaves);

  // Handshakes of any kind so far: a machine that makes none and computes nothing is stuck.
  uint64_t handshakes() const { return handshakes_; }
  uint64_t cpu_bytes() const { return cpu_bytes_; }  // read by the other master so far
  std::vector<PortStatistics> statistics;
  RecordLog violations;
  RecordLog errors;

 private:
  static constexpr uint32_t kChunkBytes = 256;
  static constexpr uint32_t kMaxChunks = kPageBytes / kChunkBytes + 1;  // an unaligned burst touches one more
  static constexpr uint32_t kBurstBytes = 64;  // what the DDR moves at least: eight beats of eight bytes
  static constexpr uint64_t kNotServed = ~uint64_t(0);
  static constexpr size_t kCpuQueue = 32;  // reads of the other master that wait; it stands still beyond
  static constexpr double kNever = 1e300;

  struct Transaction {
    AddressChannel address;
    bool outside = false;
    uint64_t arrival = 0;
    uint32_t beat = 0;    // next beat to move on the port
    uint32_t chunks = 0;
    uint32_t issued = 0;  // chunks the port has sent to the controller
    uint32_t served = 0;  // chunks the controller has served
    uint64_t ready[kMaxChunks] = {};  // cycle from which the controller sees an issued chunk
    uint64_t done[kMaxChunks] = {};  // cycle from which a served chunk may appear on the port
    bool complete = false;  // writes: all beats are here
    std::vector<uint8_t> data;
    std::vector<uint32_t> strobes;

    uint32_t chunk_of(uint32_t beat_index) const {
      return uint32_t(address.beat_address(beat_index) / kChunkBytes - address.addr / kChunkBytes);
    }
    uint64_t chunk_begin(uint32_t chunk) const {
      return chunk ? (address.addr / kChunkBytes + chunk) * kChunkBytes : address.beat_address(0);
    }
    uint64_t chunk_end(uint32_t chunk) const {
      return chunk + 1 < chunks ? chunk_begin(chunk + 1)
                                : address.beat_address(address.len) + (uint64_t(1) << address.size);
    }
  };
  using Queue = std::vector<Transaction*>;  // in order of acceptance

  struct Failure {
    uint64_t left = 0;  // answers up to the one that fails; 0: none does
    uint8_t response = kRespOkay;

    bool next() { return left && --left == 0; }
  };

  struct Port {
    Queue reads;
    Queue writes;
    size_t next_issue = 0;  // first of `reads` with a chunk not yet issued
    size_t next_read = 0;   // first of `reads` with a chunk not yet served
    size_t next_write = 0;
    size_t next_data = 0;   // the write that takes W beats
    uint64_t served_at = 0;  // the controller served its last chunk then
    std::deque<WriteDataChannel> early;  // W beats ahead of their address
    Transaction* returning = nullptr;  // the read whose burst is under way
    std::vector<std::unique_ptr<Transaction>> owned;
    Queue free;
    Failure failures[2];  // of read words, of write responses
    bool silent = false;
  };

  // Ports that share a port of the controller.
  struct Group {
    std::vector<uint32_t> ports;
    uint32_t turn = 0;  // of `ports`, served last
    double read_link_free = 0;
    double write_link_free = 0;
  };

  struct Bank {
    uint64_t row = kNotServed;
    double free = 0;    // its last data has crossed the bus
    double opened = -1e18;  // when the first data of its row could have crossed the bus
    bool used = false;  // some has
  };

  // The chunk of a port that is next.
  struct Head {
    uint32_t group;
    uint32_t turn;
    Port* port;
    Transaction* transaction;
    uint64_t row;
    uint64_t first;   // number of its first DDR burst
    uint64_t bursts;
    uint64_t banks;   // that its bursts lie in
    uint64_t since;   // when it was here and its port's turn
  };

  struct CpuRead {
    uint64_t burst;
    uint64_t arrival;
    double opened;  // when its row is open; kNever: it waits for its bank
  };

  Transaction* accept(Port& port, uint32_t index, const AddressChannel& address, bool write);
  void finish(Port& port, Queue& queue, size_t& next, Transaction* transaction);
  void issue_reads(Port& port, PortStatistics& count);
  void take_write_beat(Port& port, const WriteDataChannel& beat);
  void read_edge(uint32_t index, const MasterSignals& master, SlaveSignals& slave);
  void write_edge(uint32_t index, const MasterSignals& master, SlaveSignals& slave);
  void present_read(Port& port, PortStatistics& count, SlaveSignals& slave);
  void present_response(Port& port, SlaveSignals& slave);
  Transaction* choose(const Queue& queue, bool (*available)(const Transaction&, uint64_t));
  void commit(const Transaction& transaction);
  void schedule();
  void refresh();
  void ask_for_cpu();
  void open_cpu_rows();
  bool serve_cpu();
  bool pick_direction();
  Transaction* candidate(Port& port, bool write) const;
  void gather(bool write);
  bool is_open(const Head& head);
  double opened(const Head& head);
  bool is_needed(const Bank& bank);
  void open_rows();
  double open_row(Bank& bank, uint64_t row);
  const Head* first_ready();
  void serve(const Head& head, bool write);
  double transfer(uint64_t first, uint64_t bursts, double opened, bool write);
  void bus_word(uint64_t address, uint8_t* word) const;
  bool contains(const AddressChannel& address) const;
  // A row lies across the banks of one number in all bank groups, 64 bytes in each in turn.
  uint64_t row_of(uint64_t address) const { return address / (timing_.row_bytes * timing_.bank_groups); }
  Bank& bank_of(uint64_t row, uint64_t burst) {
    uint64_t hash = timing_.hash_banks ? row ^ (row >> 3) ^ (row >> 6) ^ (row >> 9) : row;
    uint64_t groups = timing_.bank_groups;
    return banks_[hash % (banks_.size() / groups) * groups + burst % groups];
  }
  bool chance(double probability);
  uint64_t random();

  uint32_t port_count_;
  uint32_t port_bytes_;
  uint64_t base_;
  uint64_t bytes_;
  uint8_t* memory_ = nullptr;
  DramTiming timing_{};
  std::vector<Port> ports_;
  std::vector<Group> groups_;
  std::vector<Head> heads_;
  std::vector<AxiMonitor> monitors_;
  std::vector<Bank> banks_;
  uint64_t now_ = 0;  // the cycle whose inputs are being decided
  uint64_t handshakes_ = 0;
  uint64_t random_state_ = 1;
  double bus_free_ = 0;
  uint64_t next_refresh_ = 0;
  double activates_[4] = {};  // the last four, the oldest at `oldest_activate_`
  uint32_t oldest_activate_ = 0;
  uint64_t last_burst_ = 0;  // number of the DDR burst that crossed the bus last
  std::deque<CpuRead> cpu_reads_;
  uint64_t cpu_bytes_ = 0;
  uint32_t last_group_ = 0;
  bool writing_ = false;
  uint64_t batch_left_ = 0;
  uint32_t unserved_reads_ = 0;   // transactions with chunks to serve
  uint32_t unserved_writes_ = 0;  // likewise, with all their data here
  uint64_t unserved_write_bytes_ = 0;
};

}  // namespace hwgen
