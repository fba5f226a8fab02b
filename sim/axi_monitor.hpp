// Checks that the accelerator keeps the AXI4 rules on its master ports.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "axi.hpp"

namespace hwgen {

struct Record {
  uint64_t cycle;
  uint32_t port;
  std::string text;
};

// A log that keeps the first entries and counts the rest, so that a broken design cannot fill the host's memory.
class RecordLog {
 public:
  void add(uint64_t cycle, uint32_t port, std::string text);
  const std::vector<Record>& entries() const { return entries_; }
  uint64_t total() const { return total_; }
  void clear();

 private:
  static constexpr size_t kKept = 256;
  std::vector<Record> entries_;
  uint64_t total_ = 0;
};

// One monitor a port. `observe` sees the signals of both sides as they stand at every rising edge outside reset.
class AxiMonitor {
 public:
  AxiMonitor(uint32_t port, uint32_t port_bytes, RecordLog& log) : port_(port), port_bytes_(port_bytes), log_(log) {}

  void reset();
  void observe(uint64_t cycle, const MasterSignals& master, const SlaveSignals& slave);

 private:
  void check_address(uint64_t cycle, const char* channel, const AddressChannel& now, AddressChannel& held, bool ready);
  void check_write_data(uint64_t cycle, const MasterSignals& master, const SlaveSignals& slave);
  void check_write_beat(uint64_t cycle, const WriteDataChannel& beat);
  void violation(uint64_t cycle, const char* format, ...) __attribute__((format(printf, 3, 4)));

  // Write data may lead its address, but an address that never follows hangs the port.
  static constexpr uint32_t kOrphanDataCycles = 10000;

  uint32_t port_;
  uint32_t port_bytes_;
  RecordLog& log_;
  AddressChannel held_ar_;  // .valid: was offered and not taken at the previous edge
  AddressChannel held_aw_;
  WriteDataChannel held_w_;
  std::deque<AddressChannel> writes_;  // accepted, W beats still to come
  std::deque<WriteDataChannel> early_;  // W beats accepted, their address still to come
  uint32_t write_beat_ = 0;
  uint32_t orphan_cycles_ = 0;
};

}  // namespace hwgen
