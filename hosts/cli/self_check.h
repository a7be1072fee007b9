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

// Random rows in a cache with closed pages, window and sinks, a causal mask, grouped heads; several
// schemes and head dimensions.
std::vector<AttentionCheck> CheckAttention(int num_threads);

}  // namespace polarquant::cli
