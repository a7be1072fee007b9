// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: one block of a rotated row to codes and a scale, to be compiled once for
// every instruction set (internal linkage, as math/rotation-inl.h says). Every target must write
// the same bytes, so whoever writes this with intrinsics keeps:
//
//   sums     sixteen lanes, folded (math/lane_sum-inl.h), of products rounded before they are added
//   code     the number of thresholds t with x * inverse >= t, inverse = 1 / step
//   steps    sqrt(<x,x> / size) * unit at first; then <c,x> / <c,c> (mse, repeated kRounds times or
//            until it stays), sqrt(<x,x> / <c,c>) (norm) or <x,x> / <c,x> (unbiased)
//   scale    step / unit, at most 65504, rounded to f16
//
// A block whose deviation is below kSmallest, or whose scale rounds to 0, has scale 0 and the codes
// of zeros.
#pragma once

#include <cmath>
#include <cstdint>

#include "codecs/turbo.h"
#include "math/lane_sum-inl.h"
#include "polarquant/scheme.h"
#include "util/half.h"

namespace polarquant {
namespace {

inline constexpr int kRounds = 4;             // of least-squares refinement, the first included
inline constexpr float kSmallest = 0x1p-26f;  // half of what f16 rounds to its least number

// Codes of `size` values and the sums <c,x> and <c,c>.
inline void AssignCodes(const TurboBook& book, const float* x, int size, float inverse,
                        uint8_t* codes, float* dot, float* energy) {
  const int num_thresholds = (1 << book.bits) - 1;
  float dot_lanes[kSumLanes] = {}, energy_lanes[kSumLanes] = {};
  for (int i = 0; i < size; i += kSumLanes) {
    float scaled[kSumLanes];
    int code[kSumLanes] = {};
    for (int l = 0; l < kSumLanes; ++l) scaled[l] = x[i + l] * inverse;
    if (book.bits <= 4) {  // counting vectorises
      for (int t = 0; t < num_thresholds; ++t) {
        const float threshold = book.thresholds[t];
        for (int l = 0; l < kSumLanes; ++l) code[l] += scaled[l] >= threshold ? 1 : 0;
      }
    } else {  // searching finds the same number
      for (int step = 1 << (book.bits - 1); step > 0; step /= 2) {
        for (int l = 0; l < kSumLanes; ++l) {
          code[l] += scaled[l] >= book.thresholds[code[l] + step - 1] ? step : 0;
        }
      }
    }
    for (int l = 0; l < kSumLanes; ++l) {
      const float c = book.centroids[code[l]];
      codes[i + l] = static_cast<uint8_t>(code[l]);
      dot_lanes[l] += c * x[i + l];
      energy_lanes[l] += c * c;
    }
  }
  *dot = FoldLanes(dot_lanes);
  *energy = FoldLanes(energy_lanes);
}

// `x` is finite, `size` a multiple of 16. Returns the f16 scale.
inline uint16_t EncodeTurboBlock(const TurboBook& book, const float* x, int size, ScaleRule rule,
                                 uint8_t* codes) {
  const float norm2 = SquaredNorm(x, size);
  const float deviation = std::sqrt(norm2 / static_cast<float>(size));
  uint16_t scale = 0;
  if (deviation >= kSmallest) {
    float step = deviation * book.unit;
    const int rounds = rule == ScaleRule::kMse ? kRounds : 1;
    for (int round = 0; round < rounds; ++round) {
      float dot, energy;
      AssignCodes(book, x, size, 1.0f / step, codes, &dot, &energy);
      const float before = step;
      if (rule == ScaleRule::kMse) step = dot / energy;
      if (rule == ScaleRule::kNorm) step = std::sqrt(norm2 / energy);
      if (rule == ScaleRule::kUnbiased) step = norm2 / dot;
      if (step == before) break;
    }
    const float deviations = step / book.unit;
    scale = FloatToHalf(deviations < kMaxHalf ? deviations : kMaxHalf);
  }
  if (scale == 0) {
    for (int i = 0; i < size; ++i) codes[i] = static_cast<uint8_t>(1 << (book.bits - 1));
  }
  return scale;
}

}  // namespace
}  // namespace polarquant
