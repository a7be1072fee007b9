// SPDX-License-Identifier: Apache-2.0
// What memory() says against what the system says.
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <numeric>
#include <sstream>

#include "cache/cell_store_testing.h"
#include "cache/host_range.h"

namespace polarquant {
namespace {

// Sanitizers keep shadows and freed blocks of their own, which the system counts as ours.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

// Resident anonymous memory of this process, in bytes.
size_t Resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string name;
    size_t kib = 0;
    if (words >> name >> kib && name == "RssAnon:") return kib * 1024;
  }
  ADD_FAILURE() << "no RssAnon in /proc/self/status";
  return 0;
}

CellStore::Config Layer(const char* scheme, int head_dim, int heads, int64_t cells) {
  CellStore::Config config;
  config.scheme = Scheme::Parse(scheme);
  config.head_dim = head_dim;
  config.num_kv_heads = heads;
  config.num_cells = cells;
  return config;
}

class ResidentMemory : public testing::TestWithParam<const char*> {};

TEST_P(ResidentMemory, IsWhatMemorySaysWithinTenPercentAndGoneAfterClear) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory would be counted";
  // The keys and values of eight layers, filled as llama.cpp does: in batches, then token by token.
  constexpr int64_t kCells = 8000;
  std::mt19937 random(1);
  const CellStore::Config config = Layer(GetParam(), 64, 3, 65536);
  const size_t row_values = 192;
  const Floats rows = RandomRows(random, 512, row_values);
  std::vector<int64_t> cells(512);
  {  // what the first use of kernels and tables costs is not the store's
    CellStore warm(config);
    for (int64_t first = 0; first < 1024; first += 512) {
      std::iota(cells.begin(), cells.end(), first);
      warm.Write(cells, rows.data(), static_cast<int64_t>(row_values), 2);
      warm.Settle(2);
    }
  }
  const size_t before = Resident();
  std::vector<std::unique_ptr<CellStore>> layers(16);
  for (auto& store : layers) store = std::make_unique<CellStore>(config);
  const auto write = [&](int64_t first, int64_t count) {
    std::iota(cells.begin(), cells.begin() + count, first);
    for (auto& store : layers) {
      store->Write(std::span(cells).first(static_cast<size_t>(count)), rows.data(),
                   static_cast<int64_t>(row_values), 2);
      store->Settle(2);
    }
  };
  for (int64_t first = 0; first < 7680; first += 512) write(first, 512);
  for (int64_t first = 7680; first < kCells; ++first) write(first, 1);

  MemoryUse use;
  for (const auto& store : layers) use += store->memory();
  const auto resident = static_cast<double>(Resident() - before);
  const auto reported = static_cast<double>(use.total());
  EXPECT_GT(reported, 0.9 * resident);
  EXPECT_LT(reported, 1.1 * resident);
  EXPECT_EQ(use.filled_cells, 16 * kCells);
  std::printf(
      "%s: reported %.2f MiB, resident %.2f MiB, in 16 bit %.2f MiB (%.3fx); exact %.2f, "
      "codes %.2f, headers %.2f, bookkeeping %.2f\n",
      GetParam(), reported / 1048576, resident / 1048576,
      static_cast<double>(use.f16_bytes) / 1048576, reported / static_cast<double>(use.f16_bytes),
      static_cast<double>(use.exact_bytes) / 1048576, static_cast<double>(use.code_bytes) / 1048576,
      static_cast<double>(use.header_bytes) / 1048576,
      static_cast<double>(use.bookkeeping_bytes) / 1048576);

  for (auto& store : layers) store->Clear();
  const size_t after = Resident();
  EXPECT_LT(after, before + static_cast<size_t>(0.02 * resident));
}

INSTANTIATE_TEST_SUITE_P(Schemes, ResidentMemory,
                         testing::Values("turbo4", "turbo3:center", "q8_0", "f16"));

TEST(Memory, KeepsOnlyTheOsPagesOfSinks) {
  CellStore::Config config = Layer("turbo4", 128, 8, 4096);  // 2 KiB a row
  config.window_tokens = 0;
  config.sink_tokens = 5;
  CellStore store(config);
  const Floats rows(256 * 1024, 0.25f);
  std::vector<int64_t> cells(256);
  std::iota(cells.begin(), cells.end(), 0);
  store.Write(cells, rows.data(), 1024, 2);
  EXPECT_EQ(store.memory().exact_bytes, 256u * 2048u);
  store.Settle(2);
  EXPECT_EQ(store.memory().exact_cells, 5);
  EXPECT_EQ(store.memory().exact_bytes, 3u * 4096u);
}

TEST(Memory, OfTheHostBehindTheRowsIsNeverTouched) {
  for (const char* scheme : {"turbo4", "f16", "kivi4"}) {
    CellStore::Config config = Layer(scheme, 64, 3, 1000);  // seven pages and a part
    HostRange range(CellStore::exact_range_bytes(config));
    {
      CellStore store(config, range.data());
      for (int round = 0; round < 2; ++round) {
        Write(store, 900, 100);
        store.Settle(1);
        store.ClearCells(890, 110);
        EXPECT_TRUE(range.intact()) << scheme;
        Write(store, 999, 1);
        store.Clear();
        EXPECT_TRUE(range.intact()) << scheme;
        EXPECT_EQ(range.resident(), 0u) << scheme;
      }
    }
    EXPECT_TRUE(range.intact()) << scheme;
  }
}

TEST(Memory, HoldsNoListOfPositionsWhereTheyAreConsecutive) {
  CellStore store(SomeConfig("turbo4:balanced"));
  Write(store, 0, 128, 1, 500);
  const size_t consecutive = store.memory().bookkeeping_bytes;
  Write(store, 5, 1, 1, 900);
  EXPECT_GT(store.memory().bookkeeping_bytes, consecutive + 128 * sizeof(int32_t) - 1);
  Write(store, 5, 1, 1, 505);
  EXPECT_EQ(store.memory().bookkeeping_bytes, consecutive);
}

TEST(Memory, AddsUp) {
  MemoryUse a{1, 2, 3, 4, 5, 6, 7};
  a += MemoryUse{10, 20, 30, 40, 50, 60, 70};
  EXPECT_EQ(a.total(), 110u);
  EXPECT_EQ(a.filled_cells, 55);
  EXPECT_EQ(a.exact_cells, 66);
  EXPECT_EQ(a.f16_bytes, 77u);
}

TEST(Memory, OfAHugeEmptyCacheIsSmall) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory would be counted";
  const size_t before = Resident();
  CellStore store(Layer("turbo4:center", 128, 8, int64_t{1} << 22));  // 8 GiB of rows
  EXPECT_LT(store.memory().total(), size_t{1} << 20);
  EXPECT_LT(Resident() - before, size_t{1} << 20);
  const Floats row(1024, 1.0f);
  store.Write(std::vector<int64_t>{(int64_t{1} << 22) - 1}, row.data(), 1024, 1);
  // A line in the table for every page up to the last one written.
  EXPECT_LT(store.memory().total(), size_t{8} << 20);
  store.Clear();
  EXPECT_LT(store.memory().total(), size_t{1} << 20);
  EXPECT_LT(Resident() - before, size_t{1} << 20);
}

}  // namespace
}  // namespace polarquant
