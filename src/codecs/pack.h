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

// bits 1..32 that fit a Code; codes below 2^bits. Writes PackedBytes(count, bits) bytes, unused
// bits zero.
template <typename Code>
void PackCodes(const Code* codes, int count, int bits, std::byte* packed) {
  uint64_t pending = 0;
  int pending_bits = 0;
  for (int i = 0; i < count; ++i) {
    pending |= static_cast<uint64_t>(codes[i]) << pending_bits;
    pending_bits += bits;
    for (; pending_bits >= 8; pending_bits -= 8) {
      *packed++ = static_cast<std::byte>(pending & 0xffu);
      pending >>= 8;
    }
  }
  if (pending_bits > 0) *packed = static_cast<std::byte>(pending & 0xffu);
}

template <typename Code>
void UnpackCodes(const std::byte* packed, int count, int bits, Code* codes) {
  const uint64_t mask = (uint64_t{1} << bits) - 1u;
  uint64_t pending = 0;
  int pending_bits = 0;
  for (int i = 0; i < count; ++i) {
    for (; pending_bits < bits; pending_bits += 8) {
      pending |= static_cast<uint64_t>(*packed++) << pending_bits;
    }
    codes[i] = static_cast<Code>(pending & mask);
    pending >>= bits;
    pending_bits -= bits;
  }
}

}  // namespace polarquant
