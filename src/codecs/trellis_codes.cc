// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: what the states of a trellis stand for, besides the trained tables.
#include <cstddef>
#include <utility>

#include "codecs/trellis.h"

namespace polarquant {

std::vector<float> ShuffledQuantiles(int state_bits, SplitMix64& generator) {
  const size_t count = size_t{1} << state_bits, half = count / 2;
  std::vector<float> levels = NormalQuantiles(static_cast<int>(count));
  std::vector<float> positive(levels.begin() + static_cast<std::ptrdiff_t>(half), levels.end());
  for (size_t i = half - 1; i > 0; --i) {
    std::swap(positive[i], positive[generator.Next() % (i + 1)]);
  }
  for (size_t s = 0; s < half; ++s) {
    levels[s] = generator.Next() % 2 == 0 ? positive[s] : -positive[s];
    levels[count - 1 - s] = -levels[s];
  }
  return levels;
}

float ComputedLevel(uint32_t state) {
  const uint32_t mixed = 34038481u * state + 76625530u;
  const uint32_t sum =
      (mixed & 0xffu) + (mixed >> 8 & 0xffu) + (mixed >> 16 & 0xffu) + (mixed >> 24);
  return static_cast<float>((static_cast<double>(sum) - 510.0) / 147.800537109375);
}

}  // namespace polarquant
