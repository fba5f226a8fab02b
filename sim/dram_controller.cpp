// The DDR controller inside `Dram`: which chunk goes over the shared data bus next, and when.
#include <algorithm>

#include "dram.hpp"

namespace hwgen {

namespace {
// Chunks that may go to open rows before the oldest transaction gets its turn.
constexpr uint32_t kMaxHitStreak = 16;
}  // namespace

void Dram::schedule() {
  if (now_ >= next_refresh_) {
    bus_free_ = std::max(bus_free_, double(now_)) + double(timing_.refresh_cycles);
    for (Bank& bank : banks_) bank.row = kNotServed;
    next_refresh_ += timing_.refresh_interval;
  }
  bool unlimited = timing_.bytes_per_cycle == 0;
  while ((unserved_reads_ || unserved_writes_) &&
         (unlimited || bus_free_ < double(now_ + timing_.scheduling_window))) {
    bool write = pick_direction();
    Pick pick = pick_transaction(write);
    if (!pick.transaction && unserved_writes_ && !write) {  // every read waits for room in its port's buffer
      write = true;
      pick = pick_transaction(write);
    }
    if (!pick.transaction) return;
    serve(pick, write);
  }
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

// First ready, first come: open rows first, ports in turn. When open rows have had it their way for long enough, the
// oldest transaction is next; without an open row, the one whose bank is free first.
Dram::Pick Dram::pick_transaction(bool write) {
  Pick hit;
  Pick earliest;
  Pick oldest;
  double earliest_free = 0;
  for (uint32_t offset = 1; offset <= port_count_; ++offset) {
    uint32_t index = (last_port_ + offset) % port_count_;
    Port& port = ports_[index];
    Transaction* candidate;
    if (write) {
      if (port.next_write >= port.next_data) continue;
      candidate = port.writes[port.next_write];
    } else {
      if (port.next_read >= port.reads.size() || port.buffered_bytes >= timing_.read_buffer_bytes) continue;
      candidate = port.reads[port.next_read];
    }
    uint64_t row = (candidate->address.addr / kChunkBytes + candidate->served) * kChunkBytes / timing_.row_bytes;
    const Bank& bank = banks_[bank_of(row)];
    if (bank.row == row && !hit.transaction) hit = {index, candidate};
    if (!earliest.transaction || bank.free < earliest_free) {
      earliest = {index, candidate};
      earliest_free = bank.free;
    }
    if (!oldest.transaction || candidate->arrival < oldest.transaction->arrival) oldest = {index, candidate};
  }
  if (!hit.transaction) return earliest;
  if (hit_streak_++ < kMaxHitStreak) return hit;
  hit_streak_ = 0;
  return oldest;
}

void Dram::serve(const Pick& pick, bool write) {
  Port& port = ports_[pick.port];
  Transaction& transaction = *pick.transaction;
  const AddressChannel& address = transaction.address;
  uint64_t first = address.beat_address(0);
  uint64_t end = address.beat_address(address.len) + (uint64_t(1) << address.size);
  uint64_t chunk = (address.addr / kChunkBytes + transaction.served) * kChunkBytes;
  uint64_t begin = std::max(first, chunk);
  uint64_t stop = std::min(end, chunk + kChunkBytes);

  double finished = double(now_);
  if (timing_.bytes_per_cycle > 0) {
    uint64_t row = chunk / timing_.row_bytes;
    Bank& bank = banks_[bank_of(row)];
    double start = std::max(bus_free_, double(now_));
    if (write != writing_) start += double(timing_.turnaround_cycles);
    if (bank.row != row) {
      double activated = std::max(bank.free, double(now_)) + double(timing_.row_miss_cycles);
      start = std::max(start, activated);
      bank.row = row;
    }
    // The bus moves whole DDR bursts even for a few bytes.
    uint64_t moved = (stop + kBurstBytes - 1) / kBurstBytes * kBurstBytes - begin / kBurstBytes * kBurstBytes;
    finished = start;
    bus_free_ = bank.free = start + double(moved) / timing_.bytes_per_cycle;
  }
  if (write != writing_) {
    writing_ = write;
    batch_left_ = 2 * timing_.write_batch_bytes;
  }
  uint64_t jitter = timing_.latency_jitter ? random() % (timing_.latency_jitter + 1) : 0;
  uint64_t latency = write ? timing_.write_latency : timing_.read_latency;
  transaction.done[transaction.served++] = uint64_t(finished) + latency + jitter;

  bool last = transaction.served == transaction.chunks;
  if (write) {
    batch_left_ -= std::min(batch_left_, stop - begin);
    unserved_write_bytes_ -= stop - begin;
    if (last) {
      ++port.next_write;
      --unserved_writes_;
    }
  } else {
    port.buffered_bytes += stop - begin;
    if (last) {
      ++port.next_read;
      --unserved_reads_;
    }
  }
  last_port_ = pick.port;
}

}  // namespace hwgen
