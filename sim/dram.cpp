#include "dram.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <new>

namespace hwgen {

Dram::Dram(uint32_t ports, uint32_t port_bytes, uint64_t base, uint64_t bytes)
    : statistics(ports), port_count_(ports), port_bytes_(port_bytes), base_(base), bytes_(bytes), ports_(ports) {
  // Pages are only backed by real memory once touched, so gigabytes cost nothing.
  void* region = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<uint8_t*>(region);
  for (uint32_t port = 0; port < ports; ++port) monitors_.emplace_back(port, port_bytes, violations);
}

Dram::~Dram() { munmap(memory_, bytes_); }

void Dram::set_timing(const DramTiming& timing) {
  timing_ = timing;
  random_state_ = timing.seed * 0x9E3779B97F4A7C15u + 0x1234567;
  banks_.assign(timing.banks, Bank{});
  std::fill(std::begin(activates_), std::end(activates_), -1e18);
  cpu_reads_.clear();
  groups_.clear();
  for (uint32_t number = 0; number < kMaxPorts; ++number) {
    Group group;
    for (uint32_t port = 0; port < port_count_; ++port)
      if (timing.port_groups[port % kMaxPorts] == number) group.ports.push_back(port);
    if (!group.ports.empty()) groups_.push_back(group);
  }
  last_group_ = 0;
  bus_free_ = double(now_);
  next_refresh_ = timing.refresh_interval ? now_ + timing.refresh_interval : kNotServed;
}

void Dram::reset() {
  for (AxiMonitor& monitor : monitors_) monitor.reset();
}

void Dram::drop() {
  reset();
  for (Port& port : ports_) {
    for (Queue* queue : {&port.reads, &port.writes}) {
      port.free.insert(port.free.end(), queue->begin(), queue->end());
      queue->clear();
    }
    port.next_issue = port.next_read = port.next_write = port.next_data = 0;
    port.early.clear();
    port.returning = nullptr;
  }
  for (PortStatistics& port : statistics)
    port.reads_outstanding = port.writes_outstanding = port.read_bytes_in_flight = 0;
  unserved_reads_ = unserved_writes_ = 0;
  unserved_write_bytes_ = 0;
  writing_ = false;
}

bool Dram::idle() const {
  return std::all_of(ports_.begin(), ports_.end(), [](const Port& p) { return p.reads.empty() && p.writes.empty(); });
}

uint64_t Dram::random() {  // splitmix64
  uint64_t z = (random_state_ += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

bool Dram::chance(double probability) {
  return probability >= 1.0 || double(random() >> 11) * 0x1.0p-53 < probability;
}

bool Dram::contains(const AddressChannel& address) const {
  uint64_t first = address.beat_address(0);
  uint64_t end = address.beat_address(address.len) + (uint64_t(1) << address.size);
  return first >= base_ && end <= base_ + bytes_;
}

void Dram::bus_word(uint64_t address, uint8_t* word) const {
  uint64_t aligned = address & ~uint64_t(port_bytes_ - 1);
  memcpy(word, memory_ + (aligned - base_), port_bytes_);
}

Dram::Transaction* Dram::accept(Port& port, uint32_t index, const AddressChannel& address, bool write) {
  if (port.free.empty()) {
    port.owned.push_back(std::make_unique<Transaction>());
    port.free.push_back(port.owned.back().get());
  }
  Transaction* transaction = port.free.back();
  port.free.pop_back();
  transaction->address = address;
  while ((1u << transaction->address.size) > port_bytes_) --transaction->address.size;  // reported by the monitor
  transaction->outside = !contains(transaction->address);
  transaction->arrival = now_;
  transaction->beat = 0;
  transaction->issued = transaction->served = 0;
  transaction->chunks = transaction->chunk_of(address.len) + 1;
  transaction->complete = false;
  if (write) {
    transaction->data.resize(size_t(address.beats()) * port_bytes_);
    transaction->strobes.resize(address.beats());
  }
  if (transaction->outside) {
    char text[128];
    snprintf(text, sizeof text, "%s of %u beats at 0x%" PRIx64 " is outside the memory", write ? "write" : "read",
             address.beats(), address.addr);
    errors.add(now_, index, text);
  }
  return transaction;
}

void Dram::finish(Port& port, Queue& queue, size_t& next, Transaction* transaction) {
  queue.erase(std::find(queue.begin(), queue.end(), transaction));
  --next;
  port.free.push_back(transaction);
}

// The transaction whose turn it is on a return channel: the oldest, or with reordering any that is the oldest of its ID.
Dram::Transaction* Dram::choose(const Queue& queue, bool (*available)(const Transaction&, uint64_t)) {
  if (queue.empty()) return nullptr;
  if (!timing_.reorder) return available(*queue.front(), now_) ? queue.front() : nullptr;
  uint32_t seen = 0;
  uint32_t count = 0;
  Transaction* chosen = nullptr;
  for (Transaction* candidate : queue) {
    uint32_t bit = 1u << candidate->address.id;
    if (seen & bit) continue;
    seen |= bit;
    if (available(*candidate, now_) && random() % ++count == 0) chosen = candidate;
  }
  return chosen;
}

// One chunk a cycle, while the read FIFO has room for it.
void Dram::issue_reads(Port& port, PortStatistics& count) {
  if (port.next_issue == port.reads.size()) return;
  Transaction& transaction = *port.reads[port.next_issue];
  uint64_t bytes = transaction.chunk_end(transaction.issued) - transaction.chunk_begin(transaction.issued);
  if (count.read_bytes_in_flight + bytes > timing_.read_buffer_bytes) return;
  count.read_bytes_in_flight += bytes;
  count.read_bytes_in_flight_max = std::max(count.read_bytes_in_flight_max, count.read_bytes_in_flight);
  uint64_t latency = timing_.command_latency + timing_.port_latency[(&port - ports_.data()) % kMaxPorts];
  transaction.ready[transaction.issued++] = now_ + latency;
  if (transaction.issued == transaction.chunks) ++port.next_issue;
}

void Dram::present_read(Port& port, PortStatistics& count, SlaveSignals& slave) {
  auto available = [](const Transaction& t, uint64_t now) {
    uint32_t chunk = t.chunk_of(t.beat);
    return chunk < t.served && t.done[chunk] <= now;
  };
  Transaction* transaction = port.returning;
  if (!transaction || timing_.interleave) transaction = choose(port.reads, available);
  if (!transaction || !available(*transaction, now_) || !chance(timing_.data_probability)) return;

  const AddressChannel& address = transaction->address;
  slave.rvalid = true;
  slave.rid = address.id;
  slave.rlast = transaction->beat == address.len;
  bool failed = port.failures[0].next();
  slave.rresp = failed ? port.failures[0].response : transaction->outside ? kRespDecodeError : kRespOkay;
  if (transaction->outside || failed)
    memset(slave.rdata, 0xEE, port_bytes_);
  else
    bus_word(address.beat_address(transaction->beat), slave.rdata);
  count.read_bytes_in_flight -= uint64_t(1) << address.size;
  ++transaction->beat;
  if (slave.rlast) {
    --port.next_issue;
    finish(port, port.reads, port.next_read, transaction);
    port.returning = nullptr;
  } else {
    port.returning = transaction;
  }
}

void Dram::read_edge(uint32_t index, const MasterSignals& master, SlaveSignals& slave) {
  Port& port = ports_[index];
  PortStatistics& count = statistics[index];

  if (slave.rvalid) {
    if (master.rready) {
      ++count.read_beats;
      ++handshakes_;
      slave.rvalid = false;
      if (slave.rlast) --count.reads_outstanding;
    } else {
      ++count.read_stalled;
    }
  } else if (count.reads_outstanding) {
    ++count.read_waiting;
  } else {
    ++count.read_idle;
  }
  if (master.ar.valid) {
    if (slave.arready) {
      Transaction* transaction = accept(port, index, master.ar, false);
      port.reads.push_back(transaction);
      ++unserved_reads_;
      ++count.read_commands;
      ++handshakes_;
      ++count.reads_outstanding;
      count.reads_outstanding_max = std::max(count.reads_outstanding_max, count.reads_outstanding);
    } else {
      ++count.read_address_stalled;
    }
  }
  issue_reads(port, count);
  if (!slave.rvalid && !port.silent && !port.reads.empty()) present_read(port, count, slave);
  slave.arready = !port.silent && count.reads_outstanding < timing_.max_reads && chance(timing_.ready_probability);
}

void Dram::commit(const Transaction& transaction) {
  const AddressChannel& address = transaction.address;
  uint32_t full = (1u << port_bytes_) - 1;
  for (uint32_t beat = 0; beat < address.beats(); ++beat) {
    uint8_t* word = memory_ + ((address.beat_address(beat) & ~uint64_t(port_bytes_ - 1)) - base_);
    const uint8_t* data = transaction.data.data() + size_t(beat) * port_bytes_;
    uint32_t strobe = transaction.strobes[beat];
    if (strobe == full) {
      memcpy(word, data, port_bytes_);
    } else {
      for (uint32_t byte = 0; byte < port_bytes_; ++byte)
        if (strobe >> byte & 1) word[byte] = data[byte];
    }
  }
}

void Dram::present_response(Port& port, SlaveSignals& slave) {
  Transaction* transaction = choose(port.writes, [](const Transaction& t, uint64_t now) {
    return t.complete && t.served == t.chunks && t.done[t.chunks - 1] <= now;
  });
  if (!transaction || !chance(timing_.data_probability)) return;
  bool failed = port.failures[1].next();
  if (!transaction->outside && !failed) commit(*transaction);
  slave.bvalid = true;
  slave.bid = transaction->address.id;
  slave.bresp = failed ? port.failures[1].response : transaction->outside ? kRespDecodeError : kRespOkay;
  --port.next_data;
  finish(port, port.writes, port.next_write, transaction);
}

void Dram::take_write_beat(Port& port, const WriteDataChannel& beat) {
  Transaction* transaction = port.writes[port.next_data];
  memcpy(transaction->data.data() + size_t(transaction->beat) * port_bytes_, beat.data, port_bytes_);
  transaction->strobes[transaction->beat] = beat.strb;
  if (transaction->beat++ == transaction->address.len) {  // the address counts, a wrong WLAST is the monitor's
    transaction->complete = true;
    ++port.next_data;
    ++unserved_writes_;
    unserved_write_bytes_ += uint64_t(transaction->address.beats()) << transaction->address.size;
  }
}

void Dram::write_edge(uint32_t index, const MasterSignals& master, SlaveSignals& slave) {
  Port& port = ports_[index];
  PortStatistics& count = statistics[index];

  if (slave.bvalid && master.bready) {
    slave.bvalid = false;
    --count.writes_outstanding;
    ++handshakes_;
  }
  if (master.w.valid) {
    if (slave.wready) {
      if (port.next_data < port.writes.size())
        take_write_beat(port, master.w);
      else
        port.early.push_back(master.w);
      ++count.write_beats;
      ++handshakes_;
    } else {
      ++count.write_stalled;
    }
  } else if (count.writes_outstanding) {
    ++count.write_waiting;
  } else {
    ++count.write_idle;
  }
  if (master.aw.valid) {
    if (slave.awready) {
      port.writes.push_back(accept(port, index, master.aw, true));
      ++count.write_commands;
      ++handshakes_;
      ++count.writes_outstanding;
      count.writes_outstanding_max = std::max(count.writes_outstanding_max, count.writes_outstanding);
    } else {
      ++count.write_address_stalled;
    }
  }
  for (; !port.early.empty() && port.next_data < port.writes.size(); port.early.pop_front())
    take_write_beat(port, port.early.front());
  if (!slave.bvalid && !port.silent && !port.writes.empty()) present_response(port, slave);
  slave.awready = !port.silent && port.writes.size() < timing_.max_writes && chance(timing_.ready_probability);
  bool room = !port.silent && (port.next_data < port.writes.size() || port.early.size() < timing_.early_beats);
  slave.wready = room && chance(timing_.ready_probability);
}

void Dram::edge(uint64_t cycle, const MasterSignals* masters, SlaveSignals* slaves) {
  now_ = cycle + 1;
  for (uint32_t index = 0; index < port_count_; ++index) {
    monitors_[index].observe(cycle, masters[index], slaves[index]);
    read_edge(index, masters[index], slaves[index]);
    write_edge(index, masters[index], slaves[index]);
  }
  schedule();
}

}  // namespace hwgen
