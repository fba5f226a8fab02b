#include "axi_monitor.hpp"

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <utility>

namespace hwgen {

void RecordLog::add(uint64_t cycle, uint32_t port, std::string text) {
  ++total_;
  if (entries_.size() < kKept) entries_.push_back({cycle, port, std::move(text)});
}

void RecordLog::clear() {
  entries_.clear();
  total_ = 0;
}

void AxiMonitor::reset() {
  held_ar_.valid = held_aw_.valid = held_w_.valid = false;
  writes_.clear();
  early_.clear();
  write_beat_ = 0;
  orphan_cycles_ = 0;
}

void AxiMonitor::violation(uint64_t cycle, const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  log_.add(cycle, port_, text);
}

void AxiMonitor::check_address(uint64_t cycle, const char* channel, const AddressChannel& now, AddressChannel& held,
                               bool ready) {
  if (held.valid) {
    if (!now.valid)
      violation(cycle, "%sVALID fell before %sREADY", channel, channel);
    else if (!now.same_payload(held))
      violation(cycle, "%s payload changed while waiting for %sREADY (address 0x%" PRIx64 " -> 0x%" PRIx64 ")", channel,
                channel, held.addr, now.addr);
  }
  if (now.valid && ready) {
    uint32_t beat_bytes = 1u << now.size;
    uint64_t last = now.beat_address(now.len) + beat_bytes - 1;
    if (beat_bytes > port_bytes_)
      violation(cycle, "%sSIZE %u is wider than the %u-byte port", channel, now.size, port_bytes_);
    if (now.burst != kBurstIncrementing)
      violation(cycle, "%sBURST is %u, only INCR (1) is supported", channel, now.burst);
    else if (now.addr / kPageBytes != last / kPageBytes)
      violation(cycle, "%s burst crosses a 4 KB boundary (address 0x%" PRIx64 ", %u beats of %u bytes)", channel,
                now.addr, now.beats(), beat_bytes);
  }
  held.valid = now.valid && !ready;
  if (held.valid) {
    held = now;
  }
}

void AxiMonitor::check_write_data(uint64_t cycle, const MasterSignals& master, const SlaveSignals& slave) {
  const WriteDataChannel& now = master.w;
  if (held_w_.valid) {
    if (!now.valid)
      violation(cycle, "WVALID fell before WREADY");
    else if (now.last != held_w_.last || now.strb != held_w_.strb ||
             memcmp(now.data, held_w_.data, port_bytes_) != 0)
      violation(cycle, "W payload changed while waiting for WREADY");
  }
  if ((now.valid || !early_.empty()) && writes_.empty()) {
    if (++orphan_cycles_ == kOrphanDataCycles)
      violation(cycle, "more W beats than AW promised (W beats for %u cycles without an address)", kOrphanDataCycles);
  } else {
    orphan_cycles_ = 0;
  }
  held_w_.valid = now.valid && !slave.wready;
  if (held_w_.valid) held_w_ = now;
  if (!now.valid || !slave.wready) return;
  if (writes_.empty())
    early_.push_back(now);
  else
    check_write_beat(cycle, now);
}

void AxiMonitor::check_write_beat(uint64_t cycle, const WriteDataChannel& now) {
  const AddressChannel& address = writes_.front();
  uint64_t beat_address = address.beat_address(write_beat_);
  uint32_t beat_bytes = 1u << address.size;
  uint32_t lanes = beat_bytes >= port_bytes_
                       ? (1u << port_bytes_) - 1
                       : ((1u << beat_bytes) - 1) << (beat_address & (port_bytes_ - 1));
  if (now.strb & ~lanes)
    violation(cycle, "WSTRB 0x%x enables bytes outside the beat (lanes 0x%x)", now.strb, lanes);
  bool last = write_beat_ == address.len;
  if (now.last != last)
    violation(cycle, "WLAST is %d on beat %u of a burst of %u", now.last, write_beat_ + 1, address.beats());
  if (last) {
    writes_.pop_front();
    write_beat_ = 0;
  } else {
    ++write_beat_;
  }
}

void AxiMonitor::observe(uint64_t cycle, const MasterSignals& master, const SlaveSignals& slave) {
  if (master.ar.valid || held_ar_.valid) check_address(cycle, "AR", master.ar, held_ar_, slave.arready);
  if (master.w.valid || held_w_.valid || !early_.empty()) check_write_data(cycle, master, slave);
  if (master.aw.valid || held_aw_.valid) {
    check_address(cycle, "AW", master.aw, held_aw_, slave.awready);
    if (master.aw.valid && slave.awready) writes_.push_back(master.aw);
    for (; !early_.empty() && !writes_.empty(); early_.pop_front()) check_write_beat(cycle, early_.front());
  }
}

}  // namespace hwgen
