// SPDX-License-Identifier: Apache-2.0
// What is known of the keys of one layer before a row is seen: what the normalisations `balance`
// and `center=step` need (polarquant/scheme.h). Plain data; found once for a model by observing its
// queries and keys on any text.
//
// Balance. The noise of a quantiser on A u (u a centred key, A a diagonal map) is white and
// proportional to |A u|^2; the logit error it leaves, with queries mapped by A^-1, is proportional
// to (sum_i E q_i^2 / a_i^2)(sum_i a_i^2 E u_i^2), which by Cauchy and Schwarz is least for
//
//   a_i = (E q_i^2 / E u_i^2)^(1/4)
//
// Channels that RoPE turns into each other must share one scale, or it would drift with position:
// their moments are averaged first.
//
// Dense map. With any invertible A the error is proportional to tr(A^-T Q A^-1) tr(A V A^T), Q and
// V the second moments of queries and centred keys. With Q = S S and S V S = U L U^T it is least
// for
//
//   A = L^(-1/4) U^T S
//
// which gives both the moments L^(1/2): the balanced realisation of control theory (Moore 1981).
// The moments are those after RoPE, over many positions.
//
// Stepped centre. Before RoPE, a head's keys have a mean (a bias, mostly). After it the mean turns
// with the position. Positions are cut into aligned steps; the mean of RoPE_t(mean) over the row's
// step is subtracted before coding, and its share of the logit, <q, m>, is added back exactly.
#pragma once

#include <utility>
#include <vector>

namespace polarquant {

// Which channels RoPE (Su et al. 2021) turns, and how fast. Channels from `dims` on are left alone.
struct Rope {
  enum class Pairing {
    kNone,      // no RoPE
    kAdjacent,  // channels 2i and 2i + 1
    kHalves,    // channels i and i + dims / 2
  };
  Pairing pairing = Pairing::kNone;
  int dims = 0;  // even; 0 without RoPE
  std::vector<double>
      frequencies;         // [dims / 2] radians a position; may be empty but for center=step
  double magnitude = 1.0;  // the length of a unit pair once turned: 1, but for YaRN

  std::pair<int, int> Pair(int index) const {
    if (pairing == Pairing::kAdjacent) return {2 * index, 2 * index + 1};
    return {index, index + dims / 2};
  }
  bool operator==(const Rope&) const = default;
};

struct KeyProfile {
  std::vector<float> balance;  // [num_kv_heads][head_dim], each in [1/4096, 4096]; empty if unknown
  // [num_kv_heads][head_dim], before RoPE: of every channel. Empty if unknown.
  std::vector<float> mean;
  Rope rope;
  // [num_kv_heads][head_dim][head_dim], row by row: the dense map and its inverse. Both or neither.
  std::vector<float> dense, dense_inverse;

  // Throws Error(kParameter) naming the first value that is not finite or out of range, or a length
  // that does not fit.
  void Check(int num_kv_heads, int head_dim) const;
  bool operator==(const KeyProfile&) const = default;
};

}  // namespace polarquant
