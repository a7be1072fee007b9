// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: what the signs of a vector say of it. For u uniform on the sphere of n
// dimensions E|u_i| = Gamma(n/2) / (sqrt(pi) Gamma((n+1)/2)), so the mean of u given its signs is
// that constant times them, and sqrt(n) times it is the expected cosine: 0.801 for 64, 0.799 for
// 128, sqrt(2/pi) in the limit.
#pragma once

#include <array>
#include <cmath>
#include <numbers>

#include "math/rotation.h"

namespace polarquant {

// Expected cosine of a vector and its signs, `size` a multiple of 16 up to kMaxHeadDim.
inline float SignCosine(int size) {
  constexpr int kStep = kMinHeadDim;
  static const std::array<float, kMaxHeadDim / kStep> cosines = [] {
    std::array<float, kMaxHeadDim / kStep> all{};
    double magnitude = 2.0 / std::numbers::pi;  // n = 2
    for (int n = 2; n <= kMaxHeadDim; magnitude *= n / (n + 1.0), n += 2) {
      if (n % kStep != 0) continue;
      const double cosine = magnitude * std::sqrt(static_cast<double>(n));
      all[static_cast<size_t>(n / kStep - 1)] = static_cast<float>(cosine);
    }
    return all;
  }();
  return cosines[static_cast<size_t>(size / kStep - 1)];
}

}  // namespace polarquant
