// The DDR controller inside `Dram`: which chunk goes over the shared data bus next, and when.
#include <algorithm>

#include "dram.hpp"

namespace hwgen {

void Dram::schedule() {
  refresh();
  if (timing_.cpu_bytes_per_cycle > 0) ask_for_cpu();
  bool unlimited = timing_.bytes_per_cycle == 0;
  while ((unserved_reads_ || unserved_writes_ || !cpu_reads_.empty()) &&
         (unlimited || bus_free_ < double(now_ + timing_.scheduling_window))) {
    if (!cpu_reads_.empty() && serve_cpu()) continue;
    bool write = pick_direction();
    gather(write);
    if (heads_.empty() && unserved_writes_ && !write) {  // no read is here yet, or each waits for room in its port's FIFO
      write = true;
      gather(write);
    }
    open_cpu_rows();
    open_rows();
    const Head* next = first_ready();
    if (!next) return;
    serve(*next, write);
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
    cpu_reads_.push_back({random() % ((uint64_t(1) << 32) / kBurstBytes), now_, kNever});
}

// As `open_rows`; the bank is the read's until it is served.
void Dram::open_cpu_rows() {
  for (CpuRead& read : cpu_reads_) {
    if (read.opened != kNever) continue;
    uint64_t row = row_of(read.burst * kBurstBytes);
    Bank& bank = bank_of(row, read.burst);
    bool patient = now_ - read.arrival < timing_.row_patience;
    if (bank.row != row && (patient || !bank.used) && is_needed(bank)) continue;
    read.opened = bank.row == row ? bank.opened : open_row(bank, row);
    bank.free = std::max(bank.free, read.opened + kBurstBytes / timing_.bytes_per_cycle);
  }
}

bool Dram::serve_cpu() {
  double now = std::max(bus_free_, double(now_));
  auto read = std::find_if(cpu_reads_.begin(), cpu_reads_.end(), [&](const CpuRead& r) { return r.opened <= now; });
  if (read == cpu_reads_.end()) return false;
  transfer(read->burst, 1, read->opened, false);
  cpu_reads_.erase(read);
  cpu_bytes_ += kBurstBytes;
  return true;
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

// The chunks that the controller may serve next, one a port: groups in turn, and in a group its ports.
void Dram::gather(bool write) {
  heads_.clear();
  for (uint32_t offset = 1; offset <= groups_.size(); ++offset) {
    uint32_t number = (last_group_ + offset) % uint32_t(groups_.size());
    const Group& group = groups_[number];
    uint32_t members = uint32_t(group.ports.size());
    for (uint32_t step = 1; step <= members; ++step) {
      uint32_t turn = (group.turn + step) % members;
      Port& port = ports_[group.ports[turn]];
      Transaction* transaction = candidate(port, write);
      if (!transaction) continue;
      uint64_t first = transaction->chunk_begin(transaction->served) / kBurstBytes;
      uint64_t last = (transaction->chunk_end(transaction->served) - 1) / kBurstBytes;
      uint64_t bursts = last - first + 1;  // the bus moves whole DDR bursts even for a few bytes
      uint64_t row = row_of(first * kBurstBytes);
      uint64_t here = write ? transaction->arrival : transaction->ready[transaction->served];
      heads_.push_back({number, turn, &port, transaction, row, first, bursts, std::min(bursts, timing_.bank_groups),
                        std::max(port.served_at, here)});
    }
  }
}

bool Dram::is_open(const Head& head) {
  for (uint64_t burst = head.first; burst < head.first + head.banks; ++burst)
    if (bank_of(head.row, burst).row != head.row) return false;
  return true;
}

bool Dram::is_needed(const Bank& bank) {
  return std::any_of(heads_.begin(), heads_.end(), [&](const Head& head) { return head.row == bank.row && is_open(head); });
}

// Rows are opened as soon as chunks are here that need them, while others use the bus. A row that a chunk still needs stays
// open until it has been used and the chunk that needs another row of that bank has waited too long.
void Dram::open_rows() {
  if (timing_.bytes_per_cycle == 0) return;
  for (const Head& head : heads_) {
    bool patient = now_ - head.since < timing_.row_patience;
    for (uint64_t burst = head.first; burst < head.first + head.banks; ++burst) {
      Bank& bank = bank_of(head.row, burst);
      if (bank.row == head.row) continue;
      if ((patient || !bank.used) && is_needed(bank)) break;
      open_row(bank, head.row);
    }
  }
}

// When the first data of `row` may cross the bus, its bank having to close another one. Activates are counted at that time,
// which is tRCD behind them all.
double Dram::open_row(Bank& bank, uint64_t row) {
  double opened = std::max(bank.free, double(now_)) + timing_.row_miss_cycles;
  opened = std::max(opened, bank.opened + timing_.row_cycle);
  if (timing_.four_activates > 0) opened = std::max(opened, activates_[oldest_activate_] + timing_.four_activates);
  activates_[oldest_activate_] = opened;
  oldest_activate_ = (oldest_activate_ + 1) % 4;
  bank.row = row;
  bank.opened = opened;
  bank.used = false;
  return opened;
}

// The chunk whose data can be on the bus first; none where that is too far ahead.
const Dram::Head* Dram::first_ready() {
  const Head* chosen = nullptr;
  double earliest = double(now_ + timing_.scheduling_window);
  for (const Head& head : heads_) {
    double start = std::max(bus_free_, double(now_));
    if (timing_.bytes_per_cycle > 0) {
      if (!is_open(head)) continue;
      start = std::max(start, opened(head));
    }
    if (chosen ? start < earliest : start <= earliest) {
      chosen = &head;
      earliest = start;
    }
  }
  return chosen;
}

double Dram::opened(const Head& head) {
  double last = 0;
  for (uint64_t burst = head.first; burst < head.first + head.banks; ++burst)
    last = std::max(last, bank_of(head.row, burst).opened);
  return last;
}

// Moves bursts of a row that is open from `opened` on over the data bus: when they start.
double Dram::transfer(uint64_t first, uint64_t bursts, double opened, bool write) {
  bool turned = write != writing_;
  if (turned) {
    writing_ = write;
    batch_left_ = 2 * timing_.write_batch_bytes;
  }
  if (timing_.bytes_per_cycle == 0) return double(now_);
  double start = std::max({bus_free_, double(now_), opened});
  if (turned)
    start += timing_.turnaround_cycles;
  else if (timing_.bank_groups > 1 && (first - last_burst_) % timing_.bank_groups == 0)
    start += timing_.same_group_cycles;  // bursts lie in the bank groups in turn
  bus_free_ = start + double(bursts * kBurstBytes) / timing_.bytes_per_cycle;
  last_burst_ = first + bursts - 1;
  return start;
}

void Dram::serve(const Head& head, bool write) {
  Port& port = *head.port;
  Transaction& transaction = *head.transaction;
  Group& group = groups_[head.group];
  uint64_t bytes = transaction.chunk_end(transaction.served) - transaction.chunk_begin(transaction.served);
  double finished = transfer(head.first, head.bursts, opened(head), write);
  for (uint64_t burst = head.first; burst < head.first + head.banks; ++burst) {
    Bank& bank = bank_of(head.row, burst);
    bank.free = std::max(bank.free, bus_free_);
    bank.used = true;
  }
  if (timing_.group_bytes_per_cycle > 0) {
    double& link_free = write ? group.write_link_free : group.read_link_free;
    finished = std::max(finished, link_free);
    link_free = finished + double(bytes) / timing_.group_bytes_per_cycle;
  }
  uint64_t jitter = timing_.latency_jitter ? random() % (timing_.latency_jitter + 1) : 0;
  uint64_t latency = write ? timing_.write_latency : timing_.read_latency;
  transaction.done[transaction.served++] = uint64_t(finished) + latency + jitter;

  bool last = transaction.served == transaction.chunks;
  if (write) {
    batch_left_ -= std::min(batch_left_, bytes);
    unserved_write_bytes_ -= bytes;
    if (last) {
      ++port.next_write;
      --unserved_writes_;
    }
  } else if (last) {
    ++port.next_read;
    --unserved_reads_;
  }
  port.served_at = now_;
  last_group_ = head.group;
  group.turn = head.turn;
}

}  // namespace hwgen
