// SPDX-License-Identifier: Apache-2.0
#include "observer.h"

#include <algorithm>

#include "kv_cache.h"
#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

constexpr int kPageTokens = 128;
// The first tokens draw attention for their own sake; they stay exact and out of the statistics.
constexpr int kSinkTokens = 4;
// Fewer rows than this say little about the spread within a page.
constexpr size_t kFewestRows = 32;

// The queries of the first tokens are unlike all others, and what they see is exact anyway.
bool SeesSinksOnly(const AttentionCall& call, int query) {
  if (call.mask == nullptr) return call.num_cells <= kSinkTokens;
  constexpr uint16_t kHidden = 0xfc00;
  const uint16_t* row = call.mask + query * call.mask_stride;
  int seen = 0;
  for (int64_t cell = 0; cell < call.num_cells && seen <= kSinkTokens; ++cell) {
    if (row[cell] != kHidden) ++seen;
  }
  return seen <= kSinkTokens;
}

}  // namespace

Observer& Observer::Get() {
  static Observer observer;
  return observer;
}

void Observer::Start(bool dense) {
  const std::lock_guard lock(mutex_);
  layers_.clear();
  dense_ = dense;
  active_ = true;
}

void Observer::Finish(const std::string& path) {
  const std::lock_guard lock(mutex_);
  active_ = false;
  ModelProfile profile;
  profile.page_tokens = kPageTokens;
  for (const auto& [layer, observer] : layers_) {
    profile.layers.push_back(observer.Finish());
    profile.tokens = std::max(profile.tokens, observer.num_keys());
  }
  layers_.clear();
  if (profile.layers.empty()) {
    throw Error(ErrorCode::kUnsupported,
                "no keys were written to our cache, there is nothing to make a profile of");
  }
  profile.Save(path);
}

KeyObserver& Observer::Of(const KvTensor& tensor) {
  const int num_kv_heads = static_cast<int>(tensor.row_values / tensor.head_dim);
  return layers_
      .try_emplace(tensor.parsed.layer, tensor.parsed.layer, num_kv_heads, tensor.head_dim,
                   tensor.rope.value_or(Rope{}), dense_)
      .first->second;
}

void Observer::Keys(const KvTensor& tensor, std::span<const int64_t> cells, const float* rows,
                    int64_t stride, const int32_t* positions) {
  const std::lock_guard lock(mutex_);
  if (!active_ || tensor.head_dim == 0) return;
  // Where no RoPE tells positions, cells tell the first tokens: what is observed is one sequence at
  // a time in a cache of its own, filled from its first cell.
  const std::vector<int32_t> numbers(cells.begin(), cells.end());
  if (positions == nullptr) positions = numbers.data();
  for (size_t first = 0; first < cells.size();) {
    size_t end = first + 1;
    while (end < cells.size() && cells[end] / kPageTokens == cells[first] / kPageTokens) ++end;
    size_t begin = first;
    while (begin < end && positions[begin] < kSinkTokens) ++begin;
    if (end - begin >= kFewestRows) {
      Of(tensor).AddPage(rows + static_cast<int64_t>(begin) * stride, static_cast<int>(end - begin),
                         stride, positions + begin);
    }
    first = end;
  }
}

void Observer::Queries(const KvTensor& tensor, const AttentionCall& call) {
  const std::lock_guard lock(mutex_);
  if (!active_) return;
  KeyObserver& observer = Of(tensor);
  for (int n = 0; n < call.num_queries; ++n) {
    if (SeesSinksOnly(call, n)) continue;
    observer.AddQueries(call.queries + n * call.query_stride, 1, call.query_stride,
                        call.num_q_heads, call.query_head_stride);
  }
}

int64_t Observer::QueriesSeen(const KvTensor& tensor) {
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find(tensor.parsed.layer);
  return found == layers_.end() ? 0 : found->second.num_queries();
}

std::optional<LayerProfile> Observer::Seen(const KvTensor& tensor, int64_t fewest_rows) {
  const std::lock_guard lock(mutex_);
  const auto found = layers_.find(tensor.parsed.layer);
  if (found == layers_.end() || found->second.num_keys() < fewest_rows ||
      found->second.num_queries() < fewest_rows) {
    return std::nullopt;
  }
  return found->second.Finish(fewest_rows);
}

}  // namespace polarquant::llama
