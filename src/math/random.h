// SPDX-License-Identifier: Apache-2.0
// Random numbers that are the same everywhere and for ever: signs of rotations, rows of sketches,
// tables of trellises.
#pragma once

#include <cstdint>
#include <vector>

namespace polarquant {

// Steele, Lea, Flood 2014.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t state) : state_(state) {}
  void Skip(uint64_t count) { state_ += count * kStep; }
  uint64_t Next() {
    uint64_t z = (state_ += kStep);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  uint64_t state_;
};

// The quantiles (i + 1/2) / count of N(0, 1), ascending and symmetric. Rounding to float hides how
// the machine computes erfc.
std::vector<float> NormalQuantiles(int count);

// 65536 of them: one drawn by 16 random bits is N(0, 1) for every purpose here.
const std::vector<float>& FineNormalQuantiles();

}  // namespace polarquant
