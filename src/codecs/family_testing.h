// SPDX-License-Identifier: Apache-2.0
// What the tests of the codec families share: rows, one codec there and back, and its figures.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "codecs/codec.h"

namespace polarquant::testing_families {

using Row = std::vector<float>;
using Record = std::vector<std::byte>;

// Rows of N(0, 1): isotropic, so what rotates outside the codec changes nothing on average.
class GaussianRows {
 public:
  GaussianRows(int head_dim, uint64_t seed) : generator_(seed), head_dim_(head_dim) {}
  Row Next() {
    Row row(static_cast<size_t>(head_dim_));
    for (float& value : row) value = normal_(generator_);
    return row;
  }

 private:
  std::mt19937_64 generator_;
  std::normal_distribution<float> normal_;
  int head_dim_;
};

// 0.25 (3 i mod 17 - 8): what golden records are made of.
inline Row GoldenRow(int head_dim) {
  Row row(static_cast<size_t>(head_dim));
  for (int i = 0; i < head_dim; ++i) {
    row[static_cast<size_t>(i)] = 0.25f * static_cast<float>(3 * i % 17 - 8);
  }
  return row;
}

inline Record Encode(std::string_view codec, const Row& row) {
  const int head_dim = static_cast<int>(row.size());
  Record record(FindCodec(codec).record_bytes(head_dim), std::byte{0xa5});
  FindCodec(codec).encode(row.data(), head_dim, ScaleRule::kMse, record.data());
  return record;
}

inline Row Decode(std::string_view codec, const Record& record, int head_dim) {
  Row row(static_cast<size_t>(head_dim));
  FindCodec(codec).decode(record.data(), head_dim, row.data());
  return row;
}

inline Row RoundTrip(std::string_view codec, const Row& row) {
  return Decode(codec, Encode(codec, row), static_cast<int>(row.size()));
}

inline std::string Hex(const Record& bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[std::to_integer<int>(byte) >> 4];
    text += kDigits[std::to_integer<int>(byte) & 15];
  }
  return text;
}

inline double Dot(const Row& a, const Row& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

struct Quality {
  double distortion;  // mean of |x - x'|^2 / |x|^2
  double cosine;      // mean
};

inline Quality QualityOf(std::string_view codec, int head_dim, int num_rows = 4000) {
  GaussianRows rows(head_dim, 7000 + static_cast<uint64_t>(head_dim));
  Quality sum = {0.0, 0.0};
  for (int r = 0; r < num_rows; ++r) {
    const Row row = rows.Next(), decoded = RoundTrip(codec, row);
    const double xx = Dot(row, row), xy = Dot(row, decoded), yy = Dot(decoded, decoded);
    sum.distortion += (xx - 2.0 * xy + yy) / xx;
    sum.cosine += xy / std::sqrt(xx * yy);
  }
  return {sum.distortion / num_rows, sum.cosine / num_rows};
}

inline double BitsPerValue(std::string_view codec, int head_dim) {
  return 8.0 * static_cast<double>(FindCodec(codec).record_bytes(head_dim)) / head_dim;
}

}  // namespace polarquant::testing_families
