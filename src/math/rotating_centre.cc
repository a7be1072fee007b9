// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise: the rotating centre. Phases are found in double precision, so that rows far
// into a context are centred as well as the first.
#include "math/rotating_centre.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>
#include <string>

#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {

void KeyProfile::Check(int num_kv_heads, int head_dim) const {
  constexpr float kLargestScale = 4096.0f, kLargestMean = 65504.0f;
  const auto fail = [](const std::string& what) {
    throw Error(ErrorCode::kParameter, "key profile: " + what);
  };
  const size_t values = static_cast<size_t>(num_kv_heads) * static_cast<size_t>(head_dim);
  const auto check_size = [&](const std::vector<float>& list, const char* name, size_t needed) {
    if (list.empty() || list.size() == needed) return;
    fail(std::string(name) + " has " + std::to_string(list.size()) + " values; " +
         std::to_string(num_kv_heads) + " heads of " + std::to_string(head_dim) + " need " +
         std::to_string(needed));
  };
  check_size(balance, "balance", values);
  check_size(mean, "mean", values);
  check_size(dense, "dense", values * static_cast<size_t>(head_dim));
  check_size(dense_inverse, "dense_inverse", dense.size());
  for (const float value : dense) {
    if (!std::isfinite(value)) fail("the dense map has a value that is not finite");
  }
  for (const float value : dense_inverse) {
    if (!std::isfinite(value)) fail("the dense map cannot be inverted");
  }
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
  for (size_t i = 0; i < mean.size(); ++i) {
    const auto channel = static_cast<int>(i % static_cast<size_t>(head_dim));
    if (channel >= rope.dims && mean[i] != 0.0f) {
      fail("channel " + std::to_string(channel) + " has a mean but does not turn");
    }
  }
  if (!rope.frequencies.empty() && rope.frequencies.size() != static_cast<size_t>(rope.dims) / 2) {
    fail(std::to_string(rope.frequencies.size()) + " frequencies for " +
         std::to_string(rope.dims / 2) + " pairs");
  }
  for (const double frequency : rope.frequencies) {
    if (!std::isfinite(frequency)) fail("a frequency is not finite");
  }
}

TurnTable::TurnTable(const Rope& rope, int page_tokens) : rope_(rope), page_tokens_(page_tokens) {
  for (int t = 0; t < page_tokens; ++t) {
    for (int i = 0; i < rope.dims / 2; ++i) {
      const double phase = rope.frequencies.at(static_cast<size_t>(i)) * t;
      turns_.push_back(static_cast<float>(std::cos(phase)));
      turns_.push_back(static_cast<float>(std::sin(phase)));
    }
    turns_.resize(static_cast<size_t>(t + 1) * static_cast<size_t>(num_terms()));
  }
}

std::shared_ptr<const TurnTable> TurnTable::Share(const Rope& rope, int page_tokens) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<const TurnTable>> tables;
  const std::lock_guard lock(mutex);
  std::erase_if(tables, [](const auto& entry) { return entry.expired(); });
  for (const auto& entry : tables) {
    auto table = entry.lock();
    if (table != nullptr && table->page_tokens() == page_tokens && table->rope() == rope) {
      return table;
    }
  }
  auto table = std::make_shared<const TurnTable>(rope, page_tokens);
  tables.emplace_back(table);
  return table;
}

RotatingCentre::RotatingCentre(std::shared_ptr<const TurnTable> table, std::span<const float> mean)
    : table_(std::move(table)), head_dim_(static_cast<int>(mean.size())) {
  const Rope& rope = table_->rope();
  for (int i = 0; i < rope.dims / 2; ++i) {
    const auto [a, b] = rope.Pair(i);
    means_.push_back(mean[static_cast<size_t>(a)]);
    means_.push_back(mean[static_cast<size_t>(b)]);
  }
}

size_t RotatingCentre::bytes() const {
  const auto holders = std::max(table_.use_count(), 1L);
  const size_t share = table_->bytes() / static_cast<size_t>(holders);
  return sizeof(*this) + means_.size() * sizeof(float) + share;
}

// The phase is reduced to one turn in double precision; what is left needs no more than f32.
void RotatingCentre::TurnedTo(int32_t position, float* means) const {
  const Rope& rope = table_->rope();
  constexpr double kTurn = 2.0 * std::numbers::pi;
  for (size_t i = 0; i < rope.frequencies.size(); ++i) {
    const double phase = rope.frequencies[i] * position;
    const auto rest = static_cast<float>(phase - kTurn * std::round(phase / kTurn));
    const float c = std::cos(rest), s = std::sin(rest);
    const float m = means_[2 * i], n = means_[2 * i + 1];
    means[2 * i] = m * c - n * s;
    means[2 * i + 1] = m * s + n * c;
  }
}

// Phases are found where a block of page_tokens positions begins, and turned by the table from
// there.
void RotatingCentre::AddTo(int32_t first, int count, float sign, float* rows) const {
  const int page_tokens = table_->page_tokens();
  while (count > 0) {
    const int begin = (first % page_tokens + page_tokens) % page_tokens;
    const int end = std::min(begin + count, page_tokens);
    AddBlock(first - begin, begin, end, sign, rows);
    rows += static_cast<int64_t>(end - begin) * head_dim_;
    first += end - begin;
    count -= end - begin;
  }
}

void RotatingCentre::AddBlock(int32_t base, int begin, int end, float sign, float* rows) const {
  const Rope& rope = table_->rope();
  float means[kMaxHeadDim] = {};
  TurnedTo(base, means);
  for (int t = begin; t < end; ++t, rows += head_dim_) {
    const float* turns = table_->Row(t);
    for (int i = 0; i < rope.dims / 2; ++i) {
      const auto [a, b] = rope.Pair(i);
      const float m = sign * means[2 * i], n = sign * means[2 * i + 1];
      rows[a] += m * turns[2 * i] - n * turns[2 * i + 1];
      rows[b] += m * turns[2 * i + 1] + n * turns[2 * i];
    }
  }
}

void RotatingCentre::Weigh(int32_t first, const float* queries, int num_queries,
                           float* weights) const {
  const Rope& rope = table_->rope();
  const int num_terms = table_->num_terms();
  float means[kMaxHeadDim] = {};
  TurnedTo(first, means);
  for (int r = 0; r < num_queries; ++r, queries += head_dim_, weights += num_terms) {
    for (int i = 0; i < rope.dims / 2; ++i) {
      const auto [a, b] = rope.Pair(i);
      const float m = means[2 * i], n = means[2 * i + 1], x = queries[a], y = queries[b];
      weights[2 * i] = x * m + y * n;
      weights[2 * i + 1] = y * m - x * n;
    }
    std::fill(weights + rope.dims, weights + num_terms, 0.0f);
  }
}

}  // namespace polarquant
