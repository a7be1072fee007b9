// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise. The mean of a page's rows, kept as int8 with one f16 scale: subtracting a
// constant vector from every key of a head leaves softmax unchanged, and most of the energy of keys
// is such a constant. A mean within +-65504 is found and restored without overflow.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "util/half.h"

namespace polarquant {

// The header of a centred page: int8 [head_dim], then one f16 scale; mean = scale * int8.
constexpr size_t MeanBytes(int head_dim) {
  return static_cast<size_t>(head_dim) + sizeof(uint16_t);
}

// The plain mean of `rows` [count][head_dim], sanitised, leaving out the rows marked in `outside`
// (row r: word r/64, bit r%64; may be null). Zeros if no row is left. Rows are added in order.
inline void MeanOfRows(const float* rows, int count, int head_dim, const uint64_t* outside,
                       float* mean) {
  for (int i = 0; i < head_dim; ++i) mean[i] = 0.0f;
  int included = 0;
  for (int r = 0; r < count; ++r) {
    if (outside != nullptr && ((outside[r / 64] >> (r % 64)) & 1) != 0) continue;
    const float* row = rows + static_cast<int64_t>(r) * head_dim;
    for (int i = 0; i < head_dim; ++i) mean[i] += Sanitise(row[i]);
    ++included;
  }
  if (included == 0) return;
  const float share = 1.0f / static_cast<float>(included);
  for (int i = 0; i < head_dim; ++i) mean[i] *= share;
}

// Rounds a mean to its header. The scale is the largest magnitude / 127; halves round away from 0.
inline void StoreMean(const float* mean, int head_dim, std::byte* header) {
  float largest = 0.0f;
  for (int i = 0; i < head_dim; ++i) largest = std::fmax(largest, std::fabs(mean[i]));
  const uint16_t half = FloatToHalf(largest / 127.0f);
  const float scale = HalfToFloat(half);
  for (int i = 0; i < head_dim; ++i) {
    const float steps = scale > 0.0f ? std::round(mean[i] / scale) : 0.0f;
    const float clamped = std::fmin(std::fmax(steps, -127.0f), 127.0f);
    header[i] = static_cast<std::byte>(static_cast<int8_t>(clamped));
  }
  std::memcpy(header + head_dim, &half, sizeof half);
}

inline void LoadMean(const std::byte* header, int head_dim, float* mean) {
  uint16_t half = 0;
  std::memcpy(&half, header + head_dim, sizeof half);
  const float scale = HalfToFloat(half);
  for (int i = 0; i < head_dim; ++i) {
    mean[i] = scale * static_cast<float>(static_cast<int8_t>(header[i]));
  }
}

}  // namespace polarquant
