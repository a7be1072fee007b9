// SPDX-License-Identifier: Apache-2.0
// Files of sequences: what comes back, what is shared, what is refused.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <random>

#include "cache/random_profile.h"
#include "polarquant/error.h"
#include "polarquant/sequence_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace polarquant {
namespace {

using Floats = std::vector<float>;

SequenceCache Filled(const char* key, const char* value, int64_t tokens, unsigned seed) {
  SequenceCache::Config config;
  config.key = Scheme::Parse(key);
  config.value = Scheme::Parse(value);
  config.key_head_dim = config.value_head_dim = 64;
  config.num_kv_heads = 2;
  config.page_tokens = 64;
  config.window_tokens = 20;
  if (config.key.normalisation.needs_profile()) {
    config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, seed);
  }
  SequenceCache cache(config);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Floats rows(static_cast<size_t>(tokens) * 128);
  for (float& number : rows) number = normal(random);
  const HostRows host = {rows.data(), NumberType::kF32, 128, 64};
  cache.Append(host, host, tokens, 1);
  cache.Settle(1);
  return cache;
}

Floats All(const SequenceCache& cache, Role role) {
  const int64_t count = cache.length() - cache.first_token();
  Floats rows(static_cast<size_t>(count) * 128);
  cache.Read(role, cache.first_token(), count, rows.data(), 128, 64, 1);
  return rows;
}

SavedSequences Some() {
  SavedSequences saved;
  saved.host = R"({"layers": 2})";
  saved.caches.push_back(Filled("turbo4:balanced", "turbo4", 300, 1));
  saved.caches.push_back(saved.caches[0]);
  saved.caches[1].Truncate(200);
  saved.caches.push_back(Filled("turbo3:dense", "zscore2", 257, 2));
  saved.caches.push_back(Filled("f16", "q8_0", 100, 3));
  saved.caches[3].EvictFront(70);
  saved.caches.push_back(Filled("turbo4:balanced", "turbo4", 0, 4));
  saved.caches.push_back(Filled("turbo4:balance:center", "turbo4", 200, 5));
  return saved;
}

TEST(SequenceFile, BringsEveryCacheBackToTheBit) {
  const SavedSequences saved = Some();
  SavedSequences loaded = SavedSequences::Parse(saved.Print());
  EXPECT_EQ(loaded.host, saved.host);
  ASSERT_EQ(loaded.caches.size(), saved.caches.size());
  for (size_t i = 0; i < saved.caches.size(); ++i) {
    EXPECT_EQ(loaded.caches[i].length(), saved.caches[i].length());
    EXPECT_EQ(loaded.caches[i].first_token(), saved.caches[i].first_token());
    EXPECT_EQ(loaded.caches[i].config().key, saved.caches[i].config().key);
    for (const Role role : {Role::kKey, Role::kValue}) {
      EXPECT_EQ(All(loaded.caches[i], role), All(saved.caches[i], role)) << i;
    }
  }
  EXPECT_EQ(loaded.Print(), saved.Print());
  // And go on as the others do.
  Floats rows(200 * 128, 0.25f);
  const HostRows host = {rows.data(), NumberType::kF32, 128, 64};
  SavedSequences copy = saved;
  for (size_t i = 0; i < saved.caches.size(); ++i) {
    for (SequenceCache* cache : {&loaded.caches[i], &copy.caches[i]}) {
      cache->Append(host, host, 200, 1);
      cache->Settle(1);
    }
    EXPECT_EQ(All(loaded.caches[i], Role::kKey), All(copy.caches[i], Role::kKey)) << i;
  }
}

TEST(SequenceFile, KeepsSharedPagesShared) {
  const auto bytes_of = [](const SavedSequences& saved) {
    std::vector<const SequenceCache*> all;
    for (const SequenceCache& cache : saved.caches) all.push_back(&cache);
    return SequenceCache::MemoryOf(all).code_bytes;
  };
  const SavedSequences saved = Some();
  EXPECT_EQ(bytes_of(SavedSequences::Parse(saved.Print())), bytes_of(saved));
}

TEST(SequenceFile, RefusesDamage) {
  const std::string bytes = Some().Print();
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = bytes;
    damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
    EXPECT_THROW(SavedSequences::Parse(damaged), Error);
    EXPECT_THROW(SavedSequences::Parse(bytes.substr(0, random() % bytes.size())), Error);
  }
  std::string newer = bytes;
  newer[7] = 3;
  try {
    SavedSequences::Parse(newer);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    EXPECT_NE(std::string(error.what()).find("version 3"), std::string::npos) << error.what();
  }
}

// With a checksum that holds: the description must be taken for what it is, a stranger's.
TEST(SequenceFile, SurvivesDescriptionsThatLie) {
  const std::string bytes = Some().Print();
  size_t length = 0;
  for (size_t i = 0; i < 8; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(bytes[8 + i])) << (8 * i);
  }
  std::mt19937 random(2);
  int refused = 0;
  const std::string digits = "0123456789-,[]{}\"tfn";
  for (int i = 0; i < 3000; ++i) {
    std::string lying = bytes;
    for (int changes = 1 + static_cast<int>(random() % 3); changes > 0; --changes) {
      const size_t at = 16 + random() % length;
      // Numbers become other numbers, mostly.
      lying[at] = std::isdigit(static_cast<unsigned char>(lying[at])) != 0
                      ? static_cast<char>('0' + random() % 10)
                      : digits[random() % digits.size()];
    }
    const uint64_t checksum = XXH3_64bits(lying.data(), lying.size() - 8);
    for (size_t b = 0; b < 8; ++b) {
      lying[lying.size() - 8 + b] = static_cast<char>(checksum >> (8 * b) & 0xff);
    }
    try {
      const SavedSequences loaded = SavedSequences::Parse(lying);
      for (const SequenceCache& cache : loaded.caches) {
        if (cache.length() > 100000) continue;
        All(cache, Role::kKey);
        All(cache, Role::kValue);
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(SequenceFile, RefusesNumbersThatAreNotWhole) {
  std::string bytes = Some().Print();
  const size_t at = bytes.find("\"length\":300");
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at + 9, 3, "3e9");
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size() - 8);
  for (size_t b = 0; b < 8; ++b) {
    bytes[bytes.size() - 8 + b] = static_cast<char>(checksum >> (8 * b) & 0xff);
  }
  try {
    SavedSequences::Parse(bytes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("whole"), std::string::npos) << error.what();
  }
}

TEST(SequenceFile, IsWrittenBesideAndRenamed) {
  const std::string path = testing::TempDir() + "some.sequences";
  const SavedSequences saved = Some();
  saved.Save(path);
  EXPECT_EQ(SavedSequences::Load(path).Print(), saved.Print());
  saved.Save(path);
  EXPECT_FALSE(std::ifstream(path + ".new").is_open());
  std::remove(path.c_str());
  EXPECT_THROW(SavedSequences::Load(path), Error);
  EXPECT_THROW(saved.Save("/does/not/exist/x"), Error);
}

}  // namespace
}  // namespace polarquant
