// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the scalar codebooks. Lloyd-Max quantisers (Lloyd 1982, Max 1960) of the
// standard normal distribution, found by Newton's method and mirrored, so exactly symmetric; and
// their nearest neighbours on a grid of int8, which integer instructions can multiply.
#pragma once

#include <array>
#include <vector>

namespace polarquant {

inline constexpr int kMaxCodeBits = 8;

struct LloydMax {
  // Ascending; centroid i is the mean of the cell between thresholds i-1 and i, threshold i lies
  // midway between centroids i and i+1. 2^bits and 2^bits - 1 of them.
  std::vector<double> centroids, thresholds;
};

// Where the nearest of ascending centroids changes.
std::vector<double> Midpoints(const std::vector<double>& centroids);

// The quantiser of N(0, 1) with 2^bits levels, bits 1..8. Solved to a residual below 1e-14.
LloydMax SolveLloydMax(int bits);

// Its mean squared error on N(0, 1), from the cells' exact moments.
double GaussianDistortion(const std::vector<double>& centroids,
                          const std::vector<double>& thresholds);

// Centroid i is unit * steps[i], steps within -127..127 and exactly symmetric; `unit` is the one
// that adds the least distortion on N(0, 1). bits 1..4 (wider codebooks gain nothing from int8).
struct Int8Codebook {
  std::vector<signed char> steps;
  float unit;
};
Int8Codebook SolveInt8Codebook(int bits);

}  // namespace polarquant
