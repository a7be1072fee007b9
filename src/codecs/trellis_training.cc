// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: training of the trellis tables.
//
// Levels begin as the 256 quantiles of N(0, 1), spread over the states at random. Complementing all
// bits of a state negates its level, from the beginning on and after every round: then so does
// complementing a whole row, and every training row counts twice.
#include "codecs/trellis_training.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "math/random.h"

namespace polarquant {
namespace {

constexpr int kSize = 128;
constexpr int kRows = 512;  // with their mirrors 512 values for every level
constexpr int kRounds = 30;
constexpr float kLargestLevel = 127.0f;

void Improve(int bits, const std::vector<float>& rows, std::vector<float>& levels) {
  const Trellis trellis = {bits, kTrainedStateBits, levels.data()};
  double sums[kTrainedStates] = {};
  int counts[kTrainedStates] = {};
  for (size_t r = 0; r < rows.size(); r += kSize) {
    uint8_t codes[kSize];
    uint16_t states[kSize];
    EncodeTrellis(trellis, &rows[r], kSize, codes);
    StatesOf(trellis, codes, kSize, states);
    for (size_t i = 0; i < kSize; ++i) {
      sums[states[i]] += static_cast<double>(rows[r + i]);
      ++counts[states[i]];
    }
  }
  for (size_t s = 0; s < kTrainedStates / 2; ++s) {
    const size_t mirror = kTrainedStates - 1 - s;
    const int count = counts[s] + counts[mirror];
    if (count == 0) continue;
    levels[s] = static_cast<float>((sums[s] - sums[mirror]) / count);
    levels[mirror] = -levels[s];
  }
}

}  // namespace

TrellisTable TrainTrellis(int bits) {
  SplitMix64 generator(static_cast<uint64_t>(bits));
  const std::vector<float>& normal = FineNormalQuantiles();
  std::vector<float> levels = ShuffledQuantiles(kTrainedStateBits, generator);
  std::vector<float> rows(size_t{kRows} * kSize);
  for (float& value : rows) value = normal[generator.Next() >> 48];
  for (int round = 0; round < kRounds; ++round) Improve(bits, rows, levels);
  TrellisTable table;
  table.unit = *std::max_element(levels.begin(), levels.end()) / kLargestLevel;
  for (size_t s = 0; s < kTrainedStates; ++s) {
    table.levels[s] = static_cast<signed char>(std::lround(levels[s] / table.unit));
  }
  return table;
}

}  // namespace polarquant
