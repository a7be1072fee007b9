// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise: the rotating centre. Phases are found in double precision, so that rows far
// into a context are centred as well as the first.
#include "math/rotating_centre.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "polarquant/error.h"

namespace polarquant {

void KeyProfile::Check(int num_kv_heads, int head_dim) const {
  constexpr float kLargestScale = 4096.0f, kLargestMean = 65504.0f;
  const auto fail = [](const std::string& what) {
    throw Error(ErrorCode::kParameter, "key profile: " + what);
  };
  const size_t values = static_cast<size_t>(num_kv_heads) * static_cast<size_t>(head_dim);
  const auto check_size = [&](const std::vector<float>& list, const char* name) {
    if (list.empty() || list.size() == values) return;
    fail(std::string(name) + " has " + std::to_string(list.size()) + " values; " +
         std::to_string(num_kv_heads) + " heads of " + std::to_string(head_dim) + " need " +
         std::to_string(values));
  };
  check_size(balance, "balance");
  check_size(mean, "mean");
  for (const float scale : balance) {
    if (!(scale >= 1.0f / kLargestScale && scale <= kLargestScale)) {
      fail("balance scale " + std::to_string(scale) + " is not in [1/4096, 4096]");
    }
  }
  for (const float value : mean) {
    if (!(std::fabs(value) <= kLargestMean)) {
      fail("mean " + std::to_string(value) + " is not within +-65504");
    }
  }
  if (rope.dims < 0 || rope.dims % 2 != 0 || rope.dims > head_dim ||
      (rope.pairing == Rope::Pairing::kNone) != (rope.dims == 0)) {
    fail("RoPE turns " + std::to_string(rope.dims) + " of " + std::to_string(head_dim) +
         " channels; it must be an even number of them, and 0 exactly if there is no pairing");
  }
  if (!rope.frequencies.empty() && rope.frequencies.size() != static_cast<size_t>(rope.dims) / 2) {
    fail(std::to_string(rope.frequencies.size()) + " frequencies for " +
         std::to_string(rope.dims / 2) + " pairs");
  }
  for (const double frequency : rope.frequencies) {
    if (!std::isfinite(frequency)) fail("a frequency is not finite");
  }
}

RotatingCentre::RotatingCentre(const Rope& rope, std::span<const float> mean, int page_tokens)
    : head_dim_(static_cast<int>(mean.size())),
      page_tokens_(page_tokens),
      fixed_(mean.begin(), mean.end()) {
  for (int i = 0; i < rope.dims / 2; ++i) {
    const auto [a, b] = rope.Pair(i);
    float& mean_a = fixed_[static_cast<size_t>(a)];
    float& mean_b = fixed_[static_cast<size_t>(b)];
    if (mean_a != 0.0f || mean_b != 0.0f) {
      pairs_.push_back({a, b, rope.frequencies.at(static_cast<size_t>(i)),
                        static_cast<double>(mean_a), static_cast<double>(mean_b)});
    }
    mean_a = mean_b = 0.0f;
  }
  table_.reserve(static_cast<size_t>(page_tokens) * static_cast<size_t>(num_terms()));
  for (int t = 0; t < page_tokens; ++t) {
    for (const Pair& pair : pairs_) {
      table_.push_back(static_cast<float>(std::cos(pair.frequency * t)));
      table_.push_back(static_cast<float>(std::sin(pair.frequency * t)));
    }
    table_.push_back(1.0f);
    table_.resize(static_cast<size_t>((t + 1) * num_terms()));
  }
}

std::pair<double, double> RotatingCentre::At(const Pair& pair, int32_t position) {
  const double phase = pair.frequency * position;
  const double c = std::cos(phase), s = std::sin(phase);
  return {pair.mean_a * c - pair.mean_b * s, pair.mean_a * s + pair.mean_b * c};
}

// Phases are found where a block of page_tokens positions begins, and turned by the table from
// there.
void RotatingCentre::AddTo(int32_t first, int count, float sign, float* rows) const {
  while (count > 0) {
    const int begin = (first % page_tokens_ + page_tokens_) % page_tokens_;
    const int end = std::min(begin + count, page_tokens_);
    AddBlock(first - begin, begin, end, sign, rows);
    rows += static_cast<int64_t>(end - begin) * head_dim_;
    first += end - begin;
    count -= end - begin;
  }
}

void RotatingCentre::AddBlock(int32_t base, int begin, int end, float sign, float* rows) const {
  for (size_t p = 0; p < pairs_.size(); ++p) {
    const Pair& pair = pairs_[p];
    const auto [m, n] = At(pair, base);
    const float base_a = sign * static_cast<float>(m), base_b = sign * static_cast<float>(n);
    for (int t = begin; t < end; ++t) {
      const float* turn = &table_[static_cast<size_t>(t * num_terms()) + 2 * p];
      float* row = rows + static_cast<int64_t>(t - begin) * head_dim_;
      row[pair.a] += base_a * turn[0] - base_b * turn[1];
      row[pair.b] += base_a * turn[1] + base_b * turn[0];
    }
  }
  for (int t = begin; t < end; ++t, rows += head_dim_) {
    for (int i = 0; i < head_dim_; ++i) rows[i] += sign * fixed_[static_cast<size_t>(i)];
  }
}

void RotatingCentre::Weigh(int32_t first, const float* query, float* weights) const {
  float* end = weights + num_terms();
  for (const Pair& pair : pairs_) {
    const auto [mean_a, mean_b] = At(pair, first);
    const float m = static_cast<float>(mean_a), n = static_cast<float>(mean_b);
    const float x = query[pair.a], y = query[pair.b];
    *weights++ = x * m + y * n;
    *weights++ = y * m - x * n;
  }
  float fixed = 0.0f;
  for (int i = 0; i < head_dim_; ++i) fixed += query[i] * fixed_[static_cast<size_t>(i)];
  *weights++ = fixed;
  std::fill(weights, end, 0.0f);
}

}  // namespace polarquant
