// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the channels of a page with the largest norms, for codecs that keep them
// apart (Zandieh et al., QJL 2024 and TurboQuant 2025). A page's header holds them as a mask of
// head_dim bits (codecs/pack.h), 1 for a loud channel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "codecs/pack.h"
#include "math/rotation.h"

namespace polarquant {

// Marks the `num_loud` channels with the largest sum of squares over `rows` [count][head_dim]; of
// equals the first ones.
inline void MarkLoudChannels(const float* rows, int count, int head_dim, int num_loud,
                             std::byte* mask) {
  std::vector<double> energy(static_cast<size_t>(head_dim));
  for (int r = 0; r < count; ++r, rows += head_dim) {
    for (int i = 0; i < head_dim; ++i) {
      energy[static_cast<size_t>(i)] += static_cast<double>(rows[i]) * rows[i];
    }
  }
  std::vector<size_t> channels(energy.size());
  std::iota(channels.begin(), channels.end(), size_t{0});
  std::stable_sort(channels.begin(), channels.end(),
                   [&](size_t a, size_t b) { return energy[a] > energy[b]; });
  uint8_t loud[kMaxHeadDim] = {};
  for (int i = 0; i < num_loud; ++i) loud[channels[static_cast<size_t>(i)]] = 1;
  PackCodes(loud, head_dim, 1, mask);
}

}  // namespace polarquant
