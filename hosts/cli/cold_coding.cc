// SPDX-License-Identifier: Apache-2.0
#include "cold_coding.h"

#include <fmt/format.h>
#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "polarquant/error.h"

namespace polarquant::cli {

void Histogram::AddBytes(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) ++counts_[std::to_integer<size_t>(byte)];
}

void Histogram::AddPacked(std::span<const std::byte> bytes, int bits, int count) {
  for (int i = 0; i < count; ++i) {
    size_t symbol = 0;
    for (int bit = 0; bit < bits; ++bit) {
      const auto place =
          static_cast<size_t>(i) * static_cast<size_t>(bits) + static_cast<size_t>(bit);
      symbol |= (std::to_integer<size_t>(bytes[place / 8]) >> (place % 8) & 1) << bit;
    }
    ++counts_[symbol];
  }
}

double Histogram::entropy_bits() const {
  double total = 0;
  for (const int64_t count : counts_) total += static_cast<double>(count);
  double bits = 0;
  for (const int64_t count : counts_) {
    if (count == 0) continue;
    const double share = static_cast<double>(count) / total;
    bits -= share * std::log2(share);
  }
  return bits;
}

size_t ZstdBytes(std::span<const std::byte> bytes) {
  const auto check = [](size_t result) {
    if (ZSTD_isError(result) == 0) return result;
    throw Error(ErrorCode::kHost, fmt::format("zstd: {}", ZSTD_getErrorName(result)));
  };
  std::vector<std::byte> packed(ZSTD_compressBound(bytes.size()));
  packed.resize(
      check(ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), kZstdLevel)));
  std::vector<std::byte> again(bytes.size());
  const size_t count =
      check(ZSTD_decompress(again.data(), again.size(), packed.data(), packed.size()));
  if (count != bytes.size() || !std::equal(again.begin(), again.end(), bytes.begin())) {
    throw Error(ErrorCode::kCorruption,
                fmt::format("zstd {} does not give {} bytes of pages back as they were; check this "
                            "machine's memory and its libzstd",
                            ZstdVersion(), bytes.size()));
  }
  return packed.size();
}

const char* ZstdVersion() { return ZSTD_versionString(); }

}  // namespace polarquant::cli
