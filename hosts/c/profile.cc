// SPDX-License-Identifier: Apache-2.0
// Host: C. What is known of a layer's keys: given by the caller, or observed.
#include <algorithm>
#include <span>
#include <vector>

#include "checks.h"
#include "handles.h"
#include "polarquant/codec.h"
#include "polarquant/model_profile.h"

namespace polarquant::c {
namespace {

constexpr int32_t kMaxHeads = 65536;

std::vector<float> ListOf(const float* values, size_t count) {
  if (values == nullptr) return {};
  return {values, values + count};
}

}  // namespace

Rope RopeOf(pq_rope_pairing pairing, int32_t dims) {
  Rope rope;
  rope.dims = dims;
  switch (pairing) {
    case PQ_ROPE_NONE:
      rope.pairing = Rope::Pairing::kNone;
      return rope;
    case PQ_ROPE_ADJACENT:
      rope.pairing = Rope::Pairing::kAdjacent;
      return rope;
    case PQ_ROPE_HALVES:
      rope.pairing = Rope::Pairing::kHalves;
      return rope;
    default:
      Refuse("rope_pairing is " + std::to_string(pairing) +
             "; it must be PQ_ROPE_NONE (0), PQ_ROPE_ADJACENT (1) or PQ_ROPE_HALVES (2)");
  }
}

std::shared_ptr<const KeyProfile> ProfileOf(const pq_key_profile* given, int32_t num_kv_heads,
                                            int32_t head_dim) {
  if (given == nullptr) return nullptr;
  const pq_key_profile from = Taken<pq_key_profile>(given, "profile", PQ_KEY_PROFILE_INIT);
  CheckRange<int32_t>("num_kv_heads", num_kv_heads, 1, kMaxHeads);
  CheckHeadDim(head_dim);
  CheckRange<int32_t>("rope_dims", from.rope_dims, 0, head_dim);
  const auto row = static_cast<size_t>(num_kv_heads) * static_cast<size_t>(head_dim);
  const size_t map = row * static_cast<size_t>(head_dim);
  auto profile = std::make_shared<KeyProfile>();
  profile->balance = ListOf(from.balance, row);
  profile->mean = ListOf(from.mean, row);
  profile->dense = ListOf(from.dense, map);
  profile->dense_inverse = ListOf(from.dense_inverse, map);
  profile->rope = RopeOf(from.rope_pairing, from.rope_dims);
  if (from.rope_frequencies != nullptr) {
    profile->rope.frequencies.assign(from.rope_frequencies,
                                     from.rope_frequencies + from.rope_dims / 2);
  }
  profile->Check(num_kv_heads, head_dim);
  return profile;
}

namespace {

struct Observed {
  const pq_observation from;

  void Check(size_t num_balance) const {
    CheckHeadDim(from.head_dim);
    CheckRange<int32_t>("num_kv_heads", from.num_kv_heads, 1, kMaxHeads);
    if (from.num_q_heads <= 0 || from.num_q_heads % from.num_kv_heads != 0) {
      Refuse("num_q_heads is " + std::to_string(from.num_q_heads) +
             "; it must be a multiple of the " + std::to_string(from.num_kv_heads) + " kv_heads");
    }
    if (from.page_tokens != 64 && from.page_tokens != 128 && from.page_tokens != 256) {
      Refuse("page_tokens is " + std::to_string(from.page_tokens) + "; choose 64, 128 or 256");
    }
    CheckRange<int64_t>("num_tokens", from.num_tokens, 1, INT32_MAX);
    CheckBytes("num_balance", num_balance, row());
    Needed(from.queries, "queries");
    Needed(from.keys, "keys");
    const int64_t dim = from.head_dim;
    CheckStride("query_stride", from.query_stride, from.num_tokens, dim);
    CheckStride("query_head_stride", from.query_head_stride, from.num_q_heads, dim);
    CheckStride("key_stride", from.key_stride, from.num_tokens, dim);
    CheckStride("key_head_stride", from.key_head_stride, from.num_kv_heads, dim);
    const bool none = from.rope_pairing == PQ_ROPE_NONE;
    if (from.rope_dims < 0 || from.rope_dims > from.head_dim || from.rope_dims % 2 != 0 ||
        none != (from.rope_dims == 0)) {
      Refuse("rope_dims is " + std::to_string(from.rope_dims) + " of " +
             std::to_string(from.head_dim) +
             " channels; it must be even, and 0 exactly if there is no pairing");
    }
  }

  size_t row() const {
    return static_cast<size_t>(from.num_kv_heads) * static_cast<size_t>(from.head_dim);
  }

  LayerProfile Observe() const {
    KeyObserver observer(0, from.num_kv_heads, from.head_dim,
                         RopeOf(from.rope_pairing, from.rope_dims));
    observer.AddQueries(from.queries, static_cast<int>(from.num_tokens), from.query_stride,
                        from.num_q_heads, from.query_head_stride);
    std::vector<float> page(static_cast<size_t>(from.page_tokens) * row());
    std::vector<int32_t> positions(static_cast<size_t>(from.page_tokens));
    for (int64_t first = 0; first < from.num_tokens; first += from.page_tokens) {
      const int64_t count = std::min<int64_t>(from.page_tokens, from.num_tokens - first);
      float* to = page.data();
      for (int64_t n = first; n < first + count; ++n) {
        for (int64_t h = 0; h < from.num_kv_heads; ++h, to += from.head_dim) {
          std::copy_n(from.keys + n * from.key_stride + h * from.key_head_stride, from.head_dim,
                      to);
        }
        positions[static_cast<size_t>(n - first)] = static_cast<int32_t>(n);
      }
      observer.AddPage(page.data(), static_cast<int>(count), static_cast<int64_t>(row()),
                       positions.data());
    }
    return observer.Finish(from.page_tokens);
  }
};

}  // namespace
}  // namespace polarquant::c

using namespace polarquant;
using namespace polarquant::c;

pq_status pq_observe_balance(const pq_observation* observation, float* balance,
                             size_t num_balance) {
  return Guard([&] {
    const Observed observed = {
        Taken<pq_observation>(observation, "observation", PQ_OBSERVATION_INIT)};
    observed.Check(num_balance);
    Needed(balance, "balance");
    KeyProfile profile;
    profile.balance = observed.Observe().balance;
    profile.Check(observed.from.num_kv_heads, observed.from.head_dim);  // NaN in, NaN out
    std::copy(profile.balance.begin(), profile.balance.end(), balance);
  });
}
