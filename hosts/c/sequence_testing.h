// SPDX-License-Identifier: Apache-2.0
// Host: C, tests. One sequence cache through C and one through C++, fed alike.
#pragma once

#include <memory>
#include <string>

#include "c_testing.h"
#include "polarquant/sequence_cache.h"

namespace polarquant::c_testing {

struct SequenceShape {
  const char* key = "turbo4:center";
  const char* value = "turbo3";
  int key_dim = 64, value_dim = 32, heads = 2;
};

inline pq_sequence_cache_config ConfigOf(const SequenceShape& shape) {
  pq_sequence_cache_config config = PQ_SEQUENCE_CACHE_CONFIG_INIT;
  config.key_scheme = shape.key;
  config.value_scheme = shape.value;
  config.key_head_dim = shape.key_dim;
  config.value_head_dim = shape.value_dim;
  config.num_kv_heads = shape.heads;
  config.page_tokens = 64;
  config.window_tokens = 32;
  config.sink_tokens = 4;
  return config;
}

inline SequencePtr Made(const pq_sequence_cache_config& config) {
  pq_sequence_cache* cache = nullptr;
  EXPECT_TRUE(Ok(pq_sequence_cache_create(&config, &cache)));
  return SequencePtr(cache);
}

inline SequencePtr Fork(const pq_sequence_cache* cache) {
  pq_sequence_cache* fork = nullptr;
  EXPECT_TRUE(Ok(pq_sequence_cache_fork(cache, &fork)));
  return SequencePtr(fork);
}

// f32 rows [token][head][channel].
inline pq_rows RowsAt(const Floats& data, int64_t heads, int64_t dim) {
  pq_rows rows = PQ_ROWS_INIT;
  rows.data = data.data();
  rows.row_stride = heads * dim;
  rows.head_stride = dim;
  return rows;
}

inline pq_sequence_state StateOf(const pq_sequence_cache* cache) {
  pq_sequence_state state = PQ_SEQUENCE_STATE_INIT;
  EXPECT_TRUE(Ok(pq_sequence_cache_state(cache, &state)));
  return state;
}

inline pq_memory_use MemoryOf(const pq_sequence_cache* cache) {
  pq_memory_use use = PQ_MEMORY_USE_INIT;
  EXPECT_TRUE(Ok(pq_sequence_cache_memory(cache, &use)));
  return use;
}

// All rows of one role that a cache holds, [token][head][channel].
inline Floats RowsOf(const pq_sequence_cache* cache, pq_role role, int64_t heads, int64_t dim) {
  const pq_sequence_state state = StateOf(cache);
  const int64_t count = state.length - state.first_token;
  Floats rows(static_cast<size_t>(count * heads * dim));
  EXPECT_TRUE(Ok(pq_sequence_cache_read(cache, role, state.first_token, count, rows.data(),
                                        heads * dim, dim, 1)));
  return rows;
}

inline void ExpectEqual(const pq_memory_use& use, const MemoryUse& expected) {
  EXPECT_EQ(use.exact_bytes, expected.exact_bytes);
  EXPECT_EQ(use.code_bytes, expected.code_bytes);
  EXPECT_EQ(use.header_bytes, expected.header_bytes);
  EXPECT_EQ(use.total_bytes, expected.total());
  EXPECT_EQ(use.filled_cells, expected.filled_cells);
  EXPECT_EQ(use.exact_cells, expected.exact_cells);
  EXPECT_EQ(use.f16_bytes, expected.f16_bytes);
}

struct Twins {
  SequenceShape shape;
  SequencePtr c;
  std::unique_ptr<SequenceCache> cpp;
  unsigned seed = 0;

  explicit Twins(const SequenceShape& s = {}) : shape(s), c(Made(ConfigOf(s))) {
    SequenceCache::Config config;
    config.key = Scheme::Parse(shape.key);
    config.value = Scheme::Parse(shape.value);
    config.key_head_dim = shape.key_dim;
    config.value_head_dim = shape.value_dim;
    config.num_kv_heads = shape.heads;
    config.page_tokens = 64;
    config.window_tokens = 32;
    config.sink_tokens = 4;
    cpp = std::make_unique<SequenceCache>(config);
  }

  void Append(int64_t count) {
    const int64_t row_k = int64_t{shape.heads} * shape.key_dim;
    const int64_t row_v = int64_t{shape.heads} * shape.value_dim;
    const Floats keys = Random(static_cast<size_t>(count * row_k), ++seed);
    const Floats values = Random(static_cast<size_t>(count * row_v), ++seed);
    const pq_rows k = RowsAt(keys, shape.heads, shape.key_dim);
    const pq_rows v = RowsAt(values, shape.heads, shape.value_dim);
    ASSERT_TRUE(Ok(pq_sequence_cache_append(c.get(), &k, &v, count, 2)));
    cpp->Append({keys.data(), NumberType::kF32, row_k, shape.key_dim},
                {values.data(), NumberType::kF32, row_v, shape.value_dim}, count, 2);
  }
  void Settle() {
    ASSERT_TRUE(Ok(pq_sequence_cache_settle(c.get(), 2)));
    cpp->Settle(2);
  }
  void Compare() const {
    const pq_sequence_state state = StateOf(c.get());
    ASSERT_EQ(state.length, cpp->length());
    ASSERT_EQ(state.first_token, cpp->first_token());
    ASSERT_EQ(state.wants_profile != 0, cpp->wants_profile());
    for (const pq_role role : {PQ_KEY, PQ_VALUE}) {
      const int64_t dim = role == PQ_KEY ? shape.key_dim : shape.value_dim;
      const Floats got = RowsOf(c.get(), role, shape.heads, dim);
      Floats want(got.size());
      cpp->Read(role == PQ_KEY ? Role::kKey : Role::kValue, cpp->first_token(),
                cpp->length() - cpp->first_token(), want.data(), shape.heads * dim, dim, 1);
      EXPECT_EQ(got, want);
    }
    ExpectEqual(MemoryOf(c.get()), cpp->memory());
  }
};

}  // namespace polarquant::c_testing
