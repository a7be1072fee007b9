// SPDX-License-Identifier: Apache-2.0
// Saved rows: exact rows as they are, codes bit for bit at any cell, damage refused.
#include "cache/cell_store_testing.h"
#include "polarquant/codec.h"

namespace polarquant {
namespace {

// 300 rows of positions from 50 on, most of them coded only.
void Fill(CellStore& store, unsigned seed) {
  std::mt19937 random(seed);
  const Floats rows = RandomRows(random, 300, static_cast<size_t>(store.exact_row_stride()));
  store.Write(Cells(0, 300), rows.data(), store.exact_row_stride(), 2, Positions(50, 300).data());
  store.Settle(2);
}

void Load(CellStore& store, int64_t first, const Bytes& saved) {
  store.LoadRows(first, static_cast<int64_t>(saved.size() / store.saved_row_bytes()), saved.data(),
                 2);
}

TEST(SavedRows, TakeTheBytesOf16BitRowsAndComeBackTheSameAtAnyCell) {
  for (const CodecInfo& codec : Codecs()) {
    if (!codec.keys) continue;
    for (const int head_dim : {64, 80, 128}) {
      // ggml's blocks of 32 do not divide 80; the page format says so, and tests it.
      if (head_dim == 80 && (codec.name == "q8_0" || codec.name == "q4_0")) continue;
      std::unique_ptr<CellStore> store;
      try {
        store = std::make_unique<CellStore>(SomeConfig(std::string(codec.name), 20, head_dim, 3));
      } catch (const Error&) {
        continue;  // a head_dim that the codec does not take
      }
      EXPECT_EQ(store->saved_row_bytes(), static_cast<size_t>(head_dim) * 3 * 2);
      if (!store->can_save()) continue;
      Fill(*store, 1);
      CellStore restored(store->config());
      Load(restored, 77, Saved(*store, 0, 300));
      EXPECT_EQ(Saved(restored, 77, 300), Saved(*store, 0, 300)) << codec.name;
      EXPECT_EQ(restored.memory().exact_cells, store->memory().exact_cells) << codec.name;
      for (int64_t cell = 0; cell < 300; ++cell) {
        ASSERT_EQ(Read(*store, cell), Read(restored, 77 + cell)) << codec.name << " cell " << cell;
      }
    }
  }
}

TEST(SavedRows, FitForTheSchemesPeopleUseAndAreRefusedByNameForTheOthers) {
  for (const char* scheme : {"turbo4", "turbo3", "turbo2:balanced", "turbo4:balanced", "turbo8",
                             "q8_0", "q4_0", "f16"}) {
    EXPECT_TRUE(CellStore(SomeConfig(scheme)).can_save()) << scheme;
  }
  for (const char* scheme : {"turbo4:center", "f32", "bf16", "zscore3", "kivi2", "dual3"}) {
    CellStore store(SomeConfig(scheme));
    EXPECT_FALSE(store.can_save()) << scheme;
    const auto message = Refusal(ErrorCode::kUnsupported, [&] { Saved(store, 0); });
    EXPECT_NE(message.find(scheme), std::string::npos) << message;
  }
}

TEST(SavedRows, KeepTheirPositions) {
  CellStore store(SomeConfig("turbo4:balanced", 20)), restored(store.config());
  Fill(store, 1);
  Load(restored, 500, Saved(store, 0, 300));
  // The centre of coded rows, and the window of exact ones, go by the positions they had.
  for (CellStore* each : {&store, &restored}) {
    const int64_t first = each == &store ? 0 : 500;
    each->Transform(
        Cells(first, 300), [](int64_t, float*) {}, 1, std::vector<int32_t>(300, -40).data());
    Write(*each, 900, 10, 3, 310);
    each->Settle(1);
  }
  for (int64_t cell = 0; cell < 300; ++cell) {
    ASSERT_EQ(Saved(store, cell), Saved(restored, 500 + cell)) << cell;
  }
}

TEST(SavedRows, AreSinksAgainWhereTheirPositionsSaySo) {
  CellStore store(SomeConfig("turbo4", 0)), restored(store.config());
  Write(store, 600, 10, 1, 0);
  store.Settle(1);
  Load(restored, 7, Saved(store, 600, 10));
  restored.Retire(Cells(7, 10), 1);
  EXPECT_EQ(ExactBits(restored, 0), PageBits::Range(7, 11));
}

TEST(SavedRows, MayBeOfSeveralStoresAndCells) {
  CellStore a(SomeConfig("turbo3", 20)), b(SomeConfig("turbo3", 20)), restored(a.config());
  Fill(a, 1);
  Fill(b, 2);
  for (int64_t i = 0; i < 300; ++i) Load(restored, 100 + i, Saved(i % 3 == 0 ? a : b, i));
  for (int64_t i = 0; i < 300; ++i) {
    ASSERT_EQ(Saved(restored, 100 + i), Saved(i % 3 == 0 ? a : b, i)) << i;
  }
}

TEST(SavedRows, OfCellsNeverWrittenAreZerosAndForgetWhatWasThere) {
  CellStore store(SomeConfig("turbo4"));
  EXPECT_EQ(Saved(store, 3), Bytes(store.saved_row_bytes()));
  Fill(store, 1);
  Load(store, 2, Bytes(100 * store.saved_row_bytes()));
  EXPECT_EQ(store.memory().filled_cells, 200);
  EXPECT_EQ(Read(store, 50), Floats(128));
}

TEST(SavedRows, OfAHostThatSpellsNoPositionsAreTakenAsTheyAre) {
  CellStore plain(SomeConfig("f16")), store(SomeConfig("turbo4"));
  Fill(plain, 1);
  Load(store, 0, Saved(plain, 200, 50));
  EXPECT_EQ(Saved(store, 0, 50), Saved(plain, 200, 50));
  store.Transform(
      Cells(0, 50), [](int64_t, float*) {}, 1, std::vector<int32_t>(50, -20).data());
  store.Settle(1);
  EXPECT_EQ(store.memory().filled_cells, 50);
}

TEST(SavedRows, AreRefusedWhenDamagedOrOfAnotherSchemeBeforeAnythingChanges) {
  CellStore store(SomeConfig("turbo4", 20));
  Fill(store, 1);
  const Bytes good = Saved(store, 0, 300);
  const size_t row = store.saved_row_bytes();
  const auto refused = [&](CellStore& target, const Bytes& saved, const char* cell) {
    const auto all = [&] { return target.can_save() ? Saved(target, 0, 400) : Bytes(); };
    const Bytes before = all();
    const auto message = Refusal(ErrorCode::kCorruption, [&] { Load(target, 7, saved); });
    EXPECT_NE(message.find(cell), std::string::npos) << message;
    EXPECT_EQ(all(), before);
  };
  for (const char* scheme : {"turbo4:scale=norm", "f16", "f32", "turbo4:center"}) {
    CellStore other(SomeConfig(scheme));
    refused(other, good, "cell 7");
  }
  CellStore target(store.config());
  Write(target, 0, 100, 9);
  const auto damage = [&](size_t row_number, size_t byte, int value) {
    Bytes damaged = good;
    damaged[row_number * row + byte] ^= static_cast<std::byte>(value);
    refused(target, damaged, ("cell " + std::to_string(7 + row_number)).c_str());
  };
  damage(100, 2, 1);        // the tag
  damage(100, 7, 1);        // a position of 2^24 or more
  damage(100, row - 1, 1);  // after the records
  damage(100, 1, 0x02);     // another NaN in place of the mark
  damage(299, 101, 0x7c ^ static_cast<int>(good[299 * row + 101]));  // an exact infinity
}

TEST(SavedRows, OfAnotherProfileAreRefused) {
  CellStore::Config config = SomeConfig("turbo4:balanced", 20);
  CellStore store(config);
  config.profile = RandomProfile(2, 64, Rope::Pairing::kHalves, 2);
  CellStore other(config);
  config.profile = nullptr;
  CellStore none(config);
  Fill(store, 1);
  const Bytes coded = Saved(store, 0);
  Refusal(ErrorCode::kCorruption, [&] { Load(other, 0, coded); });
  Refusal(ErrorCode::kCorruption, [&] { Load(none, 0, coded); });
  Load(none, 0, Saved(store, 299));  // exact rows are anybody's
  EXPECT_EQ(none.memory().exact_cells, 1);
}

}  // namespace
}  // namespace polarquant
