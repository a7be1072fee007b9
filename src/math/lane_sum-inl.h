// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the one order in which every instruction set adds up a block: sixteen lane
// sums (lane l takes elements l, l + 16, ...), folded 8 + 8, 4 + 4, 2 + 2, 1 + 1. Sixteen lanes are
// one to four vectors. Internal linkage, as rotation-inl.h says.
#pragma once

#include <cstring>

#include "math/vector-inl.h"

namespace polarquant {
namespace {

inline constexpr int kSumLanes = 16;
inline constexpr int kVectors = kSumLanes / kVectorFloats;  // that make the sixteen lanes

struct Lanes {
  FloatVector part[kVectors] = {};
};

inline float FoldLanes(const Lanes& lanes) {
  float sum[kSumLanes];
  std::memcpy(sum, lanes.part, sizeof sum);
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
  }
  return sum[0];
}

// Sum of squares of `size` floats, a multiple of 16.
inline float SquaredNorm(const float* x, int size) {
  Lanes sum;
  for (int i = 0; i < size; i += kSumLanes) {
    for (int p = 0; p < kVectors; ++p) {
      FloatVector value;
      LoadVector(x + i + p * kVectorFloats, &value);
      sum.part[p] += value * value;
    }
  }
  return FoldLanes(sum);
}

}  // namespace
}  // namespace polarquant
