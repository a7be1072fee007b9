// SPDX-License-Identifier: Apache-2.0
// Rows that stand alone, one promise at a time, and what the store refuses.
#include "polarquant/cell_store.h"

#include "cache/cell_store_testing.h"

namespace polarquant {
namespace {

// Rows as they are kept exact, but for the first values, which spell their position.
void ExpectExact(const Floats& got, const float* written) {
  for (size_t i = 0; i < got.size(); ++i) {
    const float half = HalfToFloat(FloatToHalf(written[i]));
    if (i < 32) {
      EXPECT_NEAR(got[i], half, std::abs(half) / 1024.0f) << i;
    } else {
      EXPECT_EQ(got[i], half) << i;
    }
  }
}

TEST(CellStore, CodesARowWhenItIsWrittenAndKeepsItExactUntilItIsRetired) {
  CellStore store(SomeConfig());
  Write(store, 100, 1);
  ASSERT_TRUE(HasCodes(store, 0));
  EXPECT_TRUE(ExactBits(store, 0).Test(100));
  ExpectExact(Read(store, 100), SomeRows(store, 1, 1).data());
  const Bytes code = Code(store, 100);
  EXPECT_NE(code, Bytes(code.size()));
  store.Retire(Cells(100, 1), 1);
  EXPECT_EQ(ExactIn(store, 0), 0);
  EXPECT_EQ(Code(store, 100), code);
}

TEST(CellStore, SettlesWhatIsAWindowBehindTheNewestRowByPosition) {
  CellStore store(SomeConfig());
  const std::vector<int64_t> cells = {900, 3, 500, 130, 7};
  const std::vector<int32_t> positions = {100, 85, 84, 116, 115};
  store.Write(cells, SomeRows(store, 5, 1).data(), store.exact_row_stride(), 1, positions.data());
  store.Settle(1);
  EXPECT_TRUE(ExactBits(store, 0).Test(7));
  EXPECT_TRUE(ExactBits(store, 1).Test(2));
  EXPECT_FALSE(ExactBits(store, 7).Test(900 - 896));  // 16 behind
  EXPECT_FALSE(ExactBits(store, 0).Test(3));
  EXPECT_EQ(store.memory().exact_cells, 2);
}

TEST(CellStore, SettlesEverythingButSinksWithoutAWindow) {
  CellStore store(SomeConfig("turbo4", 0));
  Write(store, 200, 5, 1, 0);
  store.Settle(1);
  EXPECT_EQ(store.memory().exact_cells, 4);
}

TEST(CellStore, NumbersRowsAsTheyAreWrittenWhereNobodySaysPositions) {
  CellStore store(SomeConfig());
  const Floats rows = SomeRows(store, 30, 1);
  for (int64_t cell = 29; cell >= 0; --cell) {
    store.Write(std::vector<int64_t>{cell}, rows.data(), 0, 1);
  }
  store.Settle(1);
  const PageBits exact = ExactBits(store, 0);
  EXPECT_EQ(exact, PageBits::Range(0, 16).Or(PageBits::Range(26, 30)));
}

TEST(CellStore, HoldsSinksExactByPositionWhateverTheOrderOfWriting) {
  CellStore store(SomeConfig());
  Write(store, 500, 200, 1, 50);
  Write(store, 40, 50, 2, 0);  // the beginning comes last
  store.Settle(1);
  EXPECT_EQ(ExactBits(store, 0), PageBits::Range(40, 44));
  store.Retire(Cells(40, 4), 1);
  EXPECT_EQ(ExactIn(store, 0), 4);
  Write(store, 41, 1, 3, 300);  // no sink any more
  store.Retire(Cells(41, 1), 1);
  EXPECT_EQ(ExactIn(store, 0), 3);
}

TEST(CellStore, FollowsASinkThatIsShiftedOutAndARowThatIsShiftedIn) {
  CellStore store(SomeConfig());
  Write(store, 0, 30);
  const std::vector<int64_t> cells = {2, 20};
  const std::vector<int32_t> shifts = {50, -20};
  store.Transform(
      cells, [](int64_t, float*) {}, 1, shifts.data());
  store.Retire(Cells(0, 30), 1);
  const std::vector<int64_t> exact = {0, 1, 3, 20};
  for (int64_t cell = 0; cell < 30; ++cell) {
    EXPECT_EQ(ExactBits(store, 0).Test(static_cast<int>(cell)),
              std::ranges::count(exact, cell) == 1)
        << cell;
  }
}

TEST(CellStore, FindsWhatLeavesTheWindowOfTheSequencesAMaskShows) {
  CellStore store(SomeConfig());
  // Three sequences, cell by cell; the mask shows two.
  for (int64_t cell = 0; cell < 120; ++cell) Write(store, cell, 1, 1, 10 + cell / 3);
  constexpr int64_t kStride = 130;
  std::vector<uint16_t> mask(2 * kStride, 0xfc00);
  for (int64_t cell = 0; cell < 120; cell += 3) {
    mask[static_cast<size_t>(cell)] = 0;
    if (cell < 90) mask[static_cast<size_t>(kStride + cell + 1)] = 0xb800;  // a bias
  }
  std::vector<int64_t> leaving = store.LeavingWindow(mask.data(), kStride, 2, 120);
  std::ranges::sort(leaving);
  std::vector<int64_t> expected;
  for (int64_t cell = 0; cell < 120; ++cell) {
    const int64_t position = cell / 3;
    if (cell % 3 == 0 && 39 - position >= 16) expected.push_back(cell);
    if (cell % 3 == 1 && 29 - position >= 16) expected.push_back(cell);
  }
  EXPECT_EQ(leaving, expected);
  store.Retire(leaving, 1);
  EXPECT_EQ(store.memory().exact_cells, 120 - static_cast<int64_t>(expected.size()));
  EXPECT_TRUE(store.LeavingWindow(mask.data(), kStride, 2, 120).empty());
  EXPECT_TRUE(store.LeavingWindow(mask.data(), kStride, 0, 120).empty());
}

TEST(CellStore, KeepsExactRowsOfSoManyWindowsAndDropsTheOldest) {
  CellStore::Config config = SomeConfig();
  config.max_windows = 2;  // 2 * (16 + 4) rows
  CellStore store(config);
  for (int64_t page = 0; page < 5; ++page) Write(store, page * 128, 15, 1, 100);
  EXPECT_EQ(store.memory().exact_cells, 75);
  store.Retire({}, 1);
  EXPECT_EQ(store.memory().exact_cells, 30);
  EXPECT_EQ(ExactIn(store, 2), 0);
  EXPECT_EQ(ExactIn(store, 3), 15);
}

TEST(CellStore, GivesARowTheSameCodeWhereverAndWheneverItIsWritten) {
  for (const char* scheme : {"turbo4", "turbo3", "turbo2:balanced", "q8_0:balance", "bf16"}) {
    CellStore a(SomeConfig(scheme)), b(SomeConfig(scheme));
    const Floats rows = SomeRows(a, 200, 1);
    a.Write(Cells(0, 200), rows.data(), a.exact_row_stride(), 2, Positions(70, 200).data());
    std::vector<int64_t> cells = Cells(300, 200);
    std::vector<int32_t> positions = Positions(70, 200);
    std::ranges::reverse(cells);
    std::ranges::reverse(positions);
    for (size_t i = 0; i < cells.size(); ++i) {  // backwards, over others, one by one
      Write(b, cells[i], 1, 9, 5);
      const auto row = static_cast<int64_t>(cells.size() - 1 - i) * b.exact_row_stride();
      b.Write(std::span(cells).subspan(i, 1), rows.data() + row, 0, 1, &positions[i]);
      b.Settle(1);
    }
    for (int64_t row = 0; row < 200; ++row) {
      ASSERT_EQ(Code(a, row), Code(b, 300 + row)) << scheme << " row " << row;
    }
  }
}

TEST(CellStore, SpellsThePositionOfRowsAsNarrowAsSixteenValues) {
  CellStore store(SomeConfig("turbo4", 3, 16, 1));
  for (const int32_t position : {1000, 16777215, 16777214, 16777210, 16777213}) {
    Write(store, position % 1000, 1, 1, position);
  }
  store.Settle(1);
  EXPECT_FALSE(ExactBits(store, 0).Test(0));
  EXPECT_FALSE(ExactBits(store, 1).Test(210 - 128));
  for (const int slot : {213, 214, 215}) EXPECT_TRUE(ExactBits(store, 1).Test(slot - 128)) << slot;
}

TEST(CellStore, KeepsRowsExactUntilItsProfileComesAndCodesThemThen) {
  const CellStore::Config known = SomeConfig("turbo4:balanced");
  CellStore::Config config = known;
  config.profile = nullptr;
  CellStore late(config), early(known);
  EXPECT_TRUE(late.needs_profile());
  EXPECT_FALSE(early.needs_profile());
  for (CellStore* store : {&late, &early}) {
    Write(*store, 100, 300, 1, 0);
    store->Settle(2);
  }
  EXPECT_EQ(late.memory().exact_cells, 300);
  EXPECT_FALSE(HasCodes(late, 1));
  late.SetProfile(known.profile, 2);
  EXPECT_EQ(late.memory().exact_cells, 16 + 4);
  for (int64_t cell = 100; cell < 400; ++cell) {
    ASSERT_EQ(Read(late, cell), Read(early, cell)) << cell;
    ASSERT_EQ(Code(late, cell), Code(early, cell)) << cell;
  }
  Write(late, 100, 1, 1, 900);  // retired before: it is not now
  EXPECT_TRUE(ExactBits(late, 0).Test(100));
  Refusal(ErrorCode::kParameter, [&] { late.SetProfile(known.profile, 1); });
}

TEST(CellStore, RefusesAProfileThatDoesNotFitAndGoesOnWithout) {
  CellStore::Config config = SomeConfig("turbo4:balanced");
  config.profile = nullptr;
  CellStore store(config);
  Write(store, 0, 10);
  Refusal(ErrorCode::kParameter,
          [&] { store.SetProfile(RandomProfile(3, 64, Rope::Pairing::kHalves, 1), 1); });
  Refusal(ErrorCode::kParameter, [&] { store.SetProfile(nullptr, 1); });
  Refusal(ErrorCode::kParameter, [&] { CellStore(SomeConfig()).SetProfile(nullptr, 1); });
  auto silent = std::make_shared<KeyProfile>(*RandomProfile(2, 64, Rope::Pairing::kHalves, 1));
  silent->rope.frequencies.clear();
  const auto message = Refusal(ErrorCode::kParameter, [&] { store.SetProfile(silent, 1); });
  EXPECT_NE(message.find("turbo4:balance"), std::string::npos) << message;
  EXPECT_TRUE(store.needs_profile());
  EXPECT_EQ(store.memory().exact_cells, 10);
}

TEST(CellStore, NeedsPositionsForASteppedCentreOnly) {
  CellStore store(SomeConfig("turbo4:balanced"));
  const Floats rows = SomeRows(store, 1, 1);
  const auto message =
      Refusal(ErrorCode::kParameter, [&] { store.Write(Cells(0, 1), rows.data(), 0, 1); });
  EXPECT_NE(message.find("position"), std::string::npos) << message;
  Refusal(ErrorCode::kParameter, [&] {
    store.Transform(
        Cells(0, 1), [](int64_t, float*) {}, 1);
  });
  CellStore(SomeConfig("turbo4:balance")).Write(Cells(0, 1), rows.data(), 0, 1);
}

// The rows of a page may have positions smaller than their slots.
TEST(CellStore, TakesASequenceThatBeginsInTheMiddleOfAPage) {
  for (const char* scheme : {"turbo4:balanced", "mixed3:balanced"}) {
    CellStore::Config config = SomeConfig(scheme, 0);
    config.max_partial_pages = 0;
    config.sink_tokens = 0;
    CellStore store(config);
    Write(store, 100, 28, 1, 0);
    const Floats exact = Read(store, 110);
    store.Settle(2);
    EXPECT_EQ(ExactIn(store, 0), 0) << scheme;
    const Floats coded = Read(store, 110);
    double error = 0, all = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      error += std::pow(static_cast<double>(exact[i] - coded[i]), 2);
      all += std::pow(static_cast<double>(exact[i]), 2);
    }
    EXPECT_LT(error, 0.5 * all) << scheme;
    const std::vector<int32_t> shifts(28, 3);
    store.Transform(
        Cells(100, 28), [](int64_t, float*) {}, 1, shifts.data());
  }
}

TEST(CellStore, NeverCodesF16) {
  CellStore store(SomeConfig("f16", 0));
  EXPECT_TRUE(store.exact_only());
  EXPECT_FALSE(CellStore(SomeConfig("bf16", 0)).exact_only());
  Write(store, 0, 1000);
  const std::vector<uint16_t> mask(1000, 0);
  EXPECT_TRUE(store.LeavingWindow(mask.data(), 1000, 1, 1000).empty());
  store.Retire(Cells(0, 1000), 1);
  store.Settle(1);
  const MemoryUse use = store.memory();
  EXPECT_EQ(use.exact_cells, 1000);
  EXPECT_EQ(use.code_bytes + use.header_bytes, 0u);
  const Floats rows = SomeRows(store, 1000, 1);
  for (size_t i = 0; i < 128; ++i) {  // and spells nothing into it
    EXPECT_EQ(Read(store, 0)[i], HalfToFloat(FloatToHalf(rows[i])));
  }
}

// In tiles, rows of a page share bytes, so threads must not meet in one.
TEST(CellStore, EncodesTheSameBytesWithAnyNumberOfThreads) {
  for (const char* scheme : {"turbo4", "turbo3", "kivi4", "mixed3:balanced"}) {
    CellStore::Config config = SomeConfig(scheme, 0);
    config.sink_tokens = 0;
    CellStore one(config), many(config);
    const Floats rows = SomeRows(one, 1000, 4);
    std::vector<int64_t> cells = Cells(0, 1000);
    std::mt19937 random(1);
    for (int round = 0; round < 5; ++round) {
      std::shuffle(cells.begin(), cells.end(), random);
      one.Write(cells, rows.data(), one.exact_row_stride(), 1, Positions(0, 1000).data());
      many.Write(cells, rows.data(), one.exact_row_stride(), 4, Positions(0, 1000).data());
      one.Settle(1);
      many.Settle(4);
      for (int64_t page = 0; page < 7; ++page) {
        ASSERT_EQ(PageBytes(one, page), PageBytes(many, page)) << scheme << " page " << page;
      }
    }
  }
}

TEST(CellStore, TakesRowsWithAStride) {
  CellStore store(SomeConfig());
  const Floats rows = SomeRows(store, 8, 2);
  store.Write(std::vector<int64_t>{7, 3}, rows.data(), 4 * store.exact_row_stride(), 1);
  ExpectExact(Read(store, 3), rows.data() + 4 * store.exact_row_stride());
}

TEST(CellStore, MakesUglyValuesHarmlessOnEntry) {
  CellStore store(SomeConfig());
  Floats ugly(128, 0.0f);
  ugly[0] = INFINITY;  // among the values that spell the position
  ugly[64] = NAN;
  ugly[65] = INFINITY;
  ugly[66] = -1e30f;
  ugly[67] = 65519.0f;
  store.Write(std::vector<int64_t>{0}, ugly.data(), 0, 1);
  const Floats row = Read(store, 0);
  EXPECT_NEAR(row[0], 65504.0f, 32.0f);
  EXPECT_EQ(row[64], 0.0f);
  EXPECT_EQ(row[65], 65504.0f);
  EXPECT_EQ(row[66], -65504.0f);
  EXPECT_EQ(row[67], 65504.0f);
}

TEST(CellStore, TransformsExactRowsExactlyWithTheirCodesAndCodedRowsOnce) {
  CellStore store(SomeConfig("turbo4:balanced")), fresh(SomeConfig("turbo4:balanced"));
  Write(store, 0, 200);
  store.Settle(1);
  const auto change = [](int64_t, float* row) {
    for (size_t i = 0; i < 128; ++i) row[i] += 2.0f;
  };
  Floats was = Read(store, 190), coded = Read(store, 90);
  // Most of the cells were never written: there is nothing to change in those.
  store.Transform(Cells(0, 1000), change, 2, std::vector<int32_t>(1000, 7).data());
  change(0, was.data());
  change(0, coded.data());
  ExpectExact(Read(store, 190), was.data());
  const std::vector<int64_t> cells = {190, 90};
  const std::vector<int32_t> positions = {197, 97};
  Floats rows = Read(store, 190);
  rows.insert(rows.end(), coded.begin(), coded.end());
  fresh.Write(cells, rows.data(), fresh.exact_row_stride(), 1, positions.data());
  EXPECT_EQ(Code(store, 190), Code(fresh, 190));
  EXPECT_EQ(store.memory().filled_cells, 200);
  EXPECT_EQ(store.memory().exact_cells, 20);
}

TEST(CellStore, RefusesAShiftOutOfThePositionsBeforeItChangesAnything) {
  CellStore store(SomeConfig("turbo4:balanced"));
  Write(store, 0, 200);
  store.Settle(1);
  const Floats exact = Read(store, 199), coded = Read(store, 50);
  for (const int64_t far : {0, 199}) {
    std::vector<int32_t> shifts(200, 1);
    shifts[static_cast<size_t>(far)] = far == 0 ? -1 : 1 << 24;
    Refusal(ErrorCode::kParameter, [&] {
      store.Transform(
          Cells(0, 200), [](int64_t, float* row) { row[0] = 1; }, 2, shifts.data());
    });
  }
  EXPECT_EQ(Read(store, 199), exact);
  EXPECT_EQ(Read(store, 50), coded);
}

TEST(CellStore, PassesOnWhatAChangeThrows) {
  CellStore store(SomeConfig());
  Write(store, 0, 200);
  const auto fail = [](int64_t, float*) { throw Error(ErrorCode::kHost, "no"); };
  Refusal(ErrorCode::kHost, [&] { store.Transform(Cells(0, 200), fail, 2); });
}

TEST(CellStore, RefusesCellsAndPositionsItDoesNotHaveAndSaysWhich) {
  CellStore store(SomeConfig());
  const Floats rows = SomeRows(store, 2, 1);
  Floats row(128);
  Bytes saved(store.saved_row_bytes());
  const auto write = [&](std::vector<int64_t> cells, std::vector<int32_t> positions) {
    store.Write(cells, rows.data(), store.exact_row_stride(), 1, positions.data());
  };
  const ErrorCode code = ErrorCode::kParameter;
  EXPECT_NE(Refusal(code, [&] { write({0, 1000}, {0, 1}); }).find("1000"), std::string::npos);
  EXPECT_NE(Refusal(code, [&] { write({-1}, {0}); }).find("between 0 and 999"), std::string::npos);
  EXPECT_NE(Refusal(code, [&] { write({5, 5}, {0, 1}); }).find("twice"), std::string::npos);
  EXPECT_NE(Refusal(code, [&] { write({5, 6}, {0, -1}); }).find("position"), std::string::npos);
  EXPECT_NE(Refusal(code,
                    [&] {
                      write({5, 6}, {0, 1 << 24});
                    })
                .find("16777216"),
            std::string::npos);
  EXPECT_EQ(store.memory().filled_cells, 0);  // a refused write writes nothing
  EXPECT_EQ(store.memory().exact_bytes + store.memory().code_bytes, 0u);
  Refusal(code, [&] { store.ReadRow(1000, row.data()); });
  Refusal(code, [&] { store.Retire(Cells(999, 2), 1); });
  Refusal(code, [&] { store.ClearCells(990, 11); });
  Refusal(code, [&] { store.ClearCells(-1, 1); });
  Refusal(code, [&] { store.SaveRows(1000, 1, saved.data(), 1); });
  Refusal(code, [&] { store.LoadRows(-1, 1, saved.data(), 1); });
}

TEST(CellStore, RefusesShapesOutsideItsLimits) {
  const auto refused = [](ErrorCode code, auto change, const char* words) {
    CellStore::Config config = SomeConfig();
    change(config);
    const std::string message = Refusal(code, [&] { CellStore store(config); });
    EXPECT_NE(message.find(words), std::string::npos) << message;
  };
  const ErrorCode parameter = ErrorCode::kParameter, unsupported = ErrorCode::kUnsupported;
  refused(
      unsupported, [](auto& c) { c.head_dim = 60; }, "60");
  refused(
      unsupported, [](auto& c) { c.page_tokens = 100; }, "100");
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
  refused(
      parameter, [](auto& c) { c.max_windows = 0; }, "max_windows is 0");
  std::vector<std::byte> crooked(1 << 20);
  Refusal(parameter, [&] { CellStore store(SomeConfig(), crooked.data() + 1); });
}

TEST(CellStore, CopiesRowsBitExactlyAtAnyCell) {
  CellStore from(SomeConfig("turbo4:balanced")), to(SomeConfig("turbo4:balanced"));
  Write(from, 0, 300);
  from.Settle(1);
  Write(to, 0, 500, 2);
  to.CopyFrom(from, 100, 300);
  for (int64_t cell = 100; cell < 300; ++cell) {
    ASSERT_EQ(Saved(to, cell), Saved(from, cell)) << cell;
    ASSERT_EQ(Code(to, cell), Code(from, cell)) << cell;
  }
  EXPECT_EQ(Read(to, 350), Floats(128));  // there was nothing
  EXPECT_EQ(to.memory().filled_cells, 100 + 200 + 100);
}

TEST(CellStore, RefusesToCopyFromAStoreOfAnotherKindOrProfile) {
  CellStore store(SomeConfig("turbo4:balanced")), other(SomeConfig("turbo4"));
  const auto message = Refusal(ErrorCode::kParameter, [&] { store.CopyFrom(other, 0, 1); });
  EXPECT_NE(message.find("turbo4:balanced"), std::string::npos) << message;
  CellStore::Config config = SomeConfig("turbo4:balanced");
  config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, 2);
  CellStore foreign(config);
  Refusal(ErrorCode::kParameter, [&] { store.CopyFrom(foreign, 0, 1); });
}

}  // namespace
}  // namespace polarquant
