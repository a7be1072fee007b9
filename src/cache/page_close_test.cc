// SPDX-License-Identifier: Apache-2.0
// Schemes with statistics of a page: when a page closes, and what its statistics are of.
#include "cache/cell_store_testing.h"

namespace polarquant {
namespace {

TEST(PageClose, WaitsUntilAllLooseRowsOfThePageHaveLeftTheWindow) {
  CellStore store(SomeConfig("turbo4:center"));
  Write(store, 0, 128 + 15);
  store.Settle(1);
  EXPECT_FALSE(HasCodes(store, 0));  // 15 newer rows: one row of page 0 is still in the window
  EXPECT_EQ(ExactIn(store, 0), 128);
  Write(store, 143, 1);
  store.Settle(1);
  EXPECT_TRUE(HasCodes(store, 0));
  EXPECT_EQ(ExactIn(store, 0), 4);
  EXPECT_EQ(ExactIn(store, 1), 16);
}

TEST(PageClose, ComesAtOnceWithoutAWindowThoughTheLastPageIsShorter) {
  CellStore store(SomeConfig("turbo4:center", 0));
  Write(store, 896, 103);
  store.Settle(1);
  EXPECT_FALSE(HasCodes(store, 7));
  Write(store, 999, 1);
  store.Settle(1);
  EXPECT_TRUE(HasCodes(store, 7));
}

TEST(PageClose, LeavesSinksOutOfTheStatistics) {
  CellStore with(SomeConfig("turbo4:center", 0)), without(SomeConfig("turbo4:center", 0));
  Floats rows = SomeRows(with, 128, 1);
  Write(without, 0, 128);
  std::fill_n(rows.begin(), 4 * 128, 500.0f);  // as the first tokens of models are
  with.Write(Cells(0, 128), rows.data(), 128, 1, Positions(0, 128).data());
  with.Settle(1);
  without.Settle(1);
  for (int64_t cell = 4; cell < 128; ++cell) {
    ASSERT_EQ(Read(with, cell), Read(without, cell)) << cell;
  }
}

TEST(PageClose, PatchesAFewRewrittenRowsWithTheStatisticsThePageHas) {
  CellStore store(SomeConfig("turbo4:center"));
  Write(store, 0, 256);
  store.Settle(1);
  const auto header = [&](int head) {
    const auto bytes = store.format().Header(store.View(0, head).page);
    return Bytes(bytes.begin(), bytes.end());
  };
  const Bytes before[] = {header(0), header(1)};
  const Bytes page = PageBytes(store, 0);
  const Floats kept = Read(store, 11);
  Write(store, 10, 1, 5, 256);
  EXPECT_EQ(ExactIn(store, 0), 5);
  Write(store, 256, 16, 6, 257);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 4);
  EXPECT_EQ(Read(store, 11), kept);
  EXPECT_NE(PageBytes(store, 0), page);
  EXPECT_EQ(header(0), before[0]);
  EXPECT_EQ(header(1), before[1]);
}

// The page closes short after 40 rows: of its groups of 32 tokens two have never seen a row.
TEST(PageClose, GivesGroupsStatisticsOfTheirOwnWhenTheyFillLater) {
  CellStore::Config config = SomeConfig("kivi4", 0);
  config.max_partial_pages = 0;
  config.sink_tokens = 0;
  CellStore store(config);
  Write(store, 0, 40);
  store.Settle(1);
  ASSERT_TRUE(HasCodes(store, 0));
  const Floats before = Read(store, 39);
  const Floats rows = SomeRows(store, 64, 9);
  Write(store, 64, 64, 9);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 0);
  EXPECT_EQ(Read(store, 39), before);
  double error = 0.0;
  for (size_t r = 0; r < 64; ++r) {
    const Floats row = Read(store, 64 + static_cast<int64_t>(r));
    for (size_t i = 0; i < 128; ++i) {
      error += std::pow(static_cast<double>(rows[r * 128 + i]) - static_cast<double>(row[i]), 2);
    }
  }
  EXPECT_LT(error / (64.0 * 128.0), 0.007);
}

TEST(PageClose, IsAfreshWhenAllRowsWereRewritten) {
  CellStore store(SomeConfig("turbo4:center")), fresh(SomeConfig("turbo4:center"));
  Write(store, 0, 256, 1);
  store.Settle(1);
  ASSERT_TRUE(HasCodes(store, 0));
  Write(store, 0, 128, 7, 300);
  Write(fresh, 0, 128, 7, 300);
  for (CellStore* each : {&store, &fresh}) {
    Write(*each, 500, 20, 8, 428);
    each->Settle(1);
  }
  EXPECT_EQ(PageBytes(store, 0), PageBytes(fresh, 0));
}

TEST(PageClose, GivesTheSamePagesAfterARewindInsideTheWindowAsWithout) {
  for (unsigned seed = 0; seed < 5; ++seed) {
    CellStore rewound(SomeConfig("turbo4:center")), straight(SomeConfig("turbo4:center"));
    std::mt19937 random(seed);
    const Floats rows = SomeRows(straight, 700, 3);
    const auto write = [&](CellStore& store, int64_t first, int64_t count, const float* from) {
      store.Write(Cells(first, count), from, 128, 1, Positions(first, count).data());
      store.Settle(1);
    };
    for (int64_t cell = 0; cell < 700; ++cell) write(straight, cell, 1, rows.data() + cell * 128);
    for (int64_t cell = 0; cell < 700;) {
      // A draft of up to 8 tokens, some of which are accepted; the rest is written again.
      const int64_t draft = std::min<int64_t>(1 + random() % 8, 700 - cell);
      const int64_t accepted = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(draft));
      Floats guess(rows.begin() + cell * 128, rows.begin() + (cell + draft) * 128);
      for (size_t i = static_cast<size_t>(accepted) * 128; i < guess.size(); ++i) guess[i] += 1;
      write(rewound, cell, draft, guess.data());
      cell += accepted;
    }
    for (int64_t page = 0; page < 5; ++page) {
      ASSERT_TRUE(HasCodes(straight, page));
      ASSERT_TRUE(HasCodes(rewound, page)) << page;
      EXPECT_EQ(PageBytes(rewound, page), PageBytes(straight, page)) << "page " << page;
    }
  }
}

TEST(PageClose, ComesShortForTheOldestPartialPages) {
  CellStore store(SomeConfig("turbo4:center"));  // at most two
  for (int64_t page = 0; page < 4; ++page) Write(store, page * 128, 40, 1, 100 + page * 40);
  store.Settle(1);
  EXPECT_TRUE(HasCodes(store, 0));  // pages 1 and 2 may wait, page 3 is in the window
  EXPECT_FALSE(HasCodes(store, 1));
  const Floats before = Read(store, 39);
  Write(store, 40, 1, 2, 260);  // goes on where it stopped
  EXPECT_EQ(ExactIn(store, 0), 1);
  Write(store, 640, 16, 2, 261);
  store.Settle(1);
  EXPECT_EQ(ExactIn(store, 0), 0);
  EXPECT_EQ(Read(store, 39), before);
}

TEST(PageClose, GivesPagesAllOfWhoseCodesChangeFreshStatistics) {
  CellStore store(SomeConfig("turbo4:center"));
  Write(store, 0, 200);
  store.Settle(1);
  store.Transform(
      Cells(0, 1000),
      [](int64_t, float* row) {
        for (size_t i = 0; i < 128; ++i) row[i] += 2.0f;
      },
      2);
  Floats mean(64);
  ASSERT_TRUE(store.format().Mean(store.View(0, 0).page, mean.data()));
  for (const float value : mean) EXPECT_NEAR(value, 2.5f, 0.5f);
}

TEST(PageClose, CopiesWholePagesAndRefusesPartsOfOneBeforeItChangesAnything) {
  CellStore from(SomeConfig("turbo4:center")), to(SomeConfig("turbo4:center"));
  Write(from, 0, 400);
  from.Settle(1);
  Write(to, 300, 100, 2);
  const auto message =
      Refusal(ErrorCode::kUnsupported, [&] { to.CopyFrom(from, 0, 200); });  // page 1 not whole
  EXPECT_NE(message.find("whole pages"), std::string::npos) << message;
  EXPECT_EQ(to.memory().filled_cells, 100);
  to.CopyFrom(from, 0, 256);
  for (int64_t cell = 0; cell < 256; ++cell) ASSERT_EQ(Read(to, cell), Read(from, cell)) << cell;
  to.CopyFrom(from, 390, 10);  // these are exact
  EXPECT_EQ(Read(to, 395), Read(from, 395));
}

TEST(PageClose, WaitsForAProfile) {
  const CellStore::Config known = SomeConfig("turbo4:balance:center", 0);
  CellStore::Config config = known;
  config.profile = nullptr;
  CellStore late(config), early(known);
  for (CellStore* store : {&late, &early}) {
    Write(*store, 0, 300);
    store->Settle(1);
  }
  EXPECT_EQ(late.memory().exact_cells, 300);
  late.SetProfile(known.profile, 1);
  late.Settle(1);
  for (const int64_t page : {0, 1}) EXPECT_EQ(PageBytes(late, page), PageBytes(early, page));
  EXPECT_EQ(late.memory().exact_cells, early.memory().exact_cells);
}

}  // namespace
}  // namespace polarquant
