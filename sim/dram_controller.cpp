// The DDR controller inside `Dram`: which chunk goes over the shared data bus next, and when.
#include <algorithm>

#include "dram.hpp"

namespace hwgen {

namespace {
// Chunks that may go to open rows before the oldest transaction gets its turn.
constexpr uint32_t kMaxHitStreak = 16;
}  // namespace

void Dram::schedule() {
  refresh();
  if (timing_.cpu_bytes_per_cycle > 0) ask_for_cpu();
  bool unlimited = timing_.bytes_per_cycle == 0;
  while ((unserved_reads_ || unserved_writes_ || !cpu_reads_.empty()) &&
         (unlimited || bus_free_ < double(now_ + timing_.scheduling_window))) {
    if (!cpu_reads_.empty()) {
      serve_cpu();
      continue;
    }
    bool write = pick_direction();
    Pick pick = pick_transaction(write);
    if (!pick.transaction && unserved_writes_ && !write) {  // no read is here yet, or each waits for room in its port's FIFO
      write = true;
      pick = pick_transaction(write);
    }
    if (!pick.transaction) return;
    serve(pick, write);
  }
}

void Dram::refresh() {
  if (now_ < next_refresh_) return;
  bus_free_ = std::max(bus_free_, double(now_)) + double(timing_.refresh_cycles);
  for (Bank& bank : banks_) bank.row = kNotServed;
  next_refresh_ += timing_.refresh_interval;
}

// The other master reads 64 bytes anywhere, at random times, as often as gives its rate.
void Dram::ask_for_cpu() {
  if (cpu_reads_.size() < kCpuQueue && chance(timing_.cpu_bytes_per_cycle / kBurstBytes))
    cpu_reads_.push_back({random() % (uint64_t(1) << 32) / kBurstBytes * kBurstBytes, now_});
}

void Dram::serve_cpu() {
  CpuRead read = cpu_reads_.front();
  cpu_reads_.pop_front();
  transfer(read.address, read.address + kBurstBytes, read.ready, false);
  cpu_bytes_ += kBurstBytes;
}

// Writes wait until a batch is worth the turnaround, has waited too long, or nothing else is to be done.
bool Dram::pick_direction() {
  if (!unserved_writes_) return false;
  if (!unserved_reads_) return true;
  if (writing_) return batch_left_ > 0;
  if (unserved_write_bytes_ >= timing_.write_batch_bytes) return true;
  for (const Port& port : ports_)
    if (port.next_write < port.next_data && port.writes[port.next_write]->arrival + timing_.write_patience < now_)
      return true;
  return false;
}

// The transaction of a port whose next chunk the controller may serve now.
Dram::Transaction* Dram::candidate(Port& port, bool write) const {
  if (write) return port.next_write < port.next_data ? port.writes[port.next_write] : nullptr;
  if (port.next_read >= port.reads.size()) return nullptr;
  Transaction* read = port.reads[port.next_read];
  return read->served < read->issued && read->ready[read->served] <= now_ ? read : nullptr;
}

// First ready, first come: open rows first, groups in turn and in a group its ports. When open rows have had it their way for
// long enough, the oldest transaction is next; without an open row, the one whose bank is free first.
Dram::Pick Dram::pick_transaction(bool write) {
  Pick hit;
  Pick earliest;
  Pick oldest;
  double earliest_free = 0;
  for (uint32_t offset = 1; offset <= groups_.size(); ++offset) {
    uint32_t number = (last_group_ + offset) % uint32_t(groups_.size());
    const Group& group = groups_[number];
    uint32_t members = uint32_t(group.ports.size());
    for (uint32_t step = 1; step <= members; ++step) {
      uint32_t turn = (group.turn + step) % members;
      Port& port = ports_[group.ports[turn]];
      Pick pick{number, turn, &port, candidate(port, write)};
      if (!pick.transaction) continue;
      uint64_t row = row_of(pick.transaction->chunk_begin(pick.transaction->served));
      const Bank& bank = bank_of(row);
      if (bank.row == row && !hit.transaction) hit = pick;
      if (!earliest.transaction || bank.free < earliest_free) {
        earliest = pick;
        earliest_free = bank.free;
      }
      if (!oldest.transaction || pick.transaction->arrival < oldest.transaction->arrival) oldest = pick;
    }
  }
  if (!hit.transaction) return earliest;
  if (hit_streak_++ < kMaxHitStreak) return hit;
  hit_streak_ = 0;
  return oldest;
}

// When the first data of `row` may cross the bus, its bank having to close another one. Activates are counted at that time,
// which is tRCD behind them all.
double Dram::open_row(Bank& bank, uint64_t row, uint64_t ready) {
  double known = timing_.open_ahead ? double(ready) : double(now_);
  double opened = std::max(bank.free, known) + timing_.row_miss_cycles;
  opened = std::max(opened, bank.opened + timing_.row_cycle);
  uint32_t groups = uint32_t(timing_.bank_groups);  // one activate in each
  uint32_t last = (oldest_activate_ + groups - 1) % 4;  // the fourth activate before the last of these
  if (timing_.four_activates > 0) opened = std::max(opened, activates_[last] + timing_.four_activates);
  for (uint32_t group = 0; group < groups; ++group) {
    activates_[oldest_activate_] = opened;
    oldest_activate_ = (oldest_activate_ + 1) % 4;
  }
  bank.row = row;
  bank.opened = opened;
  return opened;
}

// Moves the bytes from `begin` to `end`, of one row, over the data bus; when they start. The controller has known of
// them since `ready`.
double Dram::transfer(uint64_t begin, uint64_t end, uint64_t ready, bool write) {
  bool turned = write != writing_;
  if (turned) {
    writing_ = write;
    batch_left_ = 2 * timing_.write_batch_bytes;
  }
  if (timing_.bytes_per_cycle == 0) return double(now_);
  // The bus moves whole DDR bursts even for a few bytes.
  uint64_t first = begin / kBurstBytes;
  uint64_t behind = (end + kBurstBytes - 1) / kBurstBytes;
  uint64_t row = row_of(begin);
  Bank& bank = bank_of(row);
  double start = std::max(bus_free_, double(now_));
  if (turned)
    start += timing_.turnaround_cycles;
  else if (timing_.bank_groups > 1 && (first - last_burst_) % timing_.bank_groups == 0)
    start += timing_.same_group_cycles;  // bursts lie in the bank groups in turn
  if (bank.row != row) start = std::max(start, open_row(bank, row, ready));
  bus_free_ = bank.free = start + double((behind - first) * kBurstBytes) / timing_.bytes_per_cycle;
  last_burst_ = behind - 1;
  return start;
}

void Dram::serve(const Pick& pick, bool write) {
  Port& port = *pick.port;
  Transaction& transaction = *pick.transaction;
  Group& group = groups_[pick.group];
  uint64_t begin = transaction.chunk_begin(transaction.served);
  uint64_t end = transaction.chunk_end(transaction.served);
  double finished = transfer(begin, end, write ? now_ : transaction.ready[transaction.served], write);
  if (timing_.group_bytes_per_cycle > 0) {
    double& link_free = write ? group.write_link_free : group.read_link_free;
    finished = std::max(finished, link_free);
    link_free = finished + double(end - begin) / timing_.group_bytes_per_cycle;
  }
  uint64_t jitter = timing_.latency_jitter ? random() % (timing_.latency_jitter + 1) : 0;
  uint64_t latency = write ? timing_.write_latency : timing_.read_latency;
  transaction.done[transaction.served++] = uint64_t(finished) + latency + jitter;

  bool last = transaction.served == transaction.chunks;
  if (write) {
    batch_left_ -= std::min(batch_left_, end - begin);
    unserved_write_bytes_ -= end - begin;
    if (last) {
      ++port.next_write;
      --unserved_writes_;
    }
  } else if (last) {
    ++port.next_read;
    --unserved_reads_;
  }
  last_group_ = pick.group;
  group.turn = pick.turn;
}

}  // namespace hwgen
