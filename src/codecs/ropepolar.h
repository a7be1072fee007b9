// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the shape of ropepolar's records, and scores that never decode a row.
#pragma once

#include <cstddef>
#include <utility>

#include "polarquant/scheme.h"

namespace polarquant {

struct RopePolarShape {
  int head_dim;
  int radius_bits, angle_bits;  // 8 at most together
  bool adjacent;      // RoPE turns channels 2j and 2j + 1; otherwise j and j + head_dim / 2
  bool shortest_arc;  // what the angles' range is, see ropepolar.cc

  int num_pairs() const { return head_dim / 2; }
  int code_bits() const { return radius_bits + angle_bits; }
  size_t record_bytes() const { return static_cast<size_t>(num_pairs() * code_bits() + 7) / 8; }
  // The channels of a pair.
  std::pair<int, int> PairOf(int pair) const {
    return adjacent ? std::pair(2 * pair, 2 * pair + 1) : std::pair(pair, pair + num_pairs());
  }
};

// Throws Error(kUnsupported) for more than 8 bits a pair.
RopePolarShape RopePolarShapeOf(const Scheme& scheme, int head_dim);

// scores[i] = <query, row i> for `count` records that share a header, one after another. A pair has
// few angles: what the query makes of each is computed once for the whole group, and a row costs a
// look-up and a product for each pair.
void ScoreRopePolar(const RopePolarShape& shape, const std::byte* header, const float* query,
                    const std::byte* records, int count, float* scores);

}  // namespace polarquant
