// A copy of one of the accelerator's memories, kept by watching its write port.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace hwgen {

class Mirror {
 public:
  // A word takes `word_bytes` bytes in the copy, at least `word_bits` bits.
  Mirror(const char* name, uint64_t depth, uint32_t word_bits, uint32_t word_bytes, uint32_t lanes)
      : name_(name), depth_(depth), word_bits_(word_bits), word_bytes_(word_bytes), lanes_(lanes),
        data_(depth * lanes * word_bytes) {}

  const char* name() const { return name_; }
  uint64_t depth() const { return depth_; }
  uint8_t* data() { return data_.data(); }

  // `valid` and `data` are little-endian bit strings; `address` must be below `depth`.
  void write(const uint8_t* valid, uint64_t address, const uint8_t* data) {
    uint8_t* row = data_.data() + address * lanes_ * word_bytes_;
    for (uint32_t lane = 0; lane < lanes_; ++lane) {
      if (!(valid[lane / 8] >> (lane % 8) & 1)) continue;
      uint8_t* word = row + lane * word_bytes_;
      if (word_bits_ == word_bytes_ * 8)
        memcpy(word, data + lane * word_bytes_, word_bytes_);
      else
        extract(word, data, uint64_t(lane) * word_bits_);
    }
  }

 private:
  void extract(uint8_t* word, const uint8_t* data, uint64_t first_bit) const {
    memset(word, 0, word_bytes_);
    for (uint32_t bit = 0; bit < word_bits_; ++bit) {
      uint64_t from = first_bit + bit;
      word[bit / 8] |= uint8_t((data[from / 8] >> (from % 8) & 1) << (bit % 8));
    }
  }

  const char* name_;
  uint64_t depth_;
  uint32_t word_bits_;
  uint32_t word_bytes_;
  uint32_t lanes_;
  std::vector<uint8_t> data_;
};

}  // namespace hwgen
