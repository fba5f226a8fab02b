// Streaming readers on the memory model, without a design: what its ports sustain. port_rate.py calls this through ctypes.
#include <algorithm>
#include <vector>

#include "dram.hpp"

namespace {

// One port of the weight stream: bursts one after the other, as many in flight as allowed and as the ring has room for.
struct Reader {
  uint64_t address = 0;
  uint64_t asked = 0;     // words
  uint64_t received = 0;  // words
  uint32_t in_flight = 0;
};

}  // namespace

// Words that each port delivers in a cycle, on average over `words` of every port. The words of all ports are taken together,
// one of each a cycle; `ring_words` of a port may wait.
extern "C" double port_rate(const hwgen::DramTiming* timing, uint32_t ports, uint32_t port_bytes, const uint64_t* bases,
                            uint64_t memory_bytes, uint32_t burst, uint32_t outstanding, uint64_t ring_words,
                            uint64_t words) {
  hwgen::Dram dram(ports, port_bytes, 0, memory_bytes);
  dram.set_timing(*timing);
  std::vector<Reader> readers(ports);
  std::vector<hwgen::MasterSignals> masters(ports);
  std::vector<hwgen::SlaveSignals> slaves(ports);
  for (uint32_t port = 0; port < ports; ++port) readers[port].address = bases[port];
  uint64_t taken = 0;
  uint64_t cycle = 0;
  for (; taken < words; ++cycle) {
    uint64_t complete = ~uint64_t(0);
    for (uint32_t port = 0; port < ports; ++port) {
      Reader& reader = readers[port];
      hwgen::MasterSignals& master = masters[port];
      const hwgen::SlaveSignals& slave = slaves[port];
      master.rready = true;
      if (!master.ar.valid && reader.in_flight < outstanding && reader.asked - taken + burst <= ring_words) {
        master.ar = {reader.address, 0, uint8_t(burst - 1), uint8_t(__builtin_ctz(port_bytes)), hwgen::kBurstIncrementing, true};
        reader.address += uint64_t(burst) * port_bytes;
        reader.asked += burst;
        ++reader.in_flight;
      }
      if (slave.rvalid) {
        ++reader.received;
        if (slave.rlast) --reader.in_flight;
      }
      complete = std::min(complete, reader.received);
    }
    std::vector<bool> accepted(ports);
    for (uint32_t port = 0; port < ports; ++port) accepted[port] = masters[port].ar.valid && slaves[port].arready;
    dram.edge(cycle, masters.data(), slaves.data());
    for (uint32_t port = 0; port < ports; ++port)
      if (accepted[port]) masters[port].ar.valid = false;
    if (taken < complete) ++taken;
  }
  return double(words) / double(cycle);
}
