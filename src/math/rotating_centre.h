// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise. The rotating centre of one kv_head: m_t = RoPE_t(mean). For a pair with mean
// (m, n), query (x, y) and phase p = t * frequency,
//
//   <q, m_t> = (x m + y n) cos p + (y m - x n) sin p
//
// so for consecutive positions the logits of a page are one product of a query's weights with a
// table of cosines and sines that is the same for every page.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "polarquant/key_profile.h"

namespace polarquant {

class RotatingCentre {
 public:
  // `mean` [head_dim]. The table covers `page_tokens` positions.
  RotatingCentre(const Rope& rope, std::span<const float> mean, int page_tokens);

  // rows[i] += sign * m at position first + i, for `count` rows of head_dim floats. What is added
  // depends on the position alone, to the last bit: what one call subtracts another adds back.
  void AddTo(int32_t first, int count, float sign, float* rows) const;

  // Logit at position first + i, i < page_tokens: <weights, table row i>.
  // A multiple of 16, as kernels like it; what is left over is zero.
  int num_terms() const { return (2 * static_cast<int>(pairs_.size()) + 1 + 15) / 16 * 16; }
  void Weigh(int32_t first, const float* query, float* weights) const;  // [num_terms]
  size_t bytes() const {                                                // that it holds
    return sizeof(*this) + pairs_.size() * sizeof(Pair) +
           (fixed_.size() + table_.size()) * sizeof(float);
  }
  const float* table() const { return table_.data(); }  // [page_tokens][num_terms]

 private:
  struct Pair {
    int a, b;          // channels
    double frequency;  // radians a position
    double mean_a, mean_b;
  };
  void AddBlock(int32_t base, int begin, int end, float sign, float* rows) const;
  // The pair's mean at a position.
  static std::pair<double, double> At(const Pair& pair, int32_t position);

  int head_dim_, page_tokens_;
  std::vector<Pair> pairs_;   // those whose mean is not zero
  std::vector<float> fixed_;  // [head_dim]: means of channels that do not turn
  std::vector<float> table_;
};

}  // namespace polarquant
