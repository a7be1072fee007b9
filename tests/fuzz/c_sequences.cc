// SPDX-License-Identifier: Apache-2.0
// Bytes of strangers through the C library: whatever they are, calls return, and what is loaded can
// be used.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <vector>

#include "fuzz.h"
#include "polarquant/polarquant.h"

namespace {

using polarquant::fuzz::Expect;

std::string Good() {
  pq_sequence_cache_config config = PQ_SEQUENCE_CACHE_CONFIG_INIT;
  config.key_scheme = "turbo4:center";
  config.value_scheme = "kivi2";
  config.key_head_dim = config.value_head_dim = 32;
  config.num_kv_heads = 1;
  config.page_tokens = 64;
  config.window_tokens = 0;
  config.sink_tokens = 2;
  pq_sequence_cache *cache = nullptr, *fork = nullptr;
  Expect(pq_sequence_cache_create(&config, &cache) == PQ_OK, "a good configuration is taken");
  std::vector<float> data(80 * 32);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i * 7 % 13) - 6.0f;
  pq_rows rows = PQ_ROWS_INIT;
  rows.data = data.data();
  rows.row_stride = rows.head_stride = 32;
  Expect(pq_sequence_cache_append(cache, &rows, &rows, 80, 1) == PQ_OK &&
             pq_sequence_cache_settle(cache, 1) == PQ_OK &&
             pq_sequence_cache_fork(cache, &fork) == PQ_OK &&
             pq_sequence_cache_truncate(fork, 50) == PQ_OK,
         "good calls are taken");
  const pq_sequence_cache* caches[] = {cache, fork};
  size_t needed = 0;
  pq_sequence_cache_print(caches, 2, "host", 4, nullptr, 0, &needed);
  std::string bytes(needed, '\0');
  Expect(pq_sequence_cache_print(caches, 2, "host", 4, bytes.data(), needed, nullptr) == PQ_OK,
         "good caches are printed");
  pq_sequence_cache_destroy(cache);
  pq_sequence_cache_destroy(fork);
  return bytes;
}

// Everything that reads a cache; rows are at most as wide as one of the good file's edits makes
// them.
void Use(pq_sequence_cache* cache) {
  pq_sequence_state state = PQ_SEQUENCE_STATE_INIT;
  pq_memory_use memory = PQ_MEMORY_USE_INIT;
  Expect(pq_sequence_cache_state(cache, &state) == PQ_OK, "a loaded cache has a state");
  Expect(pq_sequence_cache_memory(cache, &memory) == PQ_OK, "a loaded cache has a size");
  pq_sequence_cache_settle(cache, 1);
  std::vector<float> query(1024, 0.5f), output(1024);
  pq_attention call = PQ_ATTENTION_INIT;
  call.sequence = cache;
  call.num_q_heads = call.num_queries = 1;
  call.queries = query.data();
  call.output = output.data();
  const bool attended = pq_attend(&call, 1) == PQ_OK;
  Expect(attended || *pq_last_error() != '\0', "who refuses says why");
  pq_sequence_cache_truncate(cache, (state.first_token + state.length) / 2);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string good = Good();
  std::string bytes = polarquant::fuzz::Edited(good, data, size);
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size() - 8);
  for (size_t b = 0; b < 8; ++b) {
    bytes[bytes.size() - 8 + b] = static_cast<char>(checksum >> (8 * b) & 0xff);
  }
  pq_saved_sequences* saved = nullptr;
  const pq_status status = pq_saved_sequences_parse(bytes.data(), bytes.size(), &saved);
  Expect((status == PQ_OK) == (saved != nullptr), "there is a handle exactly if all is well");
  Expect(status != PQ_ERROR_INTERNAL, "strange bytes are no mistake of ours");
  size_t count = 0;
  if (saved != nullptr) Expect(pq_saved_sequences_count(saved, &count) == PQ_OK, "it has a count");
  for (size_t i = 0; i < count; ++i) {
    pq_sequence_cache* cache = nullptr;
    Expect(pq_saved_sequences_fork(saved, i, &cache) == PQ_OK, "what was loaded can be had");
    Use(cache);
    pq_sequence_cache_destroy(cache);
  }
  pq_saved_sequences_destroy(saved);
  return 0;
}
