// SPDX-License-Identifier: Apache-2.0
// The sequence cache against a naive one, which every fork copies, row by row; and its promises.
#include "polarquant/sequence_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <numeric>
#include <random>
#include <thread>

#include "cache/cell_store_model.h"
#include "cache/random_profile.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

SequenceCache::Config SomeConfig(const char* key = "turbo4:center", const char* value = "turbo4") {
  SequenceCache::Config config;
  config.key = Scheme::Parse(key);
  config.value = Scheme::Parse(value);
  config.key_head_dim = 64;
  config.value_head_dim = 32;
  config.num_kv_heads = 2;
  config.page_tokens = 64;
  config.window_tokens = 40;
  config.sink_tokens = 5;
  return config;
}

Floats HalfRows(std::mt19937& random, int64_t count, int row_values) {
  std::normal_distribution<float> normal(0.3f, 1.0f);
  Floats rows(static_cast<size_t>(count * row_values));
  for (float& value : rows) value = HalfToFloat(FloatToHalf(normal(random)));
  return rows;
}

// The keys and the values, each in a plain model of cells: token t is cell t. Forks are copies.
class NaiveSequence {
 public:
  static constexpr int64_t kMostTokens = 4096;

  explicit NaiveSequence(const SequenceCache::Config& config)
      : config_(config), models_{Model(Role::kKey, config.profile), Model(Role::kValue, nullptr)} {}

  int Dim(int role) const { return role == 0 ? config_.key_head_dim : config_.value_head_dim; }
  int Row(int role) const { return Dim(role) * config_.num_kv_heads; }
  const StoreModel& model(int role) const { return models_[static_cast<size_t>(role)]; }

  void Append(const Floats& keys, const Floats& values, int64_t count) {
    std::vector<int64_t> cells(static_cast<size_t>(count));
    std::iota(cells.begin(), cells.end(), length);
    const std::vector<int32_t> positions(cells.begin(), cells.end());
    models_[0].Write(cells, keys, positions);
    models_[1].Write(cells, values, positions);
    length += count;
  }
  void Settle() {
    std::vector<int64_t> old;
    for (int64_t token = 0; token < length - config_.window_tokens; ++token) old.push_back(token);
    for (StoreModel& model : models_) model.Retire(old);
  }
  void Truncate(int64_t to) {
    for (StoreModel& model : models_) model.Forget(to, length - to);
    length = to;
  }
  void EvictFront(int64_t count) {
    first += count;
    for (StoreModel& model : models_) {
      model.Forget(0, first / config_.page_tokens * config_.page_tokens);
    }
  }
  void SetProfile(const std::shared_ptr<const KeyProfile>& profile) {
    models_[0].SetProfile(profile);
  }
  Floats Read(int role, int64_t token) const { return model(role).Row(token); }

  int64_t length = 0, first = 0;

 private:
  StoreModel Model(Role role, const std::shared_ptr<const KeyProfile>& profile) const {
    const bool key = role == Role::kKey;
    return {{key ? config_.key : config_.value, role, Dim(key ? 0 : 1), config_.num_kv_heads,
             config_.page_tokens},
            {kMostTokens, config_.window_tokens, config_.sink_tokens, 1 << 20, 1 << 20},
            profile};
  }

  SequenceCache::Config config_;
  std::array<StoreModel, 2> models_;
};

struct Twins {  // the cache and the naive one
  SequenceCache cache;
  NaiveSequence naive;

  explicit Twins(const SequenceCache::Config& config) : cache(config), naive(config) {}

  void Append(std::mt19937& random, int64_t count) {
    const int dims[2] = {naive.Dim(0), naive.Dim(1)};
    const Floats keys = HalfRows(random, count, naive.Row(0));
    const Floats values = HalfRows(random, count, naive.Row(1));
    cache.Append({keys.data(), NumberType::kF32, naive.Row(0), dims[0]},
                 {values.data(), NumberType::kF32, naive.Row(1), dims[1]}, count, 2);
    naive.Append(keys, values, count);
  }
  void Settle() {
    cache.Settle(2);
    naive.Settle();
  }
  void ExpectEqual() const {
    ASSERT_EQ(cache.length(), naive.length);
    ASSERT_EQ(cache.first_token(), naive.first);
    int64_t exact = 0;
    for (int role = 0; role < 2; ++role) {
      const int64_t row = naive.Row(role), count = naive.length - naive.first;
      Floats all(static_cast<size_t>(count * row));
      cache.Read(role == 0 ? Role::kKey : Role::kValue, naive.first, count, all.data(), row,
                 naive.Dim(role), 2);
      const PagedRows& rows = role == 0 ? cache.keys() : cache.values();
      Floats one(static_cast<size_t>(row));
      for (int64_t n = 0; n < count; ++n) {
        const Floats expected = naive.Read(role, naive.first + n);
        ASSERT_EQ(Floats(all.begin() + n * row, all.begin() + (n + 1) * row), expected)
            << "role " << role << " token " << naive.first + n;
        const int64_t cell = cache.Call().first_cell + n;
        rows.ReadRow(cell, one.data());
        ASSERT_EQ(one, expected) << "role " << role << " token " << naive.first + n;
        ExpectSameCode(role, cell, naive.first + n);
        exact += naive.model(role).cell(naive.first + n).exact ? 1 : 0;
      }
    }
    const MemoryUse use = cache.memory();
    EXPECT_EQ(use.filled_cells, 2 * (naive.length - naive.first));
    EXPECT_EQ(use.exact_cells, exact);
  }

 private:
  // Also beneath an exact copy.
  void ExpectSameCode(int role, int64_t cell, int64_t token) const {
    const StoreModel::Cell& expected = naive.model(role).cell(token);
    const PagedRows& rows = role == 0 ? cache.keys() : cache.values();
    const int64_t tokens = rows.shape().page_tokens;
    const PageView view = rows.View(cell / tokens, 1);
    const auto slot = static_cast<int>(cell % tokens);
    ASSERT_EQ((view.exact[slot / 64] >> (slot % 64) & 1) != 0, expected.exact) << token;
    if (expected.records.empty()) return;
    ASSERT_NE(view.page, nullptr) << token;
    Bytes record(rows.format(1).record_bytes());
    rows.format(1).ReadRecord(view.page, slot, record.data());
    ASSERT_EQ(record, expected.records[1]) << "role " << role << " token " << token;
    if (naive.model(role).has_centre()) {
      ASSERT_EQ(view.positions != nullptr ? view.positions[slot] : view.first_position + slot,
                token);
    }
  }
};

TEST(SequenceCache, DoesWhatANaiveOneDoesUnderRandomForksAndCuts) {
  const char* const schemes[][2] = {
      {"turbo4:center", "turbo4"}, {"turbo3:balanced", "turbo3"},
      {"q8_0", "zscore3"},         {"f16", "turbo2"},
      {"kivi4", "kivi2"},          {"mixed3:balanced", "q4_0"},
      {"turbo4", "f16"},           {"turbo2:balanced:step=16", "bf16"}};
  constexpr unsigned kSchemes = 8;
  for (unsigned seed = 0; seed < 2 * kSchemes; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    SequenceCache::Config config =
        SomeConfig(schemes[seed % kSchemes][0], schemes[seed % kSchemes][1]);
    if (config.key.normalisation.needs_profile()) {
      config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, seed);
    }
    if (seed >= kSchemes) config.window_tokens = static_cast<int>(random() % 100);
    std::vector<Twins> all(1, Twins(config));
    for (int step = 0; step < 120; ++step) {
      const size_t at = random() % all.size();
      Twins& one = all[at];
      const auto up_to = [&](int64_t most) {
        return static_cast<int64_t>(random() % static_cast<uint64_t>(most + 1));
      };
      switch (random() % 8) {
        case 0:
        case 1:
          one.Append(random, std::min(up_to(150), NaiveSequence::kMostTokens - one.naive.length));
          break;
        case 2:
          one.Append(random, 1);
          break;
        case 3:
        case 4:
          one.Settle();
          break;
        case 5: {
          const int64_t to = std::max(one.naive.first, one.naive.length - up_to(100));
          one.cache.Truncate(to);
          one.naive.Truncate(to);
          break;
        }
        case 6:
          if (all.size() < 4) {
            all.push_back(Twins(one));
          } else {
            all.erase(all.begin() + static_cast<int64_t>(at));
          }
          break;
        default:
          if (step % 3 == 0) {
            const int64_t count = up_to(std::min<int64_t>(one.naive.length - one.naive.first, 50));
            one.cache.EvictFront(count);
            one.naive.EvictFront(count);
          }
      }
      if (step % 6 == 0) {
        for (const Twins& each : all) each.ExpectEqual();
        ASSERT_FALSE(HasFailure()) << "step " << step;
      }
    }
  }
}

Twins Filled(int64_t count, const SequenceCache::Config& config = SomeConfig()) {
  std::mt19937 random(7);
  Twins twins(config);
  twins.Append(random, count);
  twins.Settle();
  return twins;
}

TEST(SequenceCache, ForksShareTheirPagesUntilOneWritesToThem) {
  std::mt19937 random(3);
  Twins one = Filled(1000);
  const MemoryUse alone = one.cache.memory();
  Twins two = one;
  const SequenceCache* const both[] = {&one.cache, &two.cache};
  const MemoryUse shared = SequenceCache::MemoryOf(both);
  EXPECT_EQ(shared.code_bytes, alone.code_bytes);
  EXPECT_EQ(shared.exact_bytes, alone.exact_bytes);
  EXPECT_EQ(shared.filled_cells, 2 * alone.filled_cells);
  one.Append(random, 70);
  two.Append(random, 70);
  one.Settle();
  two.Settle();
  one.ExpectEqual();
  two.ExpectEqual();
  const int page = 1000 / 64;  // half full when they forked: theirs alone since
  EXPECT_NE(one.cache.values().View(page, 0).page, two.cache.values().View(page, 0).page);
  EXPECT_EQ(one.cache.values().View(page - 1, 0).page, two.cache.values().View(page - 1, 0).page);
  EXPECT_EQ(one.cache.keys().View(page - 2, 0).page, two.cache.keys().View(page - 2, 0).page);
}

TEST(SequenceCache, GivesMemoryBackWithTheLastForkThatHoldsIt) {
  std::mt19937 random(3);
  Twins one = Filled(640, SomeConfig("turbo4", "turbo4"));
  const size_t alone = one.cache.memory().code_bytes;
  {
    Twins two = one;
    two.Append(random, 640);
    one.cache.Clear();
    EXPECT_EQ(one.cache.memory().code_bytes, 0u);
    EXPECT_EQ(one.cache.memory().exact_bytes, 0u);
    two.ExpectEqual();
    EXPECT_GE(two.cache.memory().code_bytes, 2 * alone);
  }
  EXPECT_EQ(one.cache.length(), 0);
  one.naive = NaiveSequence(one.cache.config());
  one.Append(random, 100);
  one.Settle();
  one.ExpectEqual();
}

TEST(SequenceCache, ReportsTheBytesItHolds) {
  const Twins twins = Filled(1000, SomeConfig("turbo4", "turbo4:center"));
  const MemoryUse use = twins.cache.memory();
  const int64_t closed = (1000 - 40) / 64;  // of the values; all keys have codes
  const PageFormat& keys = twins.cache.keys().format(0);
  const PageFormat& values = twins.cache.values().format(0);
  const size_t codes = 16 * 2 * keys.page_bytes() + size_t{closed} * 2 * values.page_bytes();
  EXPECT_GE(use.code_bytes + use.header_bytes, codes);  // in whole OS pages
  EXPECT_LE(use.code_bytes + use.header_bytes, codes + 8 * 4096);
  EXPECT_EQ(use.header_bytes, size_t{closed} * 2 * values.headers_bytes());
  EXPECT_EQ(use.filled_cells, 2 * 1000);
  EXPECT_EQ(use.exact_cells, 40 + 5 + (1000 - closed * 64) + 5);
  EXPECT_EQ(use.f16_bytes, size_t{1000} * 2 * (64 + 32) * 2);
  EXPECT_LT(use.total(), use.f16_bytes / 2);
}

TEST(SequenceCache, TakesHalfPrecisionRowsOfAnyStrides) {
  std::mt19937 random(11);
  const SequenceCache::Config config = SomeConfig();
  const Floats keys = HalfRows(random, 3, 128), values = HalfRows(random, 3, 64);
  SequenceCache plain(config), strided(config), bf16(config);
  plain.Append({keys.data(), NumberType::kF32, 128, 64}, {values.data(), NumberType::kF32, 64, 32},
               3, 1);
  // Heads outermost, f16.
  std::vector<uint16_t> key_halves(2 * 3 * 64), value_halves(2 * 3 * 32), key_brains(3 * 128),
      value_brains(3 * 64);
  for (int n = 0; n < 3; ++n) {
    for (int i = 0; i < 128; ++i) {
      key_halves[static_cast<size_t>((i / 64 * 3 + n) * 64 + i % 64)] =
          FloatToHalf(keys[static_cast<size_t>(n * 128 + i)]);
    }
    for (int i = 0; i < 64; ++i) {
      value_halves[static_cast<size_t>((i / 32 * 3 + n) * 32 + i % 32)] =
          FloatToHalf(values[static_cast<size_t>(n * 64 + i)]);
    }
  }
  strided.Append({key_halves.data(), NumberType::kF16, 64, 3 * 64},
                 {value_halves.data(), NumberType::kF16, 32, 3 * 32}, 3, 1);
  for (size_t i = 0; i < key_brains.size(); ++i) {
    key_brains[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(keys[i]) >> 16);
  }
  bf16.Append({key_brains.data(), NumberType::kBF16, 128, 64},
              {value_brains.data(), NumberType::kBF16, 64, 32}, 3, 1);
  Floats a(128), b(128), c(128);
  for (int64_t cell = 0; cell < 3; ++cell) {
    plain.keys().ReadRow(cell, a.data());
    strided.keys().ReadRow(cell, b.data());
    bf16.keys().ReadRow(cell, c.data());
    EXPECT_EQ(a, b);
    for (size_t i = 0; i < 128; ++i) EXPECT_NEAR(a[i], c[i], std::abs(a[i]) / 128);
  }
}

TEST(SequenceCache, WaitsForAProfileOnlyUntilAPageHasLeftTheWindow) {
  std::mt19937 random(5);
  const SequenceCache::Config config = SomeConfig("turbo4:balanced");
  const auto profile = RandomProfile(2, 64, Rope::Pairing::kHalves, 1);
  Twins late(config);
  late.Append(random, 100);
  EXPECT_FALSE(late.cache.wants_profile());
  late.Settle();
  Twins fork = late;
  late.Append(random, 4);
  EXPECT_TRUE(late.cache.wants_profile());
  try {
    late.cache.Settle(1);
    FAIL() << "settled without a profile";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kParameter);
    EXPECT_NE(std::string(error.what()).find("turbo4:center"), std::string::npos) << error.what();
  }
  late.ExpectEqual();  // nothing was lost
  late.cache.SetProfile(profile);
  late.naive.SetProfile(profile);
  late.Settle();
  late.ExpectEqual();
  EXPECT_NE(late.cache.keys().View(0, 0).page, nullptr);
  EXPECT_FALSE(late.cache.wants_profile());
  EXPECT_THROW(late.cache.SetProfile(RandomProfile(2, 64, Rope::Pairing::kHalves, 2)), Error);
  fork.ExpectEqual();  // and has none yet
  EXPECT_EQ(fork.cache.keys().View(0, 0).page, nullptr);
  fork.cache.SetProfile(profile);
  fork.naive.SetProfile(profile);
  fork.Append(random, 100);
  fork.Settle();
  fork.ExpectEqual();
  late.ExpectEqual();
}

TEST(SequenceCache, GivesTheSameCodesWhetherItsProfileComesEarlyOrLate) {
  for (const char* scheme : {"turbo3:balanced", "turbo4:balance", "mixed3:balanced"}) {
    SequenceCache::Config config = SomeConfig(scheme);
    Twins late(config);
    config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, 1);
    Twins early(config);
    std::mt19937 a(1), b(1);
    for (int batch = 0; batch < 10; ++batch) {
      late.Append(a, 50);
      early.Append(b, 50);
      if (batch == 1) {
        late.cache.SetProfile(config.profile, 2);
        late.naive.SetProfile(config.profile);
      }
      if (!late.cache.wants_profile()) late.Settle();
      early.Settle();
    }
    late.ExpectEqual();
    early.ExpectEqual();
    Floats x(500 * 128), y(500 * 128);
    late.cache.Read(Role::kKey, 0, 500, x.data(), 128, 64, 1);
    early.cache.Read(Role::kKey, 0, 500, y.data(), 128, 64, 1);
    EXPECT_EQ(x, y) << scheme;
  }
}

TEST(SequenceCache, NamesWhatItRefuses) {
  const auto refusal = [](const std::function<void()>& act) {
    try {
      act();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  Twins twins = Filled(100);
  twins.cache.EvictFront(10);
  EXPECT_NE(refusal([&] { twins.cache.Truncate(101); }).find("101"), std::string::npos);
  EXPECT_NE(refusal([&] { twins.cache.Truncate(9); }).find("between 10 and 100"),
            std::string::npos);
  EXPECT_NE(refusal([&] { twins.cache.EvictFront(91); }).find("91"), std::string::npos);
  EXPECT_NE(refusal([&] { twins.cache.Read(Role::kKey, 5, 1, nullptr, 0, 0, 1); }).find("5"),
            std::string::npos);
  EXPECT_NE(refusal([&] {
              twins.cache.SetProfile(RandomProfile(2, 64, Rope::Pairing::kHalves, 1));
            }).find("takes no profile"),
            std::string::npos);
  const HostRows none;
  EXPECT_NE(refusal([&] { twins.cache.Append(none, none, 1, 1); }).find("keys and values"),
            std::string::npos);
  EXPECT_NE(refusal([&] { twins.cache.Append(none, none, 1 << 24, 1); }).find("count"),
            std::string::npos);
  twins.naive.EvictFront(10);
  twins.ExpectEqual();
  SequenceCache::Config config;
  config = SomeConfig();
  config.window_tokens = -1;
  EXPECT_NE(refusal([&] { SequenceCache cache(config); }).find("-1"), std::string::npos);
  config = SomeConfig("qjl", "qjl");
  EXPECT_NE(refusal([&] { SequenceCache cache(config); }).find("qjl"), std::string::npos);
}

TEST(SequenceCache, ForksMayBeUsedByDifferentThreads) {
  for (const char* key : {"turbo4:center", "turbo3:balanced"}) {
    SequenceCache::Config config = SomeConfig(key);
    if (config.key.normalisation.needs_profile()) {
      config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, 1);
    }
    const Twins first = Filled(500, config);
    std::vector<Twins> forks(4, first);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < forks.size(); ++i) {
      threads.emplace_back([&, i] {
        std::mt19937 random(i);
        for (int step = 0; step < 12; ++step) {
          const Twins fork = forks[i];
          forks[i].Append(random, 30);
          fork.ExpectEqual();
          forks[i].Settle();
          if (step % 4 != 3) continue;
          const int64_t to = forks[i].naive.length - 50;
          forks[i].cache.Truncate(to);
          forks[i].naive.Truncate(to);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const Twins& fork : forks) fork.ExpectEqual();
    first.ExpectEqual();
  }
}

TEST(SequenceCache, AppendsNoRowsWithoutAWord) {
  Twins twins = Filled(100);
  twins.cache.Append({}, {}, 0, 1);
  twins.ExpectEqual();
}

}  // namespace
}  // namespace polarquant
