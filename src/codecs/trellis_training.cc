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
#include <utility>
#include <vector>

#include "math/random.h"

namespace polarquant {
namespace {

constexpr int kSize = 128;
constexpr int kRows = 512;  // with their mirrors 512 values for every level
constexpr int kRounds = 30;
constexpr float kLargestLevel = 127.0f;

std::vector<float> FirstLevels(SplitMix64& generator) {
  std::vector<float> levels = NormalQuantiles(kTrellisStates);
  constexpr size_t kHalf = kTrellisStates / 2;
  std::vector<float> positive(levels.begin() + kHalf, levels.end());
  for (size_t i = kHalf - 1; i > 0; --i) {
    std::swap(positive[i], positive[generator.Next() % (i + 1)]);
  }
  for (size_t s = 0; s < kHalf; ++s) {
    levels[s] = generator.Next() % 2 == 0 ? positive[s] : -positive[s];
    levels[kTrellisStates - 1 - s] = -levels[s];
  }
  return levels;
}

void Improve(int bits, const std::vector<float>& rows, std::vector<float>& levels) {
  double sums[kTrellisStates] = {};
  int counts[kTrellisStates] = {};
  for (size_t r = 0; r < rows.size(); r += kSize) {
    uint8_t codes[kSize], states[kSize];
    EncodeTrellis(bits, levels.data(), &rows[r], kSize, codes);
    StatesOf(bits, codes, kSize, states);
    for (size_t i = 0; i < kSize; ++i) {
      sums[states[i]] += static_cast<double>(rows[r + i]);
      ++counts[states[i]];
    }
  }
  for (size_t s = 0; s < kTrellisStates / 2; ++s) {
    const size_t mirror = kTrellisStates - 1 - s;
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
  std::vector<float> levels = FirstLevels(generator);
  std::vector<float> rows(size_t{kRows} * kSize);
  for (float& value : rows) value = normal[generator.Next() >> 48];
  for (int round = 0; round < kRounds; ++round) Improve(bits, rows, levels);
  TrellisTable table;
  table.unit = *std::max_element(levels.begin(), levels.end()) / kLargestLevel;
  for (size_t s = 0; s < kTrellisStates; ++s) {
    table.levels[s] = static_cast<signed char>(std::lround(levels[s] / table.unit));
  }
  return table;
}

}  // namespace polarquant
