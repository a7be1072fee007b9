// SPDX-License-Identifier: Apache-2.0
// Attention over a sequence cache: against the specification, and against a cell store.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "cache/random_profile.h"
#include "polarquant/attention.h"
#include "polarquant/cell_store.h"
#include "polarquant/error.h"
#include "polarquant/sequence_cache.h"
#include "util/half.h"

namespace polarquant {
namespace {

using Floats = std::vector<float>;
constexpr int kKvHeads = 2, kQueryHeads = 6;

Floats RandomFloats(std::mt19937& random, int64_t count) {
  std::normal_distribution<float> normal;
  Floats floats(static_cast<size_t>(count));
  for (float& value : floats) value = normal(random);
  return floats;
}

SequenceCache RandomCache(std::mt19937& random, const char* key, const char* value,
                          int64_t tokens) {
  SequenceCache::Config config;
  config.key = Scheme::Parse(key);
  config.value = Scheme::Parse(value);
  config.key_head_dim = 64;
  config.value_head_dim = 96;
  config.num_kv_heads = kKvHeads;
  config.window_tokens = 50;
  config.sink_tokens = 7;
  if (config.key.normalisation.needs_profile()) {
    config.profile = RandomProfile(kKvHeads, 64, Rope::Pairing::kHalves, 1);
  }
  SequenceCache cache(config);
  const Floats keys = RandomFloats(random, tokens * kKvHeads * 64);
  const Floats values = RandomFloats(random, tokens * kKvHeads * 96);
  cache.Append({keys.data(), NumberType::kF32, kKvHeads * 64, 64},
               {values.data(), NumberType::kF32, kKvHeads * 96, 96}, tokens, 2);
  cache.Settle(2);
  return cache;
}

struct Outcome {
  Floats output, lse;
};

Outcome Attended(AttentionCall call, const Floats& queries, int num_queries, int threads) {
  Outcome outcome = {Floats(static_cast<size_t>(num_queries * kQueryHeads * 96), 7.0f),
                     Floats(static_cast<size_t>(num_queries * kQueryHeads), 7.0f)};
  call.num_q_heads = kQueryHeads;
  call.num_queries = num_queries;
  call.queries = queries.data();
  call.query_stride = kQueryHeads * 64;
  call.query_head_stride = 64;
  call.scale = 0.125f;
  call.output = outcome.output.data();
  call.output_stride = kQueryHeads * 96;
  call.output_head_stride = 96;
  call.lse = outcome.lse.data();
  if (threads == 0) {
    AttendReference(call);
  } else {
    Attend(call, threads);
  }
  return outcome;
}

void ExpectNear(const Outcome& fast, const Outcome& reference) {
  for (size_t i = 0; i < fast.output.size(); ++i) {
    ASSERT_NEAR(fast.output[i], reference.output[i], 4e-3) << i;
  }
  for (size_t i = 0; i < fast.lse.size(); ++i) {
    if (std::isinf(reference.lse[i])) {
      ASSERT_EQ(fast.lse[i], reference.lse[i]) << i;
    } else {
      ASSERT_NEAR(fast.lse[i], reference.lse[i], 4e-3) << i;
    }
  }
}

TEST(SequenceAttention, AgreesWithTheSpecificationAfterForksAndCuts) {
  const char* const schemes[][2] = {{"turbo4:center", "turbo4"},
                                    {"turbo3:balanced", "turbo2"},
                                    {"q8_0:center=step", "turbo3"},
                                    {"turbo2", "q8_0"},
                                    {"q4_0", "turbo3:center"},
                                    {"f16", "zscore4"},
                                    {"kivi2", "f16"}};
  unsigned seed = 0;
  for (const auto& pair : schemes) {
    for (int round = 0; round < 4; ++round) {
      std::mt19937 random(++seed);
      const int64_t tokens = 1 + static_cast<int64_t>(random() % 900);
      SequenceCache cache = RandomCache(random, pair[0], pair[1], tokens);
      if (round % 2 == 1) {  // reopened and shared pages
        const SequenceCache other = cache;
        cache.Truncate(tokens - static_cast<int64_t>(random() % static_cast<uint64_t>(tokens)));
        const Floats rows = RandomFloats(random, 20 * kKvHeads * 96);
        const HostRows more = {rows.data(), NumberType::kF32, kKvHeads * 96, 96};
        cache.Append(more, more, 20, 1);
      }
      if (round >= 2) {
        cache.EvictFront(static_cast<int64_t>(random() % static_cast<uint64_t>(cache.length())));
      }
      const int64_t held = cache.length() - cache.first_token();
      for (const int wanted : {1, 5, 60}) {
        const int queries = static_cast<int>(std::min<int64_t>(wanted, held));
        const Floats rows = RandomFloats(random, queries * kQueryHeads * 64);
        AttentionCall call = cache.Call();
        EXPECT_EQ(call.num_cells - call.first_cell, held);
        ExpectNear(Attended(call, rows, queries, 2), Attended(call, rows, queries, 0));
        call.causal = true;
        ExpectNear(Attended(call, rows, queries, 2), Attended(call, rows, queries, 0));
        std::vector<uint16_t> mask(static_cast<size_t>(queries * held), 0);
        for (uint16_t& value : mask) {
          if (random() % 3 == 0) value = 0xfc00;
          if (random() % 50 == 0) value = FloatToHalf(-0.5f);
        }
        call.mask = mask.data();
        call.mask_stride = held;
        ExpectNear(Attended(call, rows, queries, 2), Attended(call, rows, queries, 0));
        call.causal = false;
        ExpectNear(Attended(call, rows, queries, 1), Attended(call, rows, queries, 0));
      }
    }
  }
}

TEST(SequenceAttention, CausalBlocksAreAsOneCall) {
  std::mt19937 random(4);
  const SequenceCache cache = RandomCache(random, "turbo4:center", "turbo4", 1300);
  const int queries = 1100;  // several blocks
  const Floats rows = RandomFloats(random, queries * kQueryHeads * 64);
  AttentionCall call = cache.Call();
  call.causal = true;
  const Outcome all = Attended(call, rows, queries, 2);
  for (const int n : {0, 1, 511, 512, 513, 1023, 1024, 1099}) {
    AttentionCall one = cache.Call();
    one.num_cells -= queries - 1 - n;
    const int64_t row = kQueryHeads * 64;
    const Outcome single =
        Attended(one, Floats(rows.begin() + n * row, rows.begin() + (n + 1) * row), 1, 1);
    for (int i = 0; i < kQueryHeads * 96; ++i) {
      ASSERT_NEAR(all.output[static_cast<size_t>(n * kQueryHeads * 96 + i)],
                  single.output[static_cast<size_t>(i)], 1e-3)
          << n;
    }
  }
}

TEST(SequenceAttention, ReadsExactRowsBeforeThereIsAProfile) {
  for (const char* key : {"turbo4:balanced", "turbo4:balance:center", "turbo3:dense"}) {
    std::mt19937 random(9);
    SequenceCache::Config config;
    config.key = Scheme::Parse(key);
    config.value = Scheme::Parse("turbo4");
    config.key_head_dim = 64;
    config.value_head_dim = 96;
    config.num_kv_heads = kKvHeads;
    SequenceCache waiting(config), exact = [&] {
      config.key = config.value = Scheme::Parse("f16");
      return SequenceCache(config);
    }();
    const Floats keys = RandomFloats(random, 200 * kKvHeads * 64);
    const Floats values = RandomFloats(random, 200 * kKvHeads * 96);
    for (SequenceCache* cache : {&waiting, &exact}) {
      cache->Append({keys.data(), NumberType::kF32, kKvHeads * 64, 64},
                    {values.data(), NumberType::kF32, kKvHeads * 96, 96}, 200, 1);
    }
    const Floats rows = RandomFloats(random, 5 * kQueryHeads * 64);
    ExpectNear(Attended(waiting.Call(), rows, 5, 2), Attended(exact.Call(), rows, 5, 0));
  }
}

TEST(SequenceAttention, RefusesACausalCallWithMoreQueriesThanCells) {
  std::mt19937 random(4);
  SequenceCache cache = RandomCache(random, "turbo4", "turbo4", 10);
  cache.EvictFront(5);
  const Floats rows = RandomFloats(random, 6 * kQueryHeads * 64);
  AttentionCall call = cache.Call();
  call.causal = true;
  EXPECT_THROW(Attended(call, rows, 6, 1), Error);
  EXPECT_THROW(Attended(call, rows, 6, 0), Error);
  call.causal = false;
  call.first_cell = 11;
  EXPECT_THROW(Attended(call, rows, 1, 1), Error);
}

}  // namespace
}  // namespace polarquant
