// SPDX-License-Identifier: Apache-2.0
// Host: C. The sequence cache.
#include <limits>
#include <memory>
#include <vector>

#include "checks.h"
#include "handles.h"

using namespace polarquant;
using namespace polarquant::c;

namespace {

std::unique_ptr<pq_sequence_cache> Make(const pq_sequence_cache_config& from) {
  SequenceCache::Config config;
  config.key = Scheme::Parse(&Needed(from.key_scheme, "key_scheme"));
  config.value = Scheme::Parse(&Needed(from.value_scheme, "value_scheme"));
  config.key_head_dim = from.key_head_dim;
  config.value_head_dim = from.value_head_dim;
  config.num_kv_heads = from.num_kv_heads;
  config.page_tokens = from.page_tokens;
  config.window_tokens = from.window_tokens;
  config.sink_tokens = from.sink_tokens;
  config.profile = ProfileOf(from.profile, from.num_kv_heads, from.key_head_dim);
  return std::make_unique<pq_sequence_cache>(pq_sequence_cache{SequenceCache(config)});
}

template <typename Handle>
auto& CacheOf(Handle* handle) {
  return Needed(handle, "cache").cache;
}

NumberType TypeOf(pq_number_type type) {
  switch (type) {
    case PQ_F32:
      return NumberType::kF32;
    case PQ_F16:
      return NumberType::kF16;
    case PQ_BF16:
      return NumberType::kBF16;
    default:
      Refuse("type is " + std::to_string(type) +
             "; it must be PQ_F32 (0), PQ_F16 (1) or PQ_BF16 (2)");
  }
}

HostRows RowsOf(const pq_rows* given, const char* name, int64_t count, int32_t num_kv_heads,
                int32_t head_dim) {
  const pq_rows from = Taken<pq_rows>(given, name, PQ_ROWS_INIT);
  const std::string of(name);
  CheckReserved(from.reserved);
  if (count > 0) Needed(static_cast<const std::byte*>(from.data), (of + ".data").c_str());
  CheckStride((of + ".row_stride").c_str(), from.row_stride, count, head_dim);
  CheckStride((of + ".head_stride").c_str(), from.head_stride, num_kv_heads, head_dim);
  return {from.data, TypeOf(from.type), from.row_stride, from.head_stride};
}

}  // namespace

pq_status pq_sequence_cache_create(const pq_sequence_cache_config* config,
                                   pq_sequence_cache** cache) {
  return Create(cache, "cache", [&] {
    return Make(Taken<pq_sequence_cache_config>(config, "config", PQ_SEQUENCE_CACHE_CONFIG_INIT));
  });
}

pq_status pq_sequence_cache_destroy(pq_sequence_cache* cache) { return Destroy(cache); }

pq_status pq_sequence_cache_append(pq_sequence_cache* cache, const pq_rows* keys,
                                   const pq_rows* values, int64_t count, int32_t num_threads) {
  return Guard([&] {
    SequenceCache& to = CacheOf(cache);
    const SequenceCache::Config& config = to.config();
    CheckRange<int64_t>("count", count, 0, int64_t{1} << 32);
    CheckThreads(num_threads);
    const HostRows k = RowsOf(keys, "keys", count, config.num_kv_heads, config.key_head_dim);
    const HostRows v = RowsOf(values, "values", count, config.num_kv_heads, config.value_head_dim);
    to.Append(k, v, count, num_threads);
  });
}

pq_status pq_sequence_cache_settle(pq_sequence_cache* cache, int32_t num_threads) {
  return Guard([&] {
    SequenceCache& of = CacheOf(cache);
    CheckThreads(num_threads);
    of.Settle(num_threads);
  });
}

pq_status pq_sequence_cache_fork(const pq_sequence_cache* cache, pq_sequence_cache** fork) {
  return Create(fork, "fork",
                [&] { return std::make_unique<pq_sequence_cache>(Needed(cache, "cache")); });
}

pq_status pq_sequence_cache_truncate(pq_sequence_cache* cache, int64_t length) {
  return Guard([&] { CacheOf(cache).Truncate(length); });
}

pq_status pq_sequence_cache_evict_front(pq_sequence_cache* cache, int64_t count) {
  return Guard([&] { CacheOf(cache).EvictFront(count); });
}

pq_status pq_sequence_cache_clear(pq_sequence_cache* cache) {
  return Guard([&] { CacheOf(cache).Clear(); });
}

pq_status pq_sequence_cache_set_profile(pq_sequence_cache* cache, const pq_key_profile* profile) {
  return Guard([&] {
    SequenceCache& of = CacheOf(cache);
    Needed(profile, "profile");
    of.SetProfile(ProfileOf(profile, of.config().num_kv_heads, of.config().key_head_dim));
  });
}

pq_status pq_sequence_cache_state(const pq_sequence_cache* cache, pq_sequence_state* state) {
  return Guard([&] {
    const SequenceCache& of = CacheOf(cache);
    pq_sequence_state facts = PQ_SEQUENCE_STATE_INIT;
    facts.length = of.length();
    facts.first_token = of.first_token();
    facts.wants_profile = of.wants_profile() ? 1 : 0;
    Give(facts, state, "state");
  });
}

pq_status pq_sequence_cache_read(const pq_sequence_cache* cache, pq_role role, int64_t first,
                                 int64_t count, float* rows, int64_t row_stride,
                                 int64_t head_stride, int32_t num_threads) {
  return Guard([&] {
    const SequenceCache& of = CacheOf(cache);
    const Role which = RoleOf(role);
    CheckRange<int64_t>("first", first, of.first_token(), of.length());
    CheckRange<int64_t>("count", count, 0, of.length() - first);
    CheckThreads(num_threads);
    if (count == 0) return;
    Needed(rows, "rows");
    const SequenceCache::Config& config = of.config();
    CheckApart({"row_stride", row_stride, count}, {"head_stride", head_stride, config.num_kv_heads},
               which == Role::kKey ? config.key_head_dim : config.value_head_dim);
    of.Read(which, first, count, rows, row_stride, head_stride, num_threads);
  });
}

pq_status pq_sequence_cache_memory(const pq_sequence_cache* cache, pq_memory_use* memory) {
  return Guard([&] { Give(MemoryUseOf(CacheOf(cache).memory()), memory, "memory"); });
}

pq_status pq_sequence_cache_memory_of(const pq_sequence_cache* const* caches, size_t count,
                                      pq_memory_use* memory) {
  return Guard([&] {
    std::vector<const SequenceCache*> list;
    if (count > 0) Needed(caches, "caches");
    for (size_t i = 0; i < count; ++i)
      list.push_back(&Needed(caches[i], "a cache of caches").cache);
    Give(MemoryUseOf(SequenceCache::MemoryOf(list)), memory, "memory");
  });
}
