// SPDX-License-Identifier: Apache-2.0
// A made-up profile, for tests: balance scales over an order of magnitude, a mean, and RoPE
// over three quarters of the channels.
#pragma once

#include <cmath>
#include <memory>
#include <random>

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
  return profile;
}

}  // namespace polarquant
