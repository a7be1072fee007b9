// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. How much smaller stored pages could become without loss: by an
// ideal coder of single symbols, and by zstd as it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace polarquant::cli {

// Counts symbols of up to eight bits.
class Histogram {
 public:
  void AddBytes(std::span<const std::byte> bytes);
  // `count` symbols of `bits` bits, packed least significant bit first.
  void AddPacked(std::span<const std::byte> bytes, int bits, int count);

  // Order-0 entropy in bits a symbol: what an ideal coder that knows how often each symbol occurs,
  // and nothing else, would need.
  double entropy_bits() const;

 private:
  std::array<int64_t, 256> counts_ = {};
};

inline constexpr int kZstdLevel = 19;

// The bytes zstd at kZstdLevel makes of these, more than there were if they do not shrink. They are
// decompressed again: throws Error(kCorruption) if that does not give the same bytes.
size_t ZstdBytes(std::span<const std::byte> bytes);
// "1.5.4"
const char* ZstdVersion();

}  // namespace polarquant::cli
