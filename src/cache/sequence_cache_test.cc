// SPDX-License-Identifier: Apache-2.0
// The sequence cache against a naive one: pages that every fork copies, rows one at a time.
#include "polarquant/sequence_cache.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <thread>

#include "cache/random_profile.h"
#include "math/stepped_centre.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

using Floats = std::vector<float>;

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

Floats RandomRows(std::mt19937& random, int64_t count, int row_values) {
  std::normal_distribution<float> normal(0.3f, 1.0f);
  Floats rows(static_cast<size_t>(count * row_values));
  for (float& value : rows) value = HalfToFloat(FloatToHalf(normal(random)));
  return rows;
}

// Codes and exact copies of one page and role, plainly.
struct NaivePage {
  std::vector<std::vector<std::byte>> codes;  // of each kv_head, empty while open
  std::map<int, Floats> exact;                // by slot
};

class NaiveSequence {
 public:
  explicit NaiveSequence(const SequenceCache::Config& config) : config_(config) {
    for (int role = 0; role < 2; ++role) {
      const Scheme& scheme = role == 0 ? config.key : config.value;
      for (int h = 0; h < config.num_kv_heads; ++h) {
        KeyMap map;
        const auto dim = static_cast<size_t>(Dim(role));
        if (scheme.normalisation.balance) {
          map.balance =
              std::span(config.profile->balance).subspan(static_cast<size_t>(h) * dim, dim);
        }
        formats_[role].push_back(std::make_shared<PageFormat>(
            scheme, role == 0 ? Role::kKey : Role::kValue, Dim(role), config.page_tokens, map));
      }
    }
  }

  // row += sign * the centre of a token's keys.
  void AddCentre(int role, int head, int64_t token, float sign, float* row) const {
    const int step = config_.key.normalisation.step;
    if (role != 0 || step == 0) return;
    const auto dim = static_cast<size_t>(Dim(role));
    const SteppedCentre centre(
        StepTable::Share(config_.profile->rope, step),
        std::span(config_.profile->mean).subspan(static_cast<size_t>(head) * dim, dim));
    centre.AddTo(static_cast<int32_t>(token), 1, sign, row);
  }

  int Dim(int role) const { return role == 0 ? config_.key_head_dim : config_.value_head_dim; }
  int Row(int role) const { return Dim(role) * config_.num_kv_heads; }

  void Append(const Floats& keys, const Floats& values, int64_t count) {
    for (int64_t n = 0; n < count; ++n, ++length) {
      for (int role = 0; role < 2; ++role) {
        const Floats& rows = role == 0 ? keys : values;
        const auto row = rows.begin() + n * Row(role);
        pages_[role][length / config_.page_tokens].exact[Slot(length)] =
            Floats(row, row + Row(role));
      }
    }
  }

  void Settle() {
    for (int role = 0; role < 2; ++role) {
      for (auto& [number, page] : pages_[role]) {
        const int64_t first_token = number * config_.page_tokens;
        if (first_token + config_.page_tokens > length - config_.window_tokens) continue;
        std::vector<int> loose;
        for (const auto& [slot, row] : page.exact) {
          if (first_token + slot >= config_.sink_tokens) loose.push_back(slot);
        }
        if (loose.empty() && !page.codes.empty()) continue;
        const bool afresh = static_cast<int>(page.exact.size()) == config_.page_tokens;
        if (afresh) page.codes.assign(static_cast<size_t>(config_.num_kv_heads), {});
        for (int h = 0; h < config_.num_kv_heads; ++h)
          Encode(role, h, first_token, loose, afresh, page);
        for (const int slot : loose) page.exact.erase(slot);
      }
    }
  }

  void Truncate(int64_t to) {
    for (auto& pages : pages_) {
      std::erase_if(pages,
                    [&](const auto& page) { return page.first * config_.page_tokens >= to; });
      for (auto& [number, page] : pages) {
        const int64_t first_token = number * config_.page_tokens;
        std::erase_if(page.exact, [&](const auto& row) { return first_token + row.first >= to; });
      }
    }
    length = to;
  }

  Floats Read(int role, int64_t token) const {
    const NaivePage& page = pages_[role].at(token / config_.page_tokens);
    if (const auto found = page.exact.find(Slot(token)); found != page.exact.end()) {
      return found->second;
    }
    Floats row(static_cast<size_t>(Row(role)));
    for (int h = 0; h < config_.num_kv_heads; ++h) {
      Format(role, h).DecodeRow(page.codes[static_cast<size_t>(h)].data(), Slot(token),
                                row.data() + h * Dim(role));
      AddCentre(role, h, token, 1.0f, row.data() + h * Dim(role));
    }
    return row;
  }

  int64_t length = 0, first = 0;

 private:
  int Slot(int64_t token) const { return static_cast<int>(token % config_.page_tokens); }
  const PageFormat& Format(int role, int head) const {
    return *formats_[role][static_cast<size_t>(head)];
  }
  void Encode(int role, int head, int64_t first_token, const std::vector<int>& loose, bool afresh,
              NaivePage& page) const {
    const PageFormat& format = Format(role, head);
    std::vector<std::byte>& codes = page.codes[static_cast<size_t>(head)];
    std::map<int, Floats> centred;
    for (const auto& [slot, row] : page.exact) {
      Floats& of_head = centred[slot];
      of_head.assign(row.begin() + head * Dim(role), row.begin() + (head + 1) * Dim(role));
      AddCentre(role, head, first_token + slot, -1.0f, of_head.data());
    }
    const auto head_row = [&](int slot) { return centred.at(slot).data(); };
    if (!afresh) {
      LearnWholeGroups(format, page, loose, head_row, codes.data());
      for (const int slot : loose) format.EncodeRow(codes.data(), slot, head_row(slot));
      return;
    }
    codes.assign(format.page_bytes(), std::byte{0});
    Floats rows;
    uint64_t sinks[kMaxPageTokens / 64] = {};
    for (int slot = 0; slot < config_.page_tokens; ++slot) {
      rows.insert(rows.end(), head_row(slot), head_row(slot) + Dim(role));
      if (first_token + slot < config_.sink_tokens) sinks[slot / 64] |= uint64_t{1} << (slot % 64);
    }
    format.EncodePage(rows.data(), config_.page_tokens, codes.data(), sinks);
  }

  // Rows with statistics of their own, every one of which is new.
  template <typename HeadRow>
  static void LearnWholeGroups(const PageFormat& format, const NaivePage& page,
                               const std::vector<int>& loose, const HeadRow& head_row,
                               std::byte* codes) {
    const int tokens = format.group_tokens();
    for (int first = 0; first < format.page_tokens(); first += tokens) {
      bool whole = true;
      for (int slot = first; slot < first + tokens; ++slot) whole &= page.exact.contains(slot);
      if (!whole) continue;
      Floats rows;
      for (const int slot : loose) {
        if (slot < first || slot >= first + tokens) continue;
        rows.insert(rows.end(), head_row(slot), head_row(slot) + format.head_dim());
      }
      const auto count = static_cast<int>(rows.size()) / format.head_dim();
      if (count > 0) format.LearnGroup(codes, first, rows.data(), count);
    }
  }

  SequenceCache::Config config_;
  std::array<std::vector<std::shared_ptr<PageFormat>>, 2> formats_;
  std::array<std::map<int64_t, NaivePage>, 2> pages_;
};

struct Twins {  // the cache and the naive one
  SequenceCache cache;
  NaiveSequence naive;

  explicit Twins(const SequenceCache::Config& config) : cache(config), naive(config) {}

  void Append(std::mt19937& random, int64_t count) {
    const int dims[2] = {naive.Dim(0), naive.Dim(1)};
    const Floats keys = RandomRows(random, count, naive.Row(0));
    const Floats values = RandomRows(random, count, naive.Row(1));
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
        rows.ReadRow(cache.Call().first_cell + n, one.data());
        ASSERT_EQ(one, expected) << "role " << role << " token " << naive.first + n;
      }
    }
  }
};

TEST(SequenceCache, DoesWhatANaiveOneDoesUnderRandomForksAndCuts) {
  const char* const schemes[][2] = {{"turbo4:center", "turbo4"},
                                    {"turbo3:balanced", "turbo3"},
                                    {"q8_0:center=step:step=16", "zscore3"},
                                    {"f16", "turbo2"},
                                    {"turbo4:balance:center", "turbo2"},
                                    {"kivi4", "kivi2"}};
  for (unsigned seed = 0; seed < 12; ++seed) {
    std::mt19937 random(seed);
    SequenceCache::Config config = SomeConfig(schemes[seed % 6][0], schemes[seed % 6][1]);
    if (config.key.normalisation.needs_profile()) {
      config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, seed);
    }
    if (seed >= 6) config.window_tokens = static_cast<int>(random() % 100);
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
          one.Append(random, up_to(150));
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
            one.naive.first += count;
          }
      }
      if (step % 6 == 0) {
        for (const Twins& each : all) each.ExpectEqual();
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

TEST(SequenceCache, ForksShareTheirPagesAndTheWorkOfClosingThem) {
  std::mt19937 random(3);
  Twins one = Filled(1000);
  const MemoryUse alone = one.cache.memory();
  Twins two = one;
  const SequenceCache* const both[] = {&one.cache, &two.cache};
  const MemoryUse shared = SequenceCache::MemoryOf(both);
  EXPECT_EQ(shared.code_bytes, alone.code_bytes);
  EXPECT_EQ(shared.exact_bytes, alone.exact_bytes);
  EXPECT_EQ(shared.filled_cells, 2 * alone.filled_cells);
  // Rows that were exact when they forked, and leave the window of both afterwards.
  one.Append(random, 70);
  two.Append(random, 70);
  one.Settle();
  two.Settle();
  one.ExpectEqual();
  two.ExpectEqual();
  const int page = static_cast<int>((1000 - 40) / 64);  // full when they forked, closed since
  EXPECT_NE(one.cache.keys().View(page, 0).page, nullptr);
  EXPECT_EQ(one.cache.keys().View(page - 1, 0).page, two.cache.keys().View(page - 1, 0).page);
}

TEST(SequenceCache, ReportsTheBytesItHolds) {
  const Twins twins = Filled(1000);
  const MemoryUse use = twins.cache.memory();
  const int64_t closed = (1000 - 40) / 64;
  const PageFormat& keys = twins.cache.keys().format(0);
  const PageFormat& values = twins.cache.values().format(0);
  EXPECT_EQ(use.code_bytes + use.header_bytes,
            static_cast<size_t>(closed) * 2 * (keys.page_bytes() + values.page_bytes()));
  EXPECT_EQ(use.filled_cells, 2 * 1000);
  EXPECT_EQ(use.exact_cells, 2 * (1000 - closed * 64 + 5));
  EXPECT_EQ(use.f16_bytes, size_t{1000} * 2 * (64 + 32) * 2);
  EXPECT_LT(use.total(), use.f16_bytes / 2);
}

TEST(SequenceCache, TakesHalfPrecisionRowsOfAnyStrides) {
  std::mt19937 random(11);
  const SequenceCache::Config config = SomeConfig();
  const Floats keys = RandomRows(random, 3, 128), values = RandomRows(random, 3, 64);
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

TEST(SequenceCache, WaitsForAProfileOnlyUntilAPageMustClose) {
  std::mt19937 random(5);
  SequenceCache::Config config = SomeConfig("turbo4:balanced");
  SequenceCache cache(config);
  const Floats keys = RandomRows(random, 200, 128), values = RandomRows(random, 200, 64);
  const HostRows k = {keys.data(), NumberType::kF32, 128, 64};
  const HostRows v = {values.data(), NumberType::kF32, 64, 32};
  cache.Append(k, v, 100, 1);
  EXPECT_FALSE(cache.wants_profile());
  cache.Settle(1);
  cache.Append(k, v, 4, 1);
  EXPECT_TRUE(cache.wants_profile());
  try {
    cache.Settle(1);
    FAIL() << "settled without a profile";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kParameter);
    EXPECT_NE(std::string(error.what()).find("turbo4:center"), std::string::npos) << error.what();
  }
  EXPECT_EQ(cache.memory().exact_cells, 2 * 104) << "nothing was lost";
  cache.SetProfile(RandomProfile(2, 64, Rope::Pairing::kHalves, 1));
  cache.Settle(1);
  EXPECT_NE(cache.keys().View(0, 0).page, nullptr);
  EXPECT_THROW(cache.SetProfile(RandomProfile(2, 64, Rope::Pairing::kHalves, 2)), Error);
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
  SequenceCache::Config config = SomeConfig();
  config.window_tokens = -1;
  EXPECT_NE(refusal([&] { SequenceCache cache(config); }).find("-1"), std::string::npos);
  config = SomeConfig("qjl", "qjl");
  EXPECT_NE(refusal([&] { SequenceCache cache(config); }).find("qjl"), std::string::npos);
}

TEST(SequenceCache, ForksMayBeUsedByDifferentThreads) {
  const Twins first = Filled(500);
  std::vector<Twins> forks(4, first);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < forks.size(); ++i) {
    threads.emplace_back([&, i] {
      std::mt19937 random(i);
      for (int step = 0; step < 20; ++step) {
        const Twins fork = forks[i];
        forks[i].Append(random, 30);
        fork.ExpectEqual();
        forks[i].Settle();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Twins& fork : forks) fork.ExpectEqual();
}

}  // namespace
}  // namespace polarquant
