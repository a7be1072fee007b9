// SPDX-License-Identifier: Apache-2.0
// Stage 4/7 pack, inside a record: a row's codes as one stream of bits, least significant first.
// Code i takes bits [i * bits, (i + 1) * bits); bit j of the stream is bit j % 8 of byte j / 8.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polarquant {

constexpr size_t PackedBytes(int count, int bits) {
  return (static_cast<size_t>(count) * static_cast<size_t>(bits) + 7) / 8;
}

// The stream itself, for codes of any widths up to 32 bits one after another.
class BitWriter {
 public:
  explicit BitWriter(std::byte* at) : at_(at) {}
  // code below 2^bits
  void Put(uint64_t code, int bits) {
    pending_ |= code << pending_bits_;
    pending_bits_ += bits;
    for (; pending_bits_ >= 8; pending_bits_ -= 8) {
      *at_++ = static_cast<std::byte>(pending_ & 0xffu);
      pending_ >>= 8;
    }
  }
  // The last byte, its unused bits zero.
  void Finish() {
    if (pending_bits_ > 0) *at_ = static_cast<std::byte>(pending_ & 0xffu);
  }

 private:
  std::byte* at_;
  uint64_t pending_ = 0;
  int pending_bits_ = 0;
};

class BitReader {
 public:
  explicit BitReader(const std::byte* at) : at_(at) {}
  uint64_t Get(int bits) {
    for (; pending_bits_ < bits; pending_bits_ += 8) {
      pending_ |= static_cast<uint64_t>(*at_++) << pending_bits_;
    }
    const uint64_t code = pending_ & ((uint64_t{1} << bits) - 1u);
    pending_ >>= bits;
    pending_bits_ -= bits;
    return code;
  }

 private:
  const std::byte* at_;
  uint64_t pending_ = 0;
  int pending_bits_ = 0;
};

// bits 1..32 that fit a Code; codes below 2^bits. Writes PackedBytes(count, bits) bytes.
template <typename Code>
void PackCodes(const Code* codes, int count, int bits, std::byte* packed) {
  BitWriter writer(packed);
  for (int i = 0; i < count; ++i) writer.Put(static_cast<uint64_t>(codes[i]), bits);
  writer.Finish();
}

template <typename Code>
void UnpackCodes(const std::byte* packed, int count, int bits, Code* codes) {
  BitReader reader(packed);
  for (int i = 0; i < count; ++i) codes[i] = static_cast<Code>(reader.Get(bits));
}

}  // namespace polarquant
