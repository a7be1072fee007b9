// SPDX-License-Identifier: Apache-2.0
// Files of sequences: what comes back, what is shared, what is refused.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <random>

#include "cache/counted_new.h"
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
  saved.caches.push_back(Filled("kivi4", "turbo3:center", 200, 5));
  saved.caches.push_back(saved.caches[5]);
  saved.caches[6].EvictFront(65);
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
    const MemoryUse use = SequenceCache::MemoryOf(all);
    return use.code_bytes + use.header_bytes;
  };
  SavedSequences saved;
  saved.caches.push_back(Filled("turbo4:balanced", "zscore3", 1000, 1));
  const size_t alone = bytes_of(saved), file = saved.Print().size();
  for (int fork = 0; fork < 9; ++fork) saved.caches.push_back(saved.caches[0]);
  for (int64_t fork = 1; fork < 9; ++fork) {
    saved.caches[static_cast<size_t>(fork)].Truncate(1000 - 100 * fork);
  }
  const std::string bytes = saved.Print();
  EXPECT_LT(bytes.size(), file + file / 10);
  EXPECT_EQ(bytes_of(SavedSequences::Parse(bytes)), alone);
}

TEST(SequenceFile, KeepsACacheThatStillWaitsForItsProfile) {
  SequenceCache::Config config = Filled("turbo4:balanced", "turbo4", 0, 1).config();
  const std::shared_ptr<const KeyProfile> profile = config.profile;
  config.profile = nullptr;
  SavedSequences saved;
  saved.caches.emplace_back(config);
  Floats rows(60 * 128, 0.25f);
  const HostRows host = {rows.data(), NumberType::kF32, 128, 64};
  saved.caches[0].Append(host, host, 60, 1);
  saved.caches[0].Settle(1);
  SavedSequences loaded = SavedSequences::Parse(saved.Print());
  for (SequenceCache* cache : {&saved.caches[0], &loaded.caches[0]}) {
    EXPECT_EQ(cache->config().profile, nullptr);
    cache->SetProfile(profile);
    cache->Append(host, host, 60, 1);
    cache->Settle(1);
  }
  EXPECT_EQ(All(loaded.caches[0], Role::kKey), All(saved.caches[0], Role::kKey));
  EXPECT_EQ(loaded.caches[0].memory().exact_cells, saved.caches[0].memory().exact_cells);
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

void Sign(std::string* bytes) {  // with a checksum that holds
  const uint64_t checksum = XXH3_64bits(bytes->data(), bytes->size() - 8);
  for (size_t b = 0; b < 8; ++b) {
    (*bytes)[bytes->size() - 8 + b] = static_cast<char>(checksum >> (8 * b) & 0xff);
  }
}

// A file of that description, and zeros for the numbers it tells of.
std::string FileOf(const std::string& description, size_t numbers = 0) {
  std::string bytes = {'P', 'Q', 'S', 'E', 'Q', 0, 0, 2};
  for (int i = 0; i < 8; ++i) {
    bytes.push_back(static_cast<char>(description.size() >> (8 * i) & 0xff));
  }
  bytes += description;
  bytes.resize((bytes.size() + 63) / 64 * 64 + numbers + 8);
  Sign(&bytes);
  return bytes;
}

// With a checksum that holds: the description must be taken for what it is, a stranger's.
TEST(SequenceFile, SurvivesDescriptionsThatLie) {
  const std::string bytes = Some().Print();
  size_t length = 0;
  for (size_t i = 0; i < 8; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(bytes[8 + i])) << (8 * i);
  }
  std::mt19937 random(2);
  const Floats rows(100 * 128, 0.25f);
  const HostRows host = {rows.data(), NumberType::kF32, 128, 64};
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
    Sign(&lying);
    try {
      const SavedSequences loaded = SavedSequences::Parse(lying);
      for (const SequenceCache& cache : loaded.caches) {
        const SequenceCache::Config& config = cache.config();
        if (cache.length() > 100000 || config.num_kv_heads != 2 || config.key_head_dim != 64 ||
            config.value_head_dim != 64) {
          continue;
        }
        All(cache, Role::kKey);
        All(cache, Role::kValue);
        SequenceCache longer = cache;  // and goes on
        longer.Append(host, host, 100, 1);
        if (!longer.wants_profile()) longer.Settle(1);
        All(longer, Role::kKey);
      }
    } catch (const Error& error) {
      ++refused;
      EXPECT_TRUE(error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kCorruption)
          << error.what();
    }
  }
  EXPECT_GT(refused, 1000);
}

std::string Description(const std::string& config, const std::string& profiles,
                        const std::string& pages, const std::string& caches) {
  return R"({"host":"","profiles":[)" + profiles + R"(],"configs":[)" + config + R"(],"pages":[)" +
         pages + R"(],"caches":[)" + caches + "]}";
}
std::string ConfigText(const std::string& key, const std::string& numbers) {
  return R"({"key":")" + key + R"(","value":"turbo4",)" + numbers + "}";
}

TEST(SequenceFile, OfAFewBytesTakesLittleMemoryWhateverItSays) {
  const std::string huge =
      R"("key_head_dim":1024,"value_head_dim":1024,"num_kv_heads":65536,"page_tokens":256,)"
      R"("window":0,"sinks":0,"profile":null)";
  const std::string with_profile =
      R"("key_head_dim":16,"value_head_dim":16,"num_kv_heads":1,"page_tokens":64,)"
      R"("window":0,"sinks":0,"profile":0)";
  const auto profile = [](const char* balance, const char* mean, const char* dims,
                          const char* frequencies) {
    return std::string(R"({"balance":)") + balance + R"(,"mean":)" + mean +
           R"(,"dense":0,"pairing":1,"dims":)" + dims + R"(,"frequencies":)" + frequencies + "}";
  };
  const std::string coded = R"({"config":0,"role":"key","coded":true,"exact":[]})";
  const std::string exact = R"({"config":0,"role":"key","coded":false,"exact":[[0,256]]})";
  const std::string nothing = R"({"config":0,"role":"key","coded":false,"exact":[]})";
  const std::string cache = R"({"config":0,"length":16777216,"first":0,"keys":[0],"values":[0]})";
  const std::string late =
      R"({"config":0,"length":16777216,"first":16777215,"keys":[0],"values":[0]})";
  const std::vector<std::string> files = {
      FileOf(Description(ConfigText("turbo4", huge), "", coded, "")),
      FileOf(Description(ConfigText("turbo4", huge), "", exact, "")),
      FileOf(Description(ConfigText("f16", huge), "", nothing, cache)),
      FileOf(Description(ConfigText("turbo4", huge), "", nothing, late)),
      FileOf(Description("", profile("1000000000000000000", "0", "0", "0"), "", "")),
      FileOf(Description("", profile("0", "4611686018427387905", "0", "0"), "", "")),
      FileOf(Description("", profile("0", "0", "0", "2305843009213693952"), "", "")),
      FileOf(Description(ConfigText("turbo4:center=step", with_profile),
                         profile("0", "16", "2147483646", "0"), "", ""),
             64),
      FileOf(Description(ConfigText("turbo4:center=step", with_profile),
                         profile("0", "16", "-2", "0"), "", ""),
             64),
      FileOf(Description(ConfigText("turbo4:center=step:step=16", with_profile),
                         profile("0", "16", "16", "8"), "", ""),
             128),
      FileOf(std::string(350, '[')),
      FileOf(Description(std::string(200, '['), "", "", "")),
  };
  for (const std::string& file : files) {  // tables of codecs are made once
    try {
      SavedSequences::Parse(file);
    } catch (const Error&) {
    }
  }
  for (size_t i = 0; i < files.size(); ++i) {
    EXPECT_LT(files[i].size(), 700u);
    const size_t before = BytesEverAllocated();
    try {
      SavedSequences::Parse(files[i]);
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kCorruption)
          << error.what();
    }
    EXPECT_LT(BytesEverAllocated() - before, size_t{1} << 20) << i;
  }
}

// Rows that stand alone have codes beneath their exact copies: who retires them finds them.
TEST(SequenceFile, RefusesExactRowsWithoutTheCodesTheyMustHave) {
  const std::string config = ConfigText(
      "turbo4", R"("key_head_dim":16,"value_head_dim":16,"num_kv_heads":1,"page_tokens":64,)"
                R"("window":0,"sinks":0,"profile":null)");
  const std::string pages = R"({"config":0,"role":"key","coded":false,"exact":[[0,2]]},)"
                            R"({"config":0,"role":"value","coded":false,"exact":[[0,2]]})";
  const std::string cache = R"({"config":0,"length":2,"first":0,"keys":[0],"values":[1]})";
  try {
    SavedSequences::Parse(FileOf(Description(config, "", pages, cache), 4 * 32));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorruption) << error.what();
  }
}

TEST(SequenceFile, RefusesNumbersThatAreNotWhole) {
  std::string bytes = Some().Print();
  const size_t at = bytes.find("\"length\":300");
  ASSERT_NE(at, std::string::npos);
  bytes.replace(at + 9, 3, "3e9");
  Sign(&bytes);
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
