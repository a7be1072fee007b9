// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the one order in which every instruction set adds up a block: sixteen lane
// sums (lane l takes elements l, l + 16, ...), folded 8 + 8, 4 + 4, 2 + 2, 1 + 1. Internal linkage
// as in rotation-inl.h.
#pragma once

namespace polarquant {
namespace {

inline constexpr int kSumLanes = 16;

// Overwrites `lanes`.
inline float FoldLanes(float lanes[kSumLanes]) {
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// Sum of squares of `size` floats, a multiple of 16.
inline float SquaredNorm(const float* x, int size) {
  float lanes[kSumLanes] = {};
  for (int i = 0; i < size; i += kSumLanes) {
    for (int l = 0; l < kSumLanes; ++l) lanes[l] += x[i + l] * x[i + l];
  }
  return FoldLanes(lanes);
}

}  // namespace
}  // namespace polarquant
