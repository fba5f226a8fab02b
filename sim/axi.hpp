// The signals of one AXI4 port as plain values, seen at a rising clock edge.
#pragma once

#include <cstdint>

namespace hwgen {

constexpr uint32_t kMaxPortBytes = 16;
constexpr uint32_t kPageBytes = 4096;  // no AXI burst may cross a boundary of this size
constexpr uint8_t kBurstIncrementing = 1;
constexpr uint8_t kRespOkay = 0;
constexpr uint8_t kRespDecodeError = 3;

struct AddressChannel {
  uint64_t addr = 0;
  uint8_t id = 0;
  uint8_t len = 0;  // beats - 1
  uint8_t size = 0;  // log2 of the bytes in a beat
  uint8_t burst = 0;
  bool valid = false;

  bool same_payload(const AddressChannel& other) const {
    return addr == other.addr && id == other.id && len == other.len && size == other.size && burst == other.burst;
  }
  uint32_t beats() const { return uint32_t(len) + 1; }
  uint64_t beat_address(uint32_t beat) const {
    return ((addr >> size) + beat) << size;  // only the first beat of a burst may be unaligned
  }
};

struct WriteDataChannel {
  alignas(16) uint8_t data[kMaxPortBytes] = {};
  uint32_t strb = 0;
  bool last = false;
  bool valid = false;
};

// What the accelerator drives.
struct MasterSignals {
  AddressChannel ar;
  AddressChannel aw;
  WriteDataChannel w;
  bool rready = false;
  bool bready = false;
};

// What the memory drives; each is a function of earlier edges only, never of the same cycle's inputs.
struct SlaveSignals {
  alignas(16) uint8_t rdata[kMaxPortBytes] = {};
  bool arready = false;
  bool awready = false;
  bool wready = false;
  bool rvalid = false;
  bool rlast = false;
  uint8_t rid = 0;
  uint8_t rresp = 0;
  bool bvalid = false;
  uint8_t bid = 0;
  uint8_t bresp = 0;
};

}  // namespace hwgen
