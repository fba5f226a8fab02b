// The Verilated accelerator, its memory and its register port, one clock cycle at a time.
//
// `binding.hpp` is generated with the library; it includes the Verilated class and defines
//   HWGEN_PORTS, HWGEN_PORT_BYTES   memory ports and their width
//   HWGEN_EACH_PORT(X)              X(0, m00_axi_) X(1, m01_axi_) ...
//   HWGEN_EACH_PROBE(X)             X(index, name, depth, word_bits, word_bytes, lanes) ...
//   HWGEN_RETIRE, HWGEN_TRACE, HWGEN_POKE   0 or 1: retire probe present, waves and fault injection compiled in
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "binding.hpp"
#include "dram.hpp"
#include "mirror.hpp"
#if HWGEN_TRACE
#include "verilated_fst_c.h"
#endif

namespace hwgen {

enum class Stop : uint32_t { kBudget = 0, kIrq = 1, kRetire = 2, kNoProgress = 3, kRegister = 4, kBusError = 5 };

class Accelerator {
 public:
  Accelerator(uint64_t base, uint64_t bytes, int32_t noise);  // noise: seed, 0 for none
  ~Accelerator();

  void reset(uint64_t cycles);
  void drop_outstanding();
  void step();
  Stop run(uint64_t max_cycles, uint64_t max_idle_cycles, bool until_irq, bool until_retire);
  Stop write_register(uint32_t offset, uint32_t value, uint64_t max_cycles);
  Stop read_register(uint32_t offset, uint32_t* value, uint64_t max_cycles);
  Stop run_until_register(uint32_t offset, uint32_t mask, uint32_t value, uint64_t interval, uint64_t max_cycles,
                          uint64_t max_idle_cycles);

  // XORs bit `bit` of element `element` (0 for a register) after each rising edge of [from, from + cycles); false if
  // there is no such bit. With `cycles` 0 the bit flips once, now.
  bool flip(const char* path, uint64_t element, uint32_t bit, uint64_t from, uint64_t cycles);
  std::string public_names() const;  // one a line
  // XORs `mask` into byte `lane` of every read word that `port` brings, from now on; 0 ends it.
  void corrupt_lane(uint32_t port, uint32_t lane, uint8_t mask) { lane_faults_[port][lane] = mask; }
  bool trace(const char* file, uint64_t from, uint64_t to);  // waves of cycles [from, to)

  uint64_t cycle = 0;
  uint64_t retired = 0;       // retire strobes so far
  uint64_t retire_index = 0;  // of the latest
  bool irq() const { return model_->irq != 0; }
  void forget_idle() { last_progress_ = cycle; }
  Dram dram;
  std::vector<Mirror> mirrors;

 private:
  // What the register port's slave side showed at the last rising edge.
  struct RegisterPort {
    bool awready, wready, bvalid, arready, rvalid;
    uint32_t bresp, rresp, rdata;
  };
  struct Fault {
    uint8_t* byte;
    uint8_t mask;
    uint64_t from;
    uint64_t to;
  };

  void drive();
  void sample();
  void watch_probes();
  void dump(uint64_t half);

  std::unique_ptr<VerilatedContext> context_;
  std::unique_ptr<HWGEN_MODEL> model_;
  MasterSignals masters_[HWGEN_PORTS];
  SlaveSignals slaves_[HWGEN_PORTS];
  RegisterPort registers_{};
  uint64_t probe_writes_ = 0;
  uint64_t progress_ = 0;
  uint64_t last_progress_ = 0;
  std::vector<Fault> faults_;
  uint8_t lane_faults_[HWGEN_PORTS][HWGEN_PORT_BYTES] = {};
#if HWGEN_TRACE
  std::unique_ptr<VerilatedFstC> waves_;
  std::string wave_file_;
  uint64_t wave_from_ = 0;
  uint64_t wave_to_ = 0;
#endif
};

}  // namespace hwgen
