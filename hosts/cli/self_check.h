// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. One layer's attention on this machine against the reference.
#pragma once

#include <string>
#include <vector>

namespace polarquant::cli {

struct AttentionCheck {
  std::string scheme;  // "K/V"
  int head_dim;
  double error;  // |fast - reference| / |reference| over all outputs
  bool good;     // error within kMaxAttentionError
};

// Integer kernels round queries and weights to 15 bits and more; a wrong kernel is off by far more.
inline constexpr double kMaxAttentionError = 2e-3;

// What doctor and verify look at, "K/V" or one scheme for both.
inline const std::vector<std::string> kCheckedSchemes = {"f16",
                                                         "q8_0",
                                                         "q4_0",
                                                         "turbo4",
                                                         "turbo4:center/turbo4",
                                                         "turbo4:balanced/turbo4",
                                                         "turbo4:center/turbo3",
                                                         "turbo3",
                                                         "turbo2"};

// Random rows in a cache with closed pages, window and sinks, a causal mask, grouped heads; several
// head dimensions, those that the schemes take.
std::vector<AttentionCheck> CheckAttention(const std::vector<std::string>& schemes,
                                           int num_threads);

}  // namespace polarquant::cli
