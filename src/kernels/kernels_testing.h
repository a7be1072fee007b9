// SPDX-License-Identifier: Apache-2.0
// What the tests of kernels share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "format/tile_layout.h"
#include "kernels/kernels.h"
#include "math/rotation.h"
#include "polarquant/target.h"
#include "util/half.h"

namespace polarquant {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr int kHeadDims[] = {16, 48, 64, 80, 96, 112, 128, 144, 192, 256, 576, 1024};

inline std::vector<const Kernels*> AllKernels() {
  std::vector<const Kernels*> all;
  for (const Target& target : Targets()) all.push_back(target.kernels);
  return all;
}

inline std::vector<float> Gaussian(std::mt19937& random, size_t count, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> x(count);
  for (float& v : x) v = normal(random);
  return x;
}

// Any bytes are codes; scales of every size, a tenth of them zero.
struct Page {
  std::vector<std::byte> codes;
  std::vector<uint16_t> scales;
};
inline Page RandomPage(std::mt19937& random, int bits, int head_dim, int tokens) {
  Page page;
  page.codes.resize(static_cast<size_t>(tokens / kTileTokens) * TileBytes(bits, head_dim));
  for (std::byte& b : page.codes) b = static_cast<std::byte>(random() & 255);
  page.scales.resize(RotationBlocks(head_dim).size() * static_cast<size_t>(tokens));
  constexpr float kSizes[] = {0.0f, 6e-8f, 1e-3f, 0.1f, 0.5f, 1.0f, 1.0f, 3.0f, 40.0f, 6e4f};
  for (uint16_t& s : page.scales) s = FloatToHalf(kSizes[random() % std::size(kSizes)]);
  return page;
}

}  // namespace polarquant
