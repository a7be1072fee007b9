// SPDX-License-Identifier: Apache-2.0
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "fuzz.h"
#include "polarquant/sequence_cache.h"

namespace {

std::string Good() {
  using namespace polarquant;
  SavedSequences saved;
  saved.host = "host";
  SequenceCache::Config config;
  config.key = Scheme::Parse("turbo4:balanced");
  config.value = Scheme::Parse("turbo2");
  config.key_head_dim = config.value_head_dim = 16;
  config.num_kv_heads = 1;
  config.page_tokens = 64;
  config.window_tokens = 0;
  config.sink_tokens = 2;
  auto profile = std::make_shared<KeyProfile>();
  profile->balance.assign(16, 1.5f);
  config.profile = profile;
  saved.caches.emplace_back(config);
  std::vector<float> rows(80 * 16);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i * 7 % 13) - 6.0f;
  const HostRows host = {rows.data(), NumberType::kF32, 16, 16};
  saved.caches[0].Append(host, host, 80, 1);
  saved.caches[0].Settle(1);
  saved.caches.push_back(saved.caches[0]);
  saved.caches[1].Truncate(50);
  return saved.Print();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace polarquant;
  static const std::string good = Good();
  std::string bytes = fuzz::Edited(good, data, size);
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size() - 8);
  for (size_t b = 0; b < 8; ++b) {
    bytes[bytes.size() - 8 + b] = static_cast<char>(checksum >> (8 * b) & 0xff);
  }
  try {
    SavedSequences loaded = SavedSequences::Parse(bytes);
    for (SequenceCache& cache : loaded.caches) {
      const int64_t row = int64_t{cache.config().num_kv_heads} * cache.config().key_head_dim;
      const int64_t count = std::min<int64_t>(cache.length() - cache.first_token(), 200);
      std::vector<float> rows(static_cast<size_t>(count * row));
      cache.Read(Role::kKey, cache.first_token(), count, rows.data(), row,
                 cache.config().key_head_dim, 1);
      cache.Settle(1);
    }
    const std::string printed = loaded.Print();
    fuzz::Expect(SavedSequences::Parse(printed).Print() == printed, "what parses prints alike");
  } catch (const Error&) {
  }
  return 0;
}
