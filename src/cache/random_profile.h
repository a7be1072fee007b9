// SPDX-License-Identifier: Apache-2.0
// A made-up profile, for tests: balance scales over an order of magnitude, a mean, RoPE over three
// quarters of the channels, and a dense map: a reflection of each head, then its balance scales.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "polarquant/key_profile.h"

namespace polarquant {

inline std::shared_ptr<const KeyProfile> RandomProfile(int num_kv_heads, int head_dim,
                                                       Rope::Pairing pairing, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  auto profile = std::make_shared<KeyProfile>();
  profile->rope.pairing = pairing;
  if (pairing != Rope::Pairing::kNone) profile->rope.dims = head_dim * 3 / 4 / 2 * 2;
  for (int i = 0; i < profile->rope.dims / 2; ++i) {
    profile->rope.frequencies.push_back(std::pow(10000.0, -2.0 * i / profile->rope.dims));
  }
  for (int i = 0; i < num_kv_heads * head_dim; ++i) {
    profile->balance.push_back(std::exp(0.5f * normal(random)));
    const bool turns = i % head_dim < profile->rope.dims && i % 3 != 0;
    profile->mean.push_back(turns ? 2.0f * normal(random) : 0.0f);
  }
  for (int head = 0; head < num_kv_heads; ++head) {
    std::vector<float> w;
    double norm2 = 0;
    for (int i = 0; i < head_dim; ++i) {
      w.push_back(normal(random));
      norm2 += static_cast<double>(w.back()) * static_cast<double>(w.back());
    }
    const float* scales = profile->balance.data() + head * head_dim;
    for (int i = 0; i < head_dim * head_dim; ++i) {
      const int row = i / head_dim, column = i % head_dim;
      const double reflected = (row == column ? 1.0 : 0.0) -
                               2.0 / norm2 * static_cast<double>(w[static_cast<size_t>(row)]) *
                                   static_cast<double>(w[static_cast<size_t>(column)]);
      profile->dense.push_back(static_cast<float>(reflected * static_cast<double>(scales[row])));
      profile->dense_inverse.push_back(
          static_cast<float>(reflected / static_cast<double>(scales[column])));
    }
  }
  return profile;
}

}  // namespace polarquant
