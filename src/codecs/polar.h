// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: codebooks for the angles of the recursive polar transform (Han et al.,
// PolarQuant 2025). Pairs of Gaussian values have a radius and an angle, pairs of radii again, and
// so on. The angles are independent of one another and of the last radius; those of level l > 1 lie
// in [0, pi/2] with density proportional to sin(2 a)^(2^(l - 1) - 1).
#pragma once

#include <vector>

namespace polarquant {

struct AngleBook {
  // Radians, ascending, symmetric about pi/4. Centroid i is the mean of the cell between thresholds
  // i - 1 and i; a threshold is midway between centroids. 2^bits and 2^bits - 1 of them.
  std::vector<double> centroids, thresholds;
  double distortion;  // mean squared error of the angle
};

// The Lloyd-Max quantiser of the angles of a level from 2 to 6, bits 1 to 4, to a residual of
// 1e-14.
AngleBook SolveAngleBook(int level, int bits);

}  // namespace polarquant
