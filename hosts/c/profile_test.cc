// SPDX-License-Identifier: Apache-2.0
// What is known of keys: observed through C as through C++, and profiles that do not fit.
#include <cmath>
#include <limits>

#include "c_testing.h"
#include "polarquant/model_profile.h"

namespace polarquant {
namespace {

using namespace c_testing;

constexpr int kDim = 32, kHeads = 2, kQueryHeads = 4, kTokens = 300;

// Queries and keys [head][token][channel].
struct Observation {
  Floats queries = Random(kQueryHeads * kTokens * kDim, 1);
  Floats keys = Random(kHeads * kTokens * kDim, 2);
  pq_observation c = PQ_OBSERVATION_INIT;

  Observation() {
    for (size_t i = 0; i < keys.size(); ++i) keys[i] *= 0.2f + static_cast<float>(i % 5);
    c.queries = queries.data();
    c.query_stride = c.key_stride = kDim;
    c.query_head_stride = c.key_head_stride = kTokens * kDim;
    c.keys = keys.data();
    c.num_tokens = kTokens;
    c.num_q_heads = kQueryHeads;
    c.num_kv_heads = kHeads;
    c.head_dim = kDim;
    c.rope_pairing = PQ_ROPE_HALVES;
    c.rope_dims = kDim;
  }
};

Floats Expected(const Observation& from, Rope::Pairing pairing, int dims) {
  KeyObserver observer(0, kHeads, kDim, {pairing, dims, {}});
  observer.AddQueries(from.queries.data(), kTokens, kDim, kQueryHeads, kTokens * kDim);
  Floats rows;
  std::vector<int32_t> positions;
  for (int n = 0; n < kTokens; ++n) {
    positions.push_back(n);
    for (int h = 0; h < kHeads; ++h) {
      const float* key = from.keys.data() + (h * kTokens + n) * kDim;
      rows.insert(rows.end(), key, key + kDim);
    }
  }
  for (int first = 0; first < kTokens; first += 128) {
    observer.AddPage(rows.data() + first * kHeads * kDim, std::min(128, kTokens - first),
                     kHeads * kDim, positions.data() + first);
  }
  return observer.Finish().balance;
}

TEST(CProfile, ObservesTheBalanceThatCxxObserves) {
  Observation from;
  Floats balance(kHeads * kDim);
  ASSERT_TRUE(Ok(pq_observe_balance(&from.c, balance.data(), balance.size())));
  EXPECT_EQ(balance, Expected(from, Rope::Pairing::kHalves, kDim));
  from.c.rope_pairing = PQ_ROPE_ADJACENT;
  from.c.rope_dims = kDim / 2;
  ASSERT_TRUE(Ok(pq_observe_balance(&from.c, balance.data(), balance.size())));
  EXPECT_EQ(balance, Expected(from, Rope::Pairing::kAdjacent, kDim / 2));
  from.c.rope_pairing = PQ_ROPE_NONE;
  from.c.rope_dims = 0;
  ASSERT_TRUE(Ok(pq_observe_balance(&from.c, balance.data(), balance.size())));
  EXPECT_EQ(balance, Expected(from, Rope::Pairing::kNone, 0));
}

TEST(CProfile, OnePageOfAPromptIsEnough) {
  Observation from;
  from.c.num_tokens = 128;
  Floats balance(kHeads * kDim);
  ASSERT_TRUE(Ok(pq_observe_balance(&from.c, balance.data(), balance.size())));
  for (const float scale : balance) EXPECT_TRUE(std::isfinite(scale) && scale > 0.0f) << scale;
  EXPECT_NE(balance[0], balance[1]);
}

TEST(CProfile, RefusesObservationsThatDoNotFit) {
  Floats balance(kHeads * kDim);
  const auto refused = [&](auto change, std::initializer_list<const char*> words,
                           pq_status status = PQ_ERROR_PARAMETER) {
    Observation from;
    change(from.c);
    EXPECT_TRUE(
        Refused(status, pq_observe_balance(&from.c, balance.data(), balance.size()), words));
  };
  using C = pq_observation;
  refused([](C& c) { c.struct_size = 1; }, {"observation.struct_size is 1"});
  refused([](C& c) { c.queries = nullptr; }, {"queries is NULL"});
  refused([](C& c) { c.keys = nullptr; }, {"keys is NULL"});
  refused([](C& c) { c.head_dim = 33; }, {"33"}, PQ_ERROR_UNSUPPORTED);
  refused([](C& c) { c.num_kv_heads = 0; }, {"num_kv_heads is 0", "between 1 and"});
  refused([](C& c) { c.num_q_heads = 3; }, {"num_q_heads is 3", "multiple of the 2"});
  refused([](C& c) { c.page_tokens = 1; }, {"page_tokens is 1", "64, 128 or 256"});
  refused([](C& c) { c.num_tokens = 0; }, {"num_tokens is 0"});
  refused([](C& c) { c.num_tokens = 1; }, {"1 keys and 1 queries"});
  refused([](C& c) { c.query_stride = 1; }, {"query_stride is 1"});
  refused([](C& c) { c.query_head_stride = 1; }, {"query_head_stride is 1"});
  refused([](C& c) { c.key_stride = 31; }, {"key_stride is 31", "32"});
  refused([](C& c) { c.key_head_stride = 0; }, {"key_head_stride is 0"});
  refused([](C& c) { c.rope_dims = 3; }, {"rope_dims is 3", "even"});
  refused([](C& c) { c.rope_dims = 64; }, {"rope_dims is 64"});
  refused([](C& c) { c.rope_pairing = PQ_ROPE_NONE; }, {"rope_dims is 32"});
  refused([](C& c) { c.rope_pairing = 9; }, {"rope_pairing is 9", "PQ_ROPE_HALVES"});
  Observation from;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_observe_balance(nullptr, balance.data(), 64),
                      {"observation is NULL"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_observe_balance(&from.c, balance.data(), 63),
                      {"num_balance is 63", "64"}));
  EXPECT_TRUE(
      Refused(PQ_ERROR_PARAMETER, pq_observe_balance(&from.c, nullptr, 64), {"balance is NULL"}));
}

TEST(CProfile, RefusesProfilesThatDoNotFit) {
  const auto refused = [](auto change, std::initializer_list<const char*> words) {
    Floats balance = Scales(kDim);
    pq_key_profile profile = PQ_KEY_PROFILE_INIT;
    profile.balance = balance.data();
    change(profile, balance);
    pq_page_config config = PQ_PAGE_CONFIG_INIT;
    config.scheme = "turbo4:balanced";
    config.head_dim = kDim;
    config.profile = &profile;
    pq_page_format* format = nullptr;
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_page_format_create(&config, &format), words));
  };
  using Profile = pq_key_profile;
  refused([](Profile&, Floats& b) { b[3] = 5000.0f; }, {"5000", "[1/4096, 4096]"});
  refused([](Profile&, Floats& b) { b[3] = std::numeric_limits<float>::quiet_NaN(); }, {"nan"});
  refused([](Profile& p, Floats&) { p.struct_size = 0; }, {"profile.struct_size is 0"});
  refused([](Profile& p, Floats&) { p.rope_pairing = -1; }, {"rope_pairing is -1"});
  refused([](Profile& p, Floats&) { p.rope_dims = 34; }, {"rope_dims is 34", "between 0 and 32"});
  refused([](Profile& p, Floats&) { p.rope_pairing = PQ_ROPE_HALVES; }, {"RoPE turns 0 of 32"});
  refused(
      [](Profile& p, Floats& b) {
        p.dense = b.data();
        p.dense = nullptr;
        b[0] = 0.0f;
      },
      {"0.000000"});
}

TEST(CProfile, TakesDenseMaps) {
  Floats dense(kDim * kDim), inverse(kDim * kDim);
  for (size_t i = 0; i < kDim; ++i) {
    dense[i * kDim + (i + 1) % kDim] = 2.0f;  // a turn of the channels
    inverse[(i + 1) % kDim * kDim + i] = 0.5f;
  }
  pq_key_profile profile = PQ_KEY_PROFILE_INIT;
  profile.dense = dense.data();
  profile.dense_inverse = inverse.data();
  pq_page_config config = PQ_PAGE_CONFIG_INIT;
  config.scheme = "turbo8:dense";
  config.head_dim = kDim;
  config.page_tokens = 64;
  config.profile = &profile;
  pq_page_format* format = nullptr;
  ASSERT_TRUE(Ok(pq_page_format_create(&config, &format)));
  const PageFormatPtr owner(format);
  pq_page_sizes sizes = PQ_PAGE_SIZES_INIT;
  ASSERT_TRUE(Ok(pq_page_format_sizes(format, &sizes)));
  Page page(sizes.page_bytes);
  const Floats rows = Random(64 * kDim, 3);
  Floats got(rows.size());
  ASSERT_TRUE(Ok(pq_page_encode(format, rows.data(), kDim, 64, page.data(), page.size())));
  ASSERT_TRUE(Ok(pq_page_decode(format, page.data(), page.size(), 64, got.data(), kDim)));
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_NEAR(got[i], rows[i], 0.1f);
}

}  // namespace
}  // namespace polarquant
