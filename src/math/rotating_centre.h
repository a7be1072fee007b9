// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise. The rotating centre of one kv_head: m_t = RoPE_t(mean). For a pair with mean
// (m, n), query (x, y) and phase p = t * frequency,
//
//   <q, m_t> = (x m + y n) cos p + (y m - x n) sin p
//
// so for consecutive positions the logits of a page are one product of a query's weights with a
// table of cosines and sines that is the same for every page, head and layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "polarquant/key_profile.h"

namespace polarquant {

// Cosine and sine of every pair's phase at positions 0 .. page_tokens - 1.
class TurnTable {
 public:
  TurnTable(const Rope& rope, int page_tokens);
  // The table there is, if somebody still holds it, else a new one. Thread-safe.
  static std::shared_ptr<const TurnTable> Share(const Rope& rope, int page_tokens);

  const Rope& rope() const { return rope_; }
  int page_tokens() const { return page_tokens_; }
  // Terms of a row: two a pair, then zeros up to a multiple of 16, as kernels like it.
  int num_terms() const { return (rope_.dims + 15) / 16 * 16; }
  const float* Row(int token) const { return turns_.data() + int64_t{token} * num_terms(); }
  size_t bytes() const { return turns_.size() * sizeof(float); }

 private:
  Rope rope_;
  int page_tokens_;
  std::vector<float> turns_;  // [page_tokens][num_terms]
};

class RotatingCentre {
 public:
  RotatingCentre(std::shared_ptr<const TurnTable> table, std::span<const float> mean);

  // rows[i] += sign * m at position first + i, for `count` rows of head_dim floats. What is added
  // depends on the position alone, to the last bit: what one call subtracts another adds back.
  void AddTo(int32_t first, int count, float sign, float* rows) const;

  // weights [num_queries][num_terms] of `queries` [num_queries][head_dim]: the logit at position
  // first + i, i < page_tokens, is <weights, table().Row(i)>.
  void Weigh(int32_t first, const float* queries, int num_queries, float* weights) const;
  const TurnTable& table() const { return *table_; }

  size_t bytes() const;  // that it holds, with its share of the table

 private:
  void AddBlock(int32_t base, int begin, int end, float sign, float* rows) const;
  // The means turned to a position: [dims / 2][2].
  void TurnedTo(int32_t position, float* means) const;

  std::shared_ptr<const TurnTable> table_;
  int head_dim_;
  std::vector<float> means_;  // [dims / 2][2], pair by pair
};

}  // namespace polarquant
