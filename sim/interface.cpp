// The C interface that accelerator.py calls through ctypes.
#include <algorithm>
#include <cstring>

#include "harness.hpp"

using hwgen::Accelerator;
using hwgen::RecordLog;

extern "C" {

Accelerator* accelerator_new(uint64_t base, uint64_t bytes, int32_t noise) {
  try {
    return new Accelerator(base, bytes, noise);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void accelerator_delete(Accelerator* a) { delete a; }

uint8_t* accelerator_memory(Accelerator* a) { return a->dram.memory(); }
void accelerator_set_timing(Accelerator* a, const hwgen::DramTiming* timing) { a->dram.set_timing(*timing); }
int accelerator_memory_idle(Accelerator* a) { return a->dram.idle(); }
uint8_t* accelerator_mirror(Accelerator* a, uint32_t index) { return a->mirrors[index].data(); }

uint64_t accelerator_cycle(Accelerator* a) { return a->cycle; }
uint64_t accelerator_retired(Accelerator* a) { return a->retired; }
uint64_t accelerator_retire_index(Accelerator* a) { return a->retire_index; }
int accelerator_irq(Accelerator* a) { return a->irq(); }

void accelerator_reset(Accelerator* a, uint64_t cycles) { a->reset(cycles); }
void accelerator_drop_outstanding(Accelerator* a) { a->drop_outstanding(); }
void accelerator_forget_idle(Accelerator* a) { a->forget_idle(); }
uint32_t accelerator_run(Accelerator* a, uint64_t max_cycles, uint64_t max_idle_cycles, int until_irq, int until_retire) {
  return uint32_t(a->run(max_cycles, max_idle_cycles, until_irq, until_retire));
}
uint32_t accelerator_write_register(Accelerator* a, uint32_t offset, uint32_t value, uint64_t max_cycles) {
  return uint32_t(a->write_register(offset, value, max_cycles));
}
uint32_t accelerator_read_register(Accelerator* a, uint32_t offset, uint32_t* value, uint64_t max_cycles) {
  return uint32_t(a->read_register(offset, value, max_cycles));
}
uint32_t accelerator_run_until_register(Accelerator* a, uint32_t offset, uint32_t mask, uint32_t value,
                                        uint64_t interval, uint64_t max_cycles, uint64_t max_idle_cycles) {
  return uint32_t(a->run_until_register(offset, mask, value, interval, max_cycles, max_idle_cycles));
}

int accelerator_flip(Accelerator* a, const char* path, uint64_t element, uint32_t bit, uint64_t from, uint64_t cycles) {
  return a->flip(path, element, bit, from, cycles);
}
void accelerator_corrupt_lane(Accelerator* a, uint32_t port, uint32_t lane, uint32_t mask) {
  a->corrupt_lane(port, lane, uint8_t(mask));
}
void accelerator_fail(Accelerator* a, uint32_t port, int write, uint64_t after, uint32_t response) {
  a->dram.fail(port, write != 0, after, uint8_t(response));
}
void accelerator_silence(Accelerator* a, uint32_t port, int silent) { a->dram.silence(port, silent != 0); }
int accelerator_trace(Accelerator* a, const char* file, uint64_t from, uint64_t to) { return a->trace(file, from, to); }

// Both return how much there is; the caller's buffer takes what fits.
uint64_t accelerator_public_names(Accelerator* a, char* buffer, uint64_t size) {
  std::string names = a->public_names();
  memcpy(buffer, names.data(), std::min<uint64_t>(size, names.size()));
  return names.size();
}

void accelerator_statistics(Accelerator* a, uint32_t port, hwgen::PortStatistics* out) { *out = a->dram.statistics[port]; }
uint64_t accelerator_cpu_bytes(Accelerator* a) { return a->dram.cpu_bytes(); }
void accelerator_clear_statistics(Accelerator* a) {
  for (hwgen::PortStatistics& port : a->dram.statistics) {
    hwgen::PortStatistics cleared{};
    cleared.reads_outstanding = cleared.reads_outstanding_max = port.reads_outstanding;
    cleared.writes_outstanding = cleared.writes_outstanding_max = port.writes_outstanding;
    cleared.read_bytes_in_flight = cleared.read_bytes_in_flight_max = port.read_bytes_in_flight;
    port = cleared;
  }
}

static RecordLog& log_of(Accelerator* a, int violations) { return violations ? a->dram.violations : a->dram.errors; }
uint64_t accelerator_record_total(Accelerator* a, int violations) { return log_of(a, violations).total(); }
uint64_t accelerator_record_count(Accelerator* a, int violations) { return log_of(a, violations).entries().size(); }
void accelerator_clear_records(Accelerator* a, int violations) { log_of(a, violations).clear(); }
const char* accelerator_record(Accelerator* a, int violations, uint64_t index, uint64_t* cycle, uint32_t* port) {
  const hwgen::Record& record = log_of(a, violations).entries()[index];
  *cycle = record.cycle;
  *port = record.port;
  return record.text.c_str();
}

}  // extern "C"
