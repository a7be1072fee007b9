// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the one order in which every instruction set adds up a block: sixteen lane
// sums (lane l takes elements l, l + 16, ...), folded 8 + 8, 4 + 4, 2 + 2, 1 + 1. Written with the
// compiler's vectors as wide as the instruction set has them, so sixteen lanes are one to four
// vectors. Never passed by value: how vectors travel depends on the instruction set. Internal
// linkage as in rotation-inl.h.
#pragma once

#include <cstring>

namespace polarquant {
namespace {

#if defined(__AVX512F__)
inline constexpr int kVectorFloats = 16;
#elif defined(__AVX__)
inline constexpr int kVectorFloats = 8;
#else
inline constexpr int kVectorFloats = 4;
#endif
inline constexpr int kSumLanes = 16;
inline constexpr int kVectors = kSumLanes / kVectorFloats;  // that make the sixteen lanes

using FloatVector [[gnu::vector_size(4 * kVectorFloats)]] = float;
using IntVector [[gnu::vector_size(4 * kVectorFloats)]] = int;
struct Lanes {
  FloatVector part[kVectors] = {};
};

inline void LoadVector(const float* x, FloatVector* vector) {
  std::memcpy(vector, x, sizeof *vector);
}

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
