// SPDX-License-Identifier: Apache-2.0
// Random numbers (math/random.h): quantiles of the normal distribution, by bisection.
#include "math/random.h"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace polarquant {

std::vector<float> NormalQuantiles(int count) {
  std::vector<float> quantiles;
  for (int i = 0; i < count; ++i) {
    const double share = (i + 0.5) / count;
    double low = -10.0, high = 10.0;
    for (int step = 0; step < 60; ++step) {
      const double middle = 0.5 * (low + high);
      (0.5 * std::erfc(-middle / std::numbers::sqrt2) < share ? low : high) = middle;
    }
    quantiles.push_back(static_cast<float>(high));
  }
  return quantiles;
}

const std::vector<float>& FineNormalQuantiles() {
  static const std::vector<float> quantiles = NormalQuantiles(1 << 16);
  return quantiles;
}

}  // namespace polarquant
