#include "harness.hpp"

#include <algorithm>
#include <cstdio>

namespace hwgen {

namespace {

constexpr uint64_t kPicosecondsPerCycle = 4000;  // of the time axis in waves only: 250 MHz

template <class Signal>
bool any(const Signal& signal) {
  if constexpr (std::is_integral_v<Signal>) {
    return signal != 0;
  } else {
    return std::any_of(std::begin(signal.m_storage), std::end(signal.m_storage), [](EData word) { return word != 0; });
  }
}

template <class Signal>
const uint8_t* bytes_of(const Signal& signal) {
  return reinterpret_cast<const uint8_t*>(&signal);
}

}  // namespace

Accelerator::Accelerator(uint64_t base, uint64_t bytes, int32_t noise)
    : dram(HWGEN_PORTS, HWGEN_PORT_BYTES, base, bytes), context_(std::make_unique<VerilatedContext>()) {
#if HWGEN_TRACE
  context_->traceEverOn(true);
#endif
  Verilated::threadContextp(context_.get());
  if (noise) {
    context_->randReset(2);  // what has no first value gets noise
    context_->randSeed(noise);
  }
  model_ = std::make_unique<HWGEN_MODEL>(context_.get(), "TOP");
#define HWGEN_MIRROR(index, name, depth, word_bits, word_bytes, lanes) \
  mirrors.emplace_back(#name, depth, word_bits, word_bytes, lanes);
  HWGEN_EACH_PROBE(HWGEN_MIRROR)
#undef HWGEN_MIRROR
}

Accelerator::~Accelerator() {
#if HWGEN_TRACE
  if (waves_) waves_->close();
#endif
  // The model's destructor looks its scopes up in the thread's current context, which may be another accelerator's.
  Verilated::threadContextp(context_.get());
  model_->final();
  model_.reset();
}

void Accelerator::drive() {
#define HWGEN_DRIVE(index, prefix)                                     \
  {                                                                    \
    const SlaveSignals& s = slaves_[index];                            \
    model_->prefix##arready = s.arready;                               \
    model_->prefix##awready = s.awready;                               \
    model_->prefix##wready = s.wready;                                 \
    model_->prefix##rvalid = s.rvalid;                                 \
    model_->prefix##rlast = s.rlast;                                   \
    model_->prefix##rid = s.rid;                                       \
    model_->prefix##rresp = s.rresp;                                   \
    model_->prefix##bvalid = s.bvalid;                                 \
    model_->prefix##bid = s.bid;                                       \
    model_->prefix##bresp = s.bresp;                                   \
    static_assert(sizeof(model_->prefix##rdata) == HWGEN_PORT_BYTES);  \
    uint8_t word[HWGEN_PORT_BYTES];                                    \
    for (int i = 0; i < HWGEN_PORT_BYTES; ++i)                         \
      word[i] = s.rdata[i] ^ lane_faults_[index][i];                   \
    memcpy(&model_->prefix##rdata, word, HWGEN_PORT_BYTES);            \
  }
  HWGEN_EACH_PORT(HWGEN_DRIVE)
#undef HWGEN_DRIVE
}

void Accelerator::sample() {
#define HWGEN_ADDRESS(channel, prefix)      \
  channel.valid = model_->prefix##valid;    \
  if (channel.valid) {                      \
    channel.addr = model_->prefix##addr;    \
    channel.id = model_->prefix##id;        \
    channel.len = model_->prefix##len;      \
    channel.size = model_->prefix##size;    \
    channel.burst = model_->prefix##burst;  \
  }
#define HWGEN_SAMPLE(index, prefix)                               \
  {                                                               \
    MasterSignals& m = masters_[index];                           \
    HWGEN_ADDRESS(m.ar, prefix##ar)                               \
    HWGEN_ADDRESS(m.aw, prefix##aw)                               \
    m.w.valid = model_->prefix##wvalid;                           \
    if (m.w.valid) {                                              \
      memcpy(m.w.data, &model_->prefix##wdata, HWGEN_PORT_BYTES); \
      m.w.strb = model_->prefix##wstrb;                           \
      m.w.last = model_->prefix##wlast;                           \
    }                                                             \
    m.rready = model_->prefix##rready;                            \
    m.bready = model_->prefix##bready;                            \
  }
  HWGEN_EACH_PORT(HWGEN_SAMPLE)
#undef HWGEN_SAMPLE
#undef HWGEN_ADDRESS
  registers_.awready = model_->s_axi_awready;
  registers_.wready = model_->s_axi_wready;
  registers_.bvalid = model_->s_axi_bvalid;
  registers_.bresp = model_->s_axi_bresp;
  registers_.arready = model_->s_axi_arready;
  registers_.rvalid = model_->s_axi_rvalid;
  registers_.rresp = model_->s_axi_rresp;
  registers_.rdata = model_->s_axi_rdata;
}

void Accelerator::watch_probes() {
#define HWGEN_WATCH(index, name, depth_, word_bits, word_bytes, lanes)                               \
  if (any(model_->probe_##name##_valid)) {                                                           \
    uint64_t address = model_->probe_##name##_addr;                                                  \
    ++probe_writes_;                                                                                 \
    if (address < depth_)                                                                            \
      mirrors[index].write(bytes_of(model_->probe_##name##_valid), address,                          \
                           bytes_of(model_->probe_##name##_data));                                   \
    else                                                                                             \
      dram.errors.add(cycle, ~0u, "probe " #name " writes at " + std::to_string(address) + ", beyond its depth"); \
  }
  HWGEN_EACH_PROBE(HWGEN_WATCH)
#undef HWGEN_WATCH
#if HWGEN_RETIRE
  if (model_->probe_retire_valid) {
    ++retired;
    retire_index = model_->probe_retire_index;
  }
#endif
}

void Accelerator::dump(uint64_t half) {
#if HWGEN_TRACE
  if (wave_to_ == 0) return;
  if (!waves_ && cycle >= wave_from_ && cycle < wave_to_) {
    waves_ = std::make_unique<VerilatedFstC>();
    model_->trace(waves_.get(), 99);
    waves_->open(wave_file_.c_str());
  }
  if (!waves_) return;
  if (cycle < wave_to_) {
    waves_->dump(cycle * kPicosecondsPerCycle + half * (kPicosecondsPerCycle / 2));
  } else {
    waves_->close();
    waves_.reset();
    wave_to_ = 0;
  }
#else
  (void)half;
#endif
}

void Accelerator::step() {
  Verilated::threadContextp(context_.get());  // whose noise a design asks for; several accelerators share a thread
  // Low phase: this cycle's inputs settle through the combinational logic; the values now are those at the rising edge.
  drive();
  model_->clk = 0;
  model_->eval();
  dump(1);
  sample();
  bool in_reset = model_->rst;
  if (!in_reset) watch_probes();

  model_->clk = 1;
  model_->eval();
  if (!in_reset) dram.edge(cycle, masters_, slaves_);
  uint64_t progress = dram.handshakes() + probe_writes_ + retired;
  if (progress != progress_) {
    progress_ = progress;
    last_progress_ = cycle;
  }
  if (!faults_.empty()) {
    for (const Fault& fault : faults_)
      if (cycle >= fault.from && cycle < fault.to) *fault.byte ^= fault.mask;
    model_->eval();  // outputs show the fault from here on
    faults_.erase(std::remove_if(faults_.begin(), faults_.end(), [&](const Fault& f) { return cycle + 1 >= f.to; }),
                  faults_.end());
  }
  ++cycle;
  dump(0);
}

void Accelerator::reset(uint64_t cycles) {
  model_->rst = 1;
  model_->s_axi_awvalid = model_->s_axi_wvalid = model_->s_axi_arvalid = 0;
  model_->s_axi_bready = model_->s_axi_rready = 0;
  dram.reset();
  for (uint64_t i = 0; i < cycles; ++i) step();
  model_->rst = 0;
  forget_idle();
}

void Accelerator::drop_outstanding() {
  std::fill(std::begin(slaves_), std::end(slaves_), SlaveSignals{});
  dram.drop();
}

Stop Accelerator::run(uint64_t max_cycles, uint64_t max_idle_cycles, bool until_irq, bool until_retire) {
  if (until_irq && irq()) return Stop::kIrq;
  for (uint64_t i = 0; i < max_cycles; ++i) {
    uint64_t before = retired;
    step();
    if (until_retire && retired != before) return Stop::kRetire;
    if (until_irq && irq()) return Stop::kIrq;
    if (max_idle_cycles && cycle - last_progress_ > max_idle_cycles) return Stop::kNoProgress;
  }
  return Stop::kBudget;
}

Stop Accelerator::write_register(uint32_t offset, uint32_t value, uint64_t max_cycles) {
  model_->s_axi_awaddr = offset;
  model_->s_axi_awvalid = 1;
  model_->s_axi_wdata = value;
  model_->s_axi_wstrb = 0xF;
  model_->s_axi_wvalid = 1;
  model_->s_axi_bready = 1;
  Stop result = Stop::kBudget;
  for (uint64_t i = 0; i < max_cycles && result == Stop::kBudget; ++i) {
    step();
    if (registers_.awready) model_->s_axi_awvalid = 0;
    if (registers_.wready) model_->s_axi_wvalid = 0;
    if (registers_.bvalid) result = registers_.bresp ? Stop::kBusError : Stop::kRegister;
  }
  model_->s_axi_awvalid = model_->s_axi_wvalid = model_->s_axi_bready = 0;
  return result;
}

Stop Accelerator::read_register(uint32_t offset, uint32_t* value, uint64_t max_cycles) {
  model_->s_axi_araddr = offset;
  model_->s_axi_arvalid = 1;
  model_->s_axi_rready = 1;
  Stop result = Stop::kBudget;
  for (uint64_t i = 0; i < max_cycles && result == Stop::kBudget; ++i) {
    step();
    if (registers_.arready) model_->s_axi_arvalid = 0;
    if (registers_.rvalid) {
      *value = registers_.rdata;
      result = registers_.rresp ? Stop::kBusError : Stop::kRegister;
    }
  }
  model_->s_axi_arvalid = model_->s_axi_rready = 0;
  return result;
}

Stop Accelerator::run_until_register(uint32_t offset, uint32_t mask, uint32_t value, uint64_t interval,
                                     uint64_t max_cycles, uint64_t max_idle_cycles) {
  uint64_t end = cycle + max_cycles;
  while (cycle < end) {
    uint32_t read = 0;
    Stop stop = read_register(offset, &read, end - cycle);
    if (stop != Stop::kRegister) return stop;
    if ((read & mask) == value) return Stop::kRegister;
    if (cycle >= end) break;
    stop = run(std::min(interval, end - cycle), max_idle_cycles, false, false);
    if (stop != Stop::kBudget) return stop;
  }
  return Stop::kBudget;
}

bool Accelerator::trace(const char* file, uint64_t from, uint64_t to) {
#if HWGEN_TRACE
  if (waves_) waves_->close();
  waves_.reset();
  wave_file_ = file;
  wave_from_ = from;
  wave_to_ = to;
  return true;
#else
  (void)file, (void)from, (void)to;
  return false;
#endif
}

}  // namespace hwgen
