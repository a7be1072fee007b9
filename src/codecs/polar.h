// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the recursive polar transform and codebooks for its angles (Han et al.,
// PolarQuant 2025). Pairs of Gaussian values have a radius and an angle, pairs of radii again, and
// so on. The angles are independent of one another and of the last radius; those of level l > 1 lie
// in [0, pi/2] with density proportional to sin(2 a)^(2^(l - 1) - 1), those of level 1 all around.
#pragma once

#include <vector>

namespace polarquant {

inline constexpr int kMaxPolarLevels = 7;
inline constexpr int kMaxAngleBits = 4;       // of levels from 2
inline constexpr int kMaxFirstAngleBits = 6;  // of level 1

struct AngleBook {
  // Radians, ascending, symmetric about pi/4. Centroid i is the mean of the cell between thresholds
  // i - 1 and i; a threshold is midway between centroids. 2^bits and 2^bits - 1 of them.
  std::vector<double> centroids, thresholds;
  double distortion;  // mean squared error of the angle
};

// The Lloyd-Max quantiser of the angles of a level from 2 to 7, bits 1 to 4, to a residual of
// 1e-14.
AngleBook SolveAngleBook(int level, int bits);

// The same, solved once; and of level 1 equal sectors, bits 1 to 6. Thread-safe.
const AngleBook& AngleBookOf(int level, int bits);

// The 2^levels - 1 angles of 2^levels values, those of level 1 first, and their radius. An angle of
// level 1 is in [0, 2 pi), the others are in [0, pi/2]; those of two zeros are 0.
double PolarTransform(const float* x, int levels, double* angles);

}  // namespace polarquant
