// SPDX-License-Identifier: Apache-2.0
// The sequence cache through C beside one through C++: the same rows, the same memory.
#include "polarquant/sequence_cache.h"

#include <bit>
#include <cstring>
#include <thread>

#include "sequence_testing.h"

namespace polarquant {
namespace {

using namespace c_testing;

TEST(CSequence, IsTheSequenceCacheOfCxxAtEveryStep) {
  Twins twins;
  twins.Append(100);
  twins.Compare();
  twins.Settle();
  twins.Compare();
  twins.Append(200);
  twins.Settle();
  twins.Compare();
  EXPECT_GT(MemoryOf(twins.c.get()).code_bytes, 0u);
  ASSERT_TRUE(Ok(pq_sequence_cache_truncate(twins.c.get(), 150)));
  twins.cpp->Truncate(150);
  twins.Compare();
  twins.Append(70);
  twins.Settle();
  twins.Compare();
  ASSERT_TRUE(Ok(pq_sequence_cache_evict_front(twins.c.get(), 80)));
  twins.cpp->EvictFront(80);
  twins.Compare();
  EXPECT_EQ(StateOf(twins.c.get()).first_token, 80);
  ASSERT_TRUE(Ok(pq_sequence_cache_clear(twins.c.get())));
  twins.cpp->Clear();
  twins.Compare();
  EXPECT_EQ(StateOf(twins.c.get()).length, 0);
}

TEST(CSequence, ForksAndCountsWhatForksShareOnce) {
  Twins twins;
  twins.Append(300);
  twins.Settle();
  const SequencePtr fork = Fork(twins.c.get());
  const SequenceCache cpp_fork(*twins.cpp);
  const Floats before = RowsOf(fork.get(), PQ_KEY, 2, 64);
  const pq_sequence_cache* both[] = {twins.c.get(), fork.get()};
  pq_memory_use together = PQ_MEMORY_USE_INIT;
  ASSERT_TRUE(Ok(pq_sequence_cache_memory_of(both, 2, &together)));
  const SequenceCache* const cpp_both[] = {twins.cpp.get(), &cpp_fork};
  ExpectEqual(together, SequenceCache::MemoryOf(cpp_both));
  EXPECT_EQ(together.code_bytes, MemoryOf(fork.get()).code_bytes);
  ASSERT_TRUE(Ok(pq_sequence_cache_truncate(twins.c.get(), 10)));
  twins.cpp->Truncate(10);
  twins.Append(200);
  twins.Settle();
  twins.Compare();
  EXPECT_EQ(RowsOf(fork.get(), PQ_KEY, 2, 64), before);
  ASSERT_TRUE(Ok(pq_sequence_cache_memory_of(nullptr, 0, &together)));
  EXPECT_EQ(together.total_bytes, 0u);
}

// bf16 is the upper half of an f32, so values with 8 bits of it are the same in all three types.
TEST(CSequence, TakesEveryNumberTypeInAnyStrides) {
  constexpr int64_t kTokens = 90, kHeads = 2, kDim = 32;
  std::mt19937 random(1);
  Floats plain(kTokens * kHeads * kDim);
  for (float& value : plain) value = (static_cast<float>(random() % 255) - 127.0f) / 64.0f;
  const auto half = [](float value) {  // exact for these
    const auto bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) == 0) return static_cast<uint16_t>(bits >> 16);
    return static_cast<uint16_t>((bits >> 16 & 0x8000u) | ((bits >> 13 & 0x3ffffu) - 0x1c000u));
  };
  const auto brain = [](float v) {
    return static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16);
  };
  SequenceShape shape;
  shape.key = shape.value = "f16";
  shape.key_dim = shape.value_dim = kDim;
  for (const pq_number_type type : {PQ_F32, PQ_F16, PQ_BF16}) {
    SCOPED_TRACE(type);
    constexpr int64_t kRowStride = kDim + 3, kHeadStride = kTokens * kRowStride + 1;
    Floats f32(kHeads * kHeadStride);
    std::vector<uint16_t> f16(f32.size());
    for (int64_t n = 0; n < kTokens; ++n) {  // [head][token][channel] with gaps
      for (int64_t h = 0; h < kHeads; ++h) {
        for (int64_t i = 0; i < kDim; ++i) {
          const float value = plain[static_cast<size_t>((n * kHeads + h) * kDim + i)];
          const auto at = static_cast<size_t>(h * kHeadStride + n * kRowStride + i);
          f32[at] = value;
          f16[at] = type == PQ_F16 ? half(value) : brain(value);
        }
      }
    }
    pq_rows rows = PQ_ROWS_INIT;
    rows.data = type == PQ_F32 ? static_cast<const void*>(f32.data()) : f16.data();
    rows.type = type;
    rows.row_stride = kRowStride;
    rows.head_stride = kHeadStride;
    const SequencePtr cache = Made(ConfigOf(shape));
    ASSERT_TRUE(Ok(pq_sequence_cache_append(cache.get(), &rows, &rows, kTokens, 1)));
    EXPECT_EQ(RowsOf(cache.get(), PQ_KEY, kHeads, kDim), plain);
    Floats apart(kHeads * kHeadStride, 9.0f);
    ASSERT_TRUE(Ok(pq_sequence_cache_read(cache.get(), PQ_VALUE, 0, kTokens, apart.data(),
                                          kRowStride, kHeadStride, 2)));
    for (size_t i = 0; i < apart.size(); ++i) {
      const auto at = static_cast<int64_t>(i) % kHeadStride;
      const bool gap = at >= kTokens * kRowStride || at % kRowStride >= kDim;
      ASSERT_EQ(apart[i], gap ? 9.0f : f32[i]);
    }
  }
}

TEST(CSequence, WantsAProfileOnlyWhenAPageHasLeftTheWindow) {
  SequenceShape shape;
  shape.key = "turbo4:balance";
  Twins twins(shape);
  twins.Append(50);
  twins.Settle();
  twins.Compare();
  EXPECT_EQ(StateOf(twins.c.get()).wants_profile, 0);
  twins.Append(100);
  EXPECT_EQ(StateOf(twins.c.get()).wants_profile, 1);
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_sequence_cache_settle(twins.c.get(), 1),
                      {"turbo4:balance", "profile"}));
  const Floats balance = Scales(128);
  pq_key_profile profile = PQ_KEY_PROFILE_INIT;
  profile.balance = balance.data();
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_sequence_cache_set_profile(twins.c.get(), nullptr),
                      {"profile is NULL"}));
  ASSERT_TRUE(Ok(pq_sequence_cache_set_profile(twins.c.get(), &profile)));
  auto known = std::make_shared<KeyProfile>();
  known->balance = balance;
  twins.cpp->SetProfile(known);
  EXPECT_EQ(StateOf(twins.c.get()).wants_profile, 0);
  twins.Settle();
  twins.Compare();
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_sequence_cache_set_profile(twins.c.get(), &profile),
                      {"profile already"}));

  pq_sequence_cache_config config = ConfigOf(shape);  // the same from the beginning
  config.profile = &profile;
  const SequencePtr cache = Made(config);
  Twins plain;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_sequence_cache_set_profile(plain.c.get(), &profile),
                      {"takes no profile"}));
}

TEST(CSequence, RefusesConfigurationsOutsideItsLimits) {
  const auto refused = [](pq_status status, auto change, std::initializer_list<const char*> words) {
    pq_sequence_cache_config config = ConfigOf({});
    change(config);
    pq_sequence_cache* cache = nullptr;
    EXPECT_TRUE(Refused(status, pq_sequence_cache_create(&config, &cache), words));
    EXPECT_EQ(cache, nullptr);
  };
  using Config = pq_sequence_cache_config;
  const pq_status parameter = PQ_ERROR_PARAMETER, unsupported = PQ_ERROR_UNSUPPORTED;
  refused(PQ_ERROR_FORMAT, [](Config& c) { c.key_scheme = "turbo4:"; }, {"turbo4:"});
  refused(PQ_ERROR_FORMAT, [](Config& c) { c.value_scheme = "x"; }, {"\"x\""});
  refused(parameter, [](Config& c) { c.key_scheme = nullptr; }, {"key_scheme is NULL"});
  refused(parameter, [](Config& c) { c.value_scheme = nullptr; }, {"value_scheme is NULL"});
  refused(parameter, [](Config& c) { c.struct_size = 4; }, {"config.struct_size is 4"});
  refused(unsupported, [](Config& c) { c.key_head_dim = 0; }, {"head_dim 0"});
  refused(unsupported, [](Config& c) { c.value_head_dim = 1040; }, {"1040", "1024"});
  refused(parameter, [](Config& c) { c.num_kv_heads = 0; }, {"num_kv_heads is 0"});
  refused(unsupported, [](Config& c) { c.page_tokens = 512; }, {"512", "64, 128 or 256"});
  refused(parameter, [](Config& c) { c.window_tokens = -1; }, {"window_tokens is -1"});
  refused(parameter, [](Config& c) { c.sink_tokens = -1; }, {"sink_tokens is -1"});
  refused(PQ_ERROR_FORMAT, [](Config& c) { c.key_scheme = "turbo4:center=rope"; }, {"center=rope"});
  refused(unsupported, [](Config& c) { c.value_scheme = "turbo4:balanced"; }, {"for keys"});
  pq_sequence_cache* cache = nullptr;
  EXPECT_TRUE(Refused(parameter, pq_sequence_cache_create(nullptr, &cache), {"config is NULL"}));
  const pq_sequence_cache_config config = ConfigOf({});
  EXPECT_TRUE(Refused(parameter, pq_sequence_cache_create(&config, nullptr), {"cache is NULL"}));
  EXPECT_TRUE(Ok(pq_sequence_cache_destroy(nullptr)));
}

TEST(CSequence, RefusesRowsThatDoNotFit) {
  Twins twins;
  const Floats data = Random(4 * 128, 1);
  const auto refused = [&](auto change, std::initializer_list<const char*> words) {
    pq_rows k = RowsAt(data, 2, 64), v = RowsAt(data, 2, 32);
    change(k, v);
    EXPECT_TRUE(
        Refused(PQ_ERROR_PARAMETER, pq_sequence_cache_append(twins.c.get(), &k, &v, 4, 1), words));
    EXPECT_EQ(StateOf(twins.c.get()).length, 0);
  };
  using Rows = pq_rows;
  refused([](Rows& k, Rows&) { k.struct_size = 0; }, {"keys.struct_size is 0"});
  refused([](Rows&, Rows& v) { v.struct_size = 0; }, {"values.struct_size is 0"});
  refused([](Rows& k, Rows&) { k.data = nullptr; }, {"keys.data is NULL"});
  refused([](Rows&, Rows& v) { v.data = nullptr; }, {"values.data is NULL"});
  refused([](Rows& k, Rows&) { k.type = 3; }, {"type is 3", "PQ_BF16"});
  refused([](Rows& k, Rows&) { k.reserved = 3; }, {"reserved is 3"});
  refused([](Rows& k, Rows&) { k.row_stride = 63; }, {"keys.row_stride is 63", "64"});
  refused([](Rows&, Rows& v) { v.head_stride = 31; }, {"values.head_stride is 31", "32"});
  const pq_rows k = RowsAt(data, 2, 64), v = RowsAt(data, 2, 32);
  const auto parameter = [](pq_status status, std::initializer_list<const char*> words) {
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, status, words));
  };
  pq_sequence_cache* c = twins.c.get();
  parameter(pq_sequence_cache_append(nullptr, &k, &v, 4, 1), {"cache is NULL"});
  parameter(pq_sequence_cache_append(c, nullptr, &v, 4, 1), {"keys is NULL"});
  parameter(pq_sequence_cache_append(c, &k, nullptr, 4, 1), {"values is NULL"});
  parameter(pq_sequence_cache_append(c, &k, &v, -1, 1), {"count is -1"});
  parameter(pq_sequence_cache_append(c, &k, &v, 4, 0), {"num_threads is 0"});
  EXPECT_TRUE(Ok(pq_sequence_cache_append(c, &k, &v, 0, 1)));
  EXPECT_EQ(StateOf(c).length, 0);
}

TEST(CSequence, RefusesCallsThatDoNotFitAndSaysWhy) {
  Twins twins;
  twins.Append(100);
  twins.Settle();
  pq_sequence_cache* c = twins.c.get();
  ASSERT_TRUE(Ok(pq_sequence_cache_evict_front(c, 10)));
  const auto parameter = [](pq_status status, std::initializer_list<const char*> words) {
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, status, words));
  };
  parameter(pq_sequence_cache_settle(nullptr, 1), {"cache is NULL"});
  parameter(pq_sequence_cache_settle(c, 1025), {"num_threads is 1025", "1024"});
  pq_sequence_cache* fork = nullptr;
  parameter(pq_sequence_cache_fork(nullptr, &fork), {"cache is NULL"});
  parameter(pq_sequence_cache_fork(c, nullptr), {"fork is NULL"});
  parameter(pq_sequence_cache_truncate(nullptr, 0), {"cache is NULL"});
  parameter(pq_sequence_cache_truncate(c, 9), {"length is 9", "between 10 and 100"});
  parameter(pq_sequence_cache_truncate(c, 101), {"length is 101"});
  parameter(pq_sequence_cache_evict_front(nullptr, 0), {"cache is NULL"});
  parameter(pq_sequence_cache_evict_front(c, 91), {"count is 91", "between 0 and 90"});
  parameter(pq_sequence_cache_evict_front(c, -1), {"count is -1"});
  parameter(pq_sequence_cache_clear(nullptr), {"cache is NULL"});
  pq_sequence_state state = PQ_SEQUENCE_STATE_INIT;
  parameter(pq_sequence_cache_state(nullptr, &state), {"cache is NULL"});
  parameter(pq_sequence_cache_state(c, nullptr), {"state is NULL"});
  state.struct_size = 1;
  parameter(pq_sequence_cache_state(c, &state), {"state.struct_size is 1"});
  Floats rows(128 * 100);
  float* r = rows.data();
  parameter(pq_sequence_cache_read(nullptr, PQ_KEY, 10, 5, r, 128, 64, 1), {"cache is NULL"});
  parameter(pq_sequence_cache_read(c, 2, 10, 5, r, 128, 64, 1), {"role is 2"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 9, 5, r, 128, 64, 1),
            {"first is 9", "between 10 and 100"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 90, 11, r, 128, 64, 1),
            {"count is 11", "between 0 and 10"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 10, 5, nullptr, 128, 64, 1), {"rows is NULL"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 10, 5, r, 63, 64, 1), {"row_stride is 63"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 10, 5, r, 128, 63, 1), {"head_stride is 63"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 10, 5, r, 64, 128, 1), {"twice"});
  parameter(pq_sequence_cache_read(c, PQ_KEY, 10, 5, r, 128, 64, 0), {"num_threads is 0"});
  pq_memory_use use = PQ_MEMORY_USE_INIT;
  parameter(pq_sequence_cache_memory(nullptr, &use), {"cache is NULL"});
  parameter(pq_sequence_cache_memory(c, nullptr), {"memory is NULL"});
  const pq_sequence_cache* list[] = {c, nullptr};
  parameter(pq_sequence_cache_memory_of(list, 2, &use), {"caches", "NULL"});
  parameter(pq_sequence_cache_memory_of(nullptr, 2, &use), {"caches is NULL"});
  parameter(pq_sequence_cache_memory_of(list, 1, nullptr), {"memory is NULL"});
  const Floats balance = Scales(128);
  pq_key_profile profile = PQ_KEY_PROFILE_INIT;
  profile.balance = balance.data();
  parameter(pq_sequence_cache_set_profile(nullptr, &profile), {"cache is NULL"});
}

TEST(CSequence, MayBeForkedAndUsedInSeveralThreads) {
  Twins twins;
  twins.Append(300);
  twins.Settle();
  std::vector<std::thread> threads;
  std::vector<Floats> results(4);
  std::vector<SequencePtr> forks;
  for (int t = 0; t < 4; ++t) forks.push_back(Fork(twins.c.get()));
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {  // all write to pages they share at first
      pq_sequence_cache* cache = forks[t].get();
      EXPECT_TRUE(Ok(pq_sequence_cache_truncate(cache, 150)));
      const Floats keys = Random(128 * 128, 7), values = Random(128 * 64, 8);
      const pq_rows k = RowsAt(keys, 2, 64), v = RowsAt(values, 2, 32);
      EXPECT_TRUE(Ok(pq_sequence_cache_append(cache, &k, &v, 128, 1)));
      EXPECT_TRUE(Ok(pq_sequence_cache_settle(cache, 1)));
      results[t] = RowsOf(cache, PQ_KEY, 2, 64);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Floats& result : results) EXPECT_EQ(result, results[0]);
  twins.Compare();  // as it was
}

}  // namespace
}  // namespace polarquant
