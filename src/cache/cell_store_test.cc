// SPDX-License-Identifier: Apache-2.0
// The life of a page, one promise at a time, and what the store refuses.
#include "polarquant/cell_store.h"

#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

#include "cache/cell_store_model.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr int kHeadDim = 64;
constexpr int kHeads = 2;
constexpr size_t kRow = kHeadDim * kHeads;

CellStore::Config SomeConfig(const char* scheme = "turbo4:center", int window = 16) {
  CellStore::Config config;
  config.scheme = Scheme::Parse(scheme);
  config.head_dim = kHeadDim;
  config.num_kv_heads = kHeads;
  config.num_cells = 1000;
  config.window_tokens = window;
  config.max_partial_pages = 2;
  return config;
}

std::vector<int64_t> Cells(int64_t first, int64_t count) {
  std::vector<int64_t> cells(static_cast<size_t>(count));
  std::iota(cells.begin(), cells.end(), first);
  return cells;
}

Floats SomeRows(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.5f, 1.0f);
  Floats rows(static_cast<size_t>(count) * kRow);
  for (float& value : rows) value = normal(random);
  return rows;
}

void Write(CellStore& store, int64_t first, int64_t count, unsigned seed = 1) {
  const Floats rows = SomeRows(count, seed);
  store.Write(Cells(first, count), rows.data(), static_cast<int64_t>(kRow), 1);
}

int ExactIn(const CellStore& store, int64_t page) {
  int count = 0;
  for (const uint64_t word : store.View(page, 0).exact) count += std::popcount(word);
  return count;
}
bool Closed(const CellStore& store, int64_t page) { return store.View(page, 0).page != nullptr; }

std::vector<Bytes> PageBytes(const CellStore& store, int64_t page) {
  std::vector<Bytes> pages;
  const PageFormat& format = store.format();
  for (int head = 0; head < kHeads; ++head) {
    const std::byte* bytes = store.View(page, head).page;
    Bytes all(bytes, bytes + format.scales_offset());
    const auto header = format.Header(bytes);
    all.insert(all.end(), header.begin(), header.end());
    for (int slot = 0; slot < format.page_tokens(); ++slot) {
      Bytes record(format.record_bytes());
      format.ReadRecord(bytes, slot, record.data());
      all.insert(all.end(), record.begin(), record.end());
    }
    pages.push_back(all);
  }
  return pages;
}

template <typename Action>
std::string Refusal(ErrorCode code, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

TEST(CellStore, KeepsRowsExactUntilTheyLeaveTheWindow) {
  CellStore store(SomeConfig());
  Write(store, 0, 128 + 15);
  store.Settle(1);
  EXPECT_FALSE(Closed(store, 0));  // 15 newer rows: one row of page 0 is still in the window
  Write(store, 143, 1);
  store.Settle(1);
  EXPECT_TRUE(Closed(store, 0));
  EXPECT_EQ(ExactIn(store, 0), 0);
  EXPECT_EQ(ExactIn(store, 1), 16);
}

TEST(CellStore, ClosesAPageAtOnceWithoutAWindow) {
  CellStore store(SomeConfig("turbo4", 0));
  Write(store, 0, 127);
  store.Settle(1);
  EXPECT_FALSE(Closed(store, 0));
  Write(store, 127, 1);
  store.Settle(1);
  EXPECT_TRUE(Closed(store, 0));
}

TEST(CellStore, ClosesTheLastPageThoughItIsShorter) {
  CellStore store(SomeConfig("turbo4", 0));
  Write(store, 896, 104);
  store.Settle(1);
  EXPECT_TRUE(Closed(store, 7));
}

TEST(CellStore, KeepsSinksExactUntilTheyAreWrittenAgain) {
  CellStore store(SomeConfig());
  Write(store, 0, 140);
  store.PinSinks(Cells(0, 4));
  Write(store, 140, 100);
  store.Settle(1);
  ASSERT_TRUE(Closed(store, 0));
  EXPECT_EQ(ExactIn(store, 0), 4);
  Floats row(kRow), sink = SomeRows(140, 1);
  store.ReadRow(3, row.data());
  for (size_t i = 0; i < kRow; ++i) {
    EXPECT_EQ(row[i], HalfToFloat(FloatToHalf(sink[3 * kRow + i])));
  }
  Write(store, 2, 1, 9);  // no sink any more
  Write(store, 300, 16);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 3);
  store.PinSinks(Cells(50, 1));  // its exact copy is gone: it stays a code
  EXPECT_EQ(ExactIn(store, 0), 3);
}

TEST(CellStore, LeavesSinksOutOfTheStatistics) {
  CellStore with(SomeConfig()), without(SomeConfig());
  Floats rows = SomeRows(128, 1);
  Write(without, 0, 128);
  for (size_t i = 0; i < 4 * kRow; ++i) rows[i] = 500.0f;  // as the first tokens of models are
  with.Write(Cells(0, 128), rows.data(), static_cast<int64_t>(kRow), 1);
  for (CellStore* store : {&with, &without}) {
    store->PinSinks(Cells(0, 4));
    Write(*store, 128, 16);
    store->Settle(1);
  }
  Floats a(kRow), b(kRow);
  for (int64_t cell = 4; cell < 128; ++cell) {
    with.ReadRow(cell, a.data());
    without.ReadRow(cell, b.data());
    ASSERT_EQ(a, b) << cell;
  }
}

TEST(CellStore, PatchesAFewRewrittenRowsWithTheStatisticsThePageHas) {
  CellStore store(SomeConfig());
  Write(store, 0, 256);
  store.Settle(1);
  const auto before = PageBytes(store, 0);
  Floats kept(kRow), now(kRow);
  store.ReadRow(11, kept.data());
  Write(store, 10, 1, 5);
  EXPECT_EQ(ExactIn(store, 0), 1);
  Write(store, 256, 16);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 0);
  store.ReadRow(11, now.data());
  EXPECT_EQ(kept, now);
  EXPECT_NE(before, PageBytes(store, 0));
  std::vector<std::byte> page(store.format().page_bytes() + 64);
  for (int head = 0; head < kHeads; ++head) {
    EXPECT_TRUE(std::ranges::equal(
        store.format().Header(store.View(0, head).page),
        std::span(before[static_cast<size_t>(head)])
            .subspan(store.format().scales_offset(), store.format().header_bytes())));
  }
}

// The page closes short after 40 rows: of its groups of 32 tokens two have never seen a row.
TEST(CellStore, GivesGroupsStatisticsOfTheirOwnWhenTheyFillLater) {
  CellStore::Config config = SomeConfig("kivi4", 0);
  config.max_partial_pages = 0;
  CellStore store(config);
  Write(store, 0, 40);
  store.Settle(1);
  ASSERT_TRUE(Closed(store, 0));
  const auto before = PageBytes(store, 0);
  const Floats rows = SomeRows(64, 9);
  store.Write(Cells(64, 64), rows.data(), static_cast<int64_t>(kRow), 1);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 0);
  EXPECT_EQ(PageBytes(store, 0)[0].front(), before[0].front());
  Floats row(kRow);
  double error = 0.0;
  for (size_t r = 0; r < 64; ++r) {
    store.ReadRow(64 + static_cast<int64_t>(r), row.data());
    for (size_t i = 0; i < kRow; ++i) {
      error += std::pow(static_cast<double>(rows[r * kRow + i]) - static_cast<double>(row[i]), 2);
    }
  }
  EXPECT_LT(error / (64.0 * static_cast<double>(kRow)), 0.007);
}

TEST(CellStore, ClosesAfreshWhenAllRowsWereRewritten) {
  CellStore store(SomeConfig()), fresh(SomeConfig());
  Write(store, 0, 256, 1);
  store.Settle(1);
  ASSERT_TRUE(Closed(store, 0));
  Write(store, 0, 128, 7);
  Write(fresh, 0, 128, 7);
  for (CellStore* each : {&store, &fresh}) {
    Write(*each, 500, 20);
    each->Settle(1);
  }
  EXPECT_EQ(PageBytes(store, 0), PageBytes(fresh, 0));
}

TEST(CellStore, GivesTheSamePagesAfterARewindInsideTheWindowAsWithout) {
  for (unsigned seed = 0; seed < 5; ++seed) {
    CellStore rewound(SomeConfig()), straight(SomeConfig());
    std::mt19937 random(seed);
    const Floats rows = SomeRows(700, 3);
    const auto write = [&](CellStore& store, int64_t first, int64_t count, const float* from) {
      store.Write(Cells(first, count), from, static_cast<int64_t>(kRow), 1);
      store.Settle(1);
    };
    for (int64_t cell = 0; cell < 700; ++cell) {
      write(straight, cell, 1, rows.data() + cell * static_cast<int64_t>(kRow));
    }
    for (int64_t cell = 0; cell < 700;) {
      // A draft of up to 8 tokens, some of which are accepted; the rest is written again.
      const int64_t draft = std::min<int64_t>(1 + random() % 8, 700 - cell);
      const int64_t accepted = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(draft));
      Floats guess(rows.begin() + cell * static_cast<int64_t>(kRow),
                   rows.begin() + (cell + draft) * static_cast<int64_t>(kRow));
      for (size_t i = static_cast<size_t>(accepted) * kRow; i < guess.size(); ++i) guess[i] += 1;
      write(rewound, cell, draft, guess.data());
      cell += accepted;
    }
    for (int64_t page = 0; page < 5; ++page) {
      if (!Closed(straight, page)) continue;
      ASSERT_TRUE(Closed(rewound, page)) << page;
      EXPECT_EQ(PageBytes(rewound, page), PageBytes(straight, page)) << "page " << page;
    }
    EXPECT_TRUE(Closed(straight, 4));
  }
}

TEST(CellStore, ClosesTheOldestPartialPagesShort) {
  CellStore store(SomeConfig());  // at most two
  for (int64_t page = 0; page < 4; ++page) Write(store, page * 128, 40);
  store.Settle(1);
  EXPECT_TRUE(Closed(store, 0));  // pages 1 and 2 may wait, page 3 is in the window
  EXPECT_FALSE(Closed(store, 1));
  Floats before(kRow), after(kRow);
  store.ReadRow(39, before.data());
  Write(store, 40, 1);  // goes on where it stopped
  EXPECT_EQ(ExactIn(store, 0), 1);
  Write(store, 640, 16);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 0);
  store.ReadRow(39, after.data());
  EXPECT_EQ(before, after);
}

TEST(CellStore, NeverClosesF16) {
  CellStore store(SomeConfig("f16", 0));
  EXPECT_TRUE(store.exact_only());
  EXPECT_FALSE(CellStore(SomeConfig("bf16", 0)).exact_only());
  Write(store, 0, 1000);
  store.Settle(1);
  const MemoryUse use = store.memory();
  EXPECT_EQ(use.exact_cells, 1000);
  EXPECT_EQ(use.code_bytes + use.header_bytes, 0u);
}

TEST(CellStore, EncodesTheSameBytesWithAnyNumberOfThreads) {
  CellStore one(SomeConfig()), many(SomeConfig());
  const Floats rows = SomeRows(1000, 4);
  one.Write(Cells(0, 1000), rows.data(), static_cast<int64_t>(kRow), 1);
  many.Write(Cells(0, 1000), rows.data(), static_cast<int64_t>(kRow), 7);
  one.Settle(1);
  many.Settle(7);
  for (int64_t page = 0; page < 7; ++page) EXPECT_EQ(PageBytes(one, page), PageBytes(many, page));
}

TEST(CellStore, TakesRowsWithAStride) {
  CellStore store(SomeConfig());
  const Floats rows = SomeRows(8, 2);
  store.Write(std::vector<int64_t>{7, 3}, rows.data(), 4 * static_cast<int64_t>(kRow), 1);
  Floats row(kRow);
  store.ReadRow(3, row.data());
  EXPECT_EQ(row[5], HalfToFloat(FloatToHalf(rows[4 * kRow + 5])));
}

TEST(CellStore, MakesUglyValuesHarmlessOnEntry) {
  CellStore store(SomeConfig());
  Floats ugly(kRow, 0.0f), row(kRow);
  ugly[0] = NAN;
  ugly[1] = INFINITY;
  ugly[2] = -1e30f;
  ugly[3] = 65519.0f;
  store.Write(std::vector<int64_t>{0}, ugly.data(), 0, 1);
  store.ReadRow(0, row.data());
  EXPECT_EQ(row[0], 0.0f);
  EXPECT_EQ(row[1], 65504.0f);
  EXPECT_EQ(row[2], -65504.0f);
  EXPECT_EQ(row[3], 65504.0f);
}

TEST(CellStore, TransformsExactRowsExactlyAndGivesChangedPagesFreshStatistics) {
  CellStore store(SomeConfig());
  Write(store, 0, 200);
  store.Settle(1);
  const auto before = PageBytes(store, 0);
  Floats was(kRow), now(kRow);
  store.ReadRow(150, was.data());
  store.Transform(
      Cells(0, 1000),  // most of them never written: there is nothing to change in those
      [](int64_t, float* row) {
        for (size_t i = 0; i < kRow; ++i) row[i] += 2.0f;
      },
      2);
  store.ReadRow(150, now.data());
  for (size_t i = 0; i < kRow; ++i) EXPECT_EQ(now[i], HalfToFloat(FloatToHalf(was[i] + 2.0f)));
  const auto after = PageBytes(store, 0);
  EXPECT_NE(before, after);
  Floats mean(kHeadDim);
  ASSERT_TRUE(store.format().Mean(store.View(0, 0).page, mean.data()));
  for (const float value : mean) EXPECT_NEAR(value, 2.5f, 0.5f);
  EXPECT_EQ(store.memory().filled_cells, 200);
}

TEST(CellStore, PassesOnWhatAChangeThrows) {
  CellStore store(SomeConfig());
  Write(store, 0, 200);
  const auto fail = [](int64_t, float*) { throw Error(ErrorCode::kHost, "no"); };
  Refusal(ErrorCode::kHost, [&] { store.Transform(Cells(0, 200), fail, 2); });
}

TEST(CellStore, RefusesCellsItDoesNotHaveAndSaysWhich) {
  CellStore store(SomeConfig());
  const Floats rows = SomeRows(2, 1);
  Floats row(kRow);
  const auto write = [&](std::vector<int64_t> cells) {
    store.Write(cells, rows.data(), static_cast<int64_t>(kRow), 1);
  };
  const ErrorCode code = ErrorCode::kParameter;
  EXPECT_NE(Refusal(code, [&] { write({0, 1000}); }).find("1000"), std::string::npos);
  EXPECT_NE(Refusal(code, [&] { write({-1}); }).find("between 0 and 999"), std::string::npos);
  EXPECT_NE(Refusal(code, [&] { write({5, 5}); }).find("twice"), std::string::npos);
  EXPECT_EQ(store.memory().filled_cells, 0);  // a refused write writes nothing
  Refusal(code, [&] { store.ReadRow(1000, row.data()); });
  Refusal(code, [&] { store.PinSinks(Cells(999, 2)); });
  Refusal(code, [&] { store.ClearCells(990, 11); });
  Refusal(code, [&] { store.ClearCells(-1, 1); });
  Refusal(code, [&] { store.DecodeCells(8, 0, row.data()); });
  Refusal(code, [&] { store.DecodeCells(0, 2, row.data()); });
}

TEST(CellStore, RefusesShapesOutsideItsLimits) {
  const auto refused = [](ErrorCode code, auto change, const char* words) {
    CellStore::Config config = SomeConfig();
    change(config);
    const std::string message = Refusal(code, [&] { CellStore store(config); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  const ErrorCode parameter = ErrorCode::kParameter;
  refused(
      ErrorCode::kUnsupported, [](auto& c) { c.head_dim = 60; }, "60");
  refused(
      ErrorCode::kUnsupported, [](auto& c) { c.page_tokens = 100; }, "100");
  refused(
      parameter, [](auto& c) { c.num_kv_heads = 0; }, "num_kv_heads is 0");
  refused(
      parameter, [](auto& c) { c.num_cells = 0; }, "num_cells is 0");
  refused(
      parameter, [](auto& c) { c.window_tokens = -1; }, "window_tokens is -1");
  refused(
      parameter, [](auto& c) { c.sink_tokens = 2000; }, "sink_tokens is 2000");
  refused(
      parameter, [](auto& c) { c.max_partial_pages = -1; }, "max_partial_pages is -1");
  std::vector<std::byte> crooked(1 << 20);
  Refusal(parameter, [&] { CellStore store(SomeConfig(), crooked.data() + 1); });
}

TEST(CellStore, RefusesToCopyFromAStoreOfAnotherKind) {
  CellStore store(SomeConfig()), other(SomeConfig("turbo4"));
  const auto message = Refusal(ErrorCode::kParameter, [&] { store.CopyFrom(other, 0, 1); });
  EXPECT_NE(message.find("turbo4:center"), std::string::npos) << message;
}

// A settle that has nothing to do is one comparison: decoding calls it for every layer and token.
TEST(CellStore, SettlesInConstantTimeWhileNothingLeavesTheWindow) {
  CellStore::Config config = SomeConfig("turbo4", 65536);
  config.num_cells = 65536;
  CellStore store(config);
  for (int64_t first = 0; first < 65536; first += 512) Write(store, first, 512);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100000; ++i) store.Settle(2);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 0.5);  // 5 us each; a scan of its 512 pages would take more
}

}  // namespace
}  // namespace polarquant
