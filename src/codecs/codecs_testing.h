// SPDX-License-Identifier: Apache-2.0
// Stage 3/7, tests: rows, records and errors for the tests of the codecs' families.
#pragma once

#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "codecs/codec.h"

namespace polarquant {

inline std::vector<std::byte> EncodedBy(std::string_view codec, const std::vector<float>& row) {
  const int head_dim = static_cast<int>(row.size());
  std::vector<std::byte> record(FindCodec(codec).record_bytes(head_dim));
  FindCodec(codec).encode(row.data(), head_dim, ScaleRule::kMse, record.data());
  return record;
}

inline std::vector<float> DecodedBy(std::string_view codec, const std::vector<std::byte>& record,
                                    int head_dim) {
  std::vector<float> row(static_cast<size_t>(head_dim));
  FindCodec(codec).decode(record.data(), head_dim, row.data());
  return row;
}

inline std::vector<float> GaussianRow(int head_dim, std::mt19937_64& generator) {
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<size_t>(head_dim));
  for (float& value : row) value = normal(generator);
  return row;
}

inline double SquaredError(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference;
  }
  return sum;
}

// |x - x'|^2 / |x|^2 over Gaussian rows of `values` numbers in all.
inline double GaussianDistortionOf(std::string_view codec, int head_dim, int values,
                                   uint64_t seed) {
  std::mt19937_64 generator(seed);
  double error = 0.0, energy = 0.0;
  for (int i = 0; i < values; i += head_dim) {
    const std::vector<float> row = GaussianRow(head_dim, generator);
    error += SquaredError(row, DecodedBy(codec, EncodedBy(codec, row), head_dim));
    energy += SquaredError(row, std::vector<float>(row.size(), 0.0f));
  }
  return error / energy;
}

// Of the record of the row 0.25 * (3 i mod 17 - 8).
inline std::string GoldenRecordOf(std::string_view codec, int head_dim) {
  std::vector<float> row;
  for (int i = 0; i < head_dim; ++i) row.push_back(0.25f * static_cast<float>(3 * i % 17 - 8));
  std::string text;
  for (const std::byte byte : EncodedBy(codec, row)) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[std::to_integer<int>(byte) >> 4];
    text += kDigits[std::to_integer<int>(byte) & 15];
  }
  return text;
}

}  // namespace polarquant
