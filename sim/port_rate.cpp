// The read side of the memory system without its data: what the memory model's ports sustain. port_rate.py calls this
// through ctypes.
//
// As in hw/memory: segments are cut into aligned bursts, those of a block from several banks in turn, each of which goes to the
// next port that may take one while the ring has room; every port's words wait in a FIFO for whole beats; one port starts a beat a cycle and is busy with it for as many cycles
// as it has words; bursts complete in the order in which they were asked for; one complete beat is taken a cycle.
#include <algorithm>
#include <deque>
#include <vector>

#include "dram.hpp"

namespace {

struct Shape {
  uint32_t ports;
  uint32_t port_bytes;
  uint32_t beat_words;
  uint32_t burst_words;
  uint32_t outstanding;
  uint64_t ring_beats;
  uint32_t fifo_words;
  uint32_t streams;       // banks that the bursts of a block come from in turn
  uint32_t bank_bursts;
};

struct Burst {
  uint32_t beats;
  bool deferred;  // counts with the last one of its block
  bool ends;      // its block
  bool done;
};

struct Port {
  uint32_t in_flight = 0;
  uint32_t words = 0;      // in the FIFO
  uint32_t busy = 0;       // cycles until it may start another beat
  std::deque<std::pair<uint64_t, uint32_t>> asked;  // number of a burst and its beats that were not started
};

class Reader {
 public:
  Reader(const Shape& shape, const hwgen::DramTiming& timing, uint64_t memory_bytes)
      : shape_(shape), dram_(shape.ports, shape.port_bytes, 0, memory_bytes), ports_(shape.ports), masters_(shape.ports),
        slaves_(shape.ports), accepted_(shape.ports) {
    dram_.set_timing(timing);
  }

  // Cycles until all beats of the segments were taken.
  uint64_t run(const uint64_t* addresses, uint32_t segments, uint64_t beats) {
    uint64_t cycle = 0;
    uint64_t left = beats * segments;
    for (; left; ++cycle) {
      if (complete_ > taken_) {
        ++taken_;
        --left;
      }
      for (uint32_t port = 0; port < shape_.ports; ++port) receive(port);
      start_beat();
      for (; !order_.empty() && order_.front().done; order_.pop_front(), ++first_) complete(order_.front());
      dispatch(addresses, segments, beats);
      for (uint32_t port = 0; port < shape_.ports; ++port) {
        accepted_[port] = masters_[port].ar.valid && slaves_[port].arready;
        masters_[port].rready = ports_[port].words + 4 <= shape_.fifo_words;
      }
      dram_.edge(cycle, masters_.data(), slaves_.data());
      for (uint32_t port = 0; port < shape_.ports; ++port)
        if (accepted_[port]) masters_[port].ar.valid = false;
    }
    return cycle;
  }

 private:
  void receive(uint32_t number) {
    if (!slaves_[number].rvalid || !masters_[number].rready) return;
    ++ports_[number].words;
    if (slaves_[number].rlast) --ports_[number].in_flight;
  }

  void start_beat() {
    for (Port& port : ports_)
      if (port.busy) --port.busy, --port.words;
    for (uint32_t step = 1; step <= shape_.ports; ++step) {
      uint32_t number = (last_started_ + step) % shape_.ports;
      Port& port = ports_[number];
      if (port.busy || port.words < shape_.beat_words) continue;
      port.busy = shape_.beat_words;
      last_started_ = number;
      auto& [burst, beats] = port.asked.front();
      if (--beats == 0) {
        order_[burst - first_].done = true;
        port.asked.pop_front();
      }
      return;
    }
  }

  void complete(const Burst& burst) {
    if (burst.deferred) {
      deferred_ += burst.beats;
      return;
    }
    complete_ += burst.beats;
    if (burst.ends) complete_ += deferred_, deferred_ = 0;
  }

  // A burst every two cycles at most.
  void dispatch(const uint64_t* addresses, uint32_t segments, uint64_t beats) {
    paused_ = !paused_;
    if (paused_ || segment_ == segments) return;
    uint32_t beat_bytes = shape_.beat_words * shape_.port_bytes;
    uint64_t unit = uint64_t(shape_.burst_words) * shape_.port_bytes;
    uint64_t block = unit * shape_.bank_bursts * shape_.streams;
    uint64_t address = addresses[segment_] + offset_ * beat_bytes;
    bool in_block = shape_.streams > 1 && address % block == 0 && (beats - offset_) * beat_bytes >= block;
    uint64_t count = std::min(beats - offset_, (unit - address % unit) / beat_bytes);
    uint64_t needed = in_block && in_block_ == 0 ? block / beat_bytes : unit / beat_bytes;
    if (asked_ - taken_ + needed > shape_.ring_beats) return;
    bool deferred = false;
    bool ends = true;
    if (in_block) {
      uint32_t stream = in_block_ % shape_.streams;
      address += (uint64_t(stream) * shape_.bank_bursts + in_block_ / shape_.streams) * unit;
      ends = in_block_ + 1 == shape_.streams * shape_.bank_bursts;
      deferred = stream && !ends;
    }
    for (uint32_t step = 1; step <= shape_.ports; ++step) {
      uint32_t number = (last_asked_ + step) % shape_.ports;
      Port& port = ports_[number];
      if (masters_[number].ar.valid || port.in_flight == shape_.outstanding) continue;
      uint32_t words = uint32_t(count) * shape_.beat_words;
      masters_[number].ar = {address, 0, uint8_t(words - 1), uint8_t(__builtin_ctz(shape_.port_bytes)),
                             hwgen::kBurstIncrementing, true};
      ++port.in_flight;
      port.asked.push_back({first_ + order_.size(), uint32_t(count)});
      order_.push_back({uint32_t(count), deferred, ends, false});
      last_asked_ = number;
      asked_ += count;
      if (in_block) in_block_ = ends ? 0 : in_block_ + 1;
      if (!in_block) offset_ += count;
      if (in_block && ends) offset_ += block / beat_bytes;
      if (offset_ == beats) ++segment_, offset_ = 0;
      return;
    }
  }

  Shape shape_;
  hwgen::Dram dram_;
  std::vector<Port> ports_;
  std::vector<hwgen::MasterSignals> masters_;
  std::vector<hwgen::SlaveSignals> slaves_;
  std::vector<bool> accepted_;
  std::deque<Burst> order_;  // not complete, in the order in which they were asked for
  uint64_t first_ = 0;       // number of the first of them
  uint64_t asked_ = 0;       // beats
  uint64_t complete_ = 0;
  uint64_t taken_ = 0;
  uint32_t segment_ = 0;
  uint64_t offset_ = 0;      // beats of that segment in front of the present burst or block
  uint32_t in_block_ = 0;    // bursts of the block that were asked for
  uint64_t deferred_ = 0;    // beats
  uint32_t last_asked_ = 0;
  uint32_t last_started_ = 0;
  bool paused_ = false;
};

}  // namespace

// Beats that enter the ring in a cycle, at most 1, over `segments` segments of `beats` beats one after the other.
extern "C" double port_rate(const hwgen::DramTiming* timing, uint32_t ports, uint32_t port_bytes, uint32_t beat_words,
                            uint32_t burst_words, uint32_t outstanding, uint64_t ring_beats, uint32_t fifo_words,
                            uint32_t streams, uint32_t bank_bursts, uint64_t memory_bytes, const uint64_t* addresses,
                            uint32_t segments, uint64_t beats) {
  Shape shape{ports, port_bytes, beat_words, burst_words, outstanding, ring_beats, fifo_words, streams, bank_bursts};
  Reader reader(shape, *timing, memory_bytes);
  return double(segments * beats) / double(reader.run(addresses, segments, beats));
}
