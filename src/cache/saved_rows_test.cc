// SPDX-License-Identifier: Apache-2.0
// Saved rows: exact rows as they are, codes bit for bit, damage refused.
#include <gtest/gtest.h>

#include <numeric>

#include "cache/cell_store_model.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

CellStore::Config Shape(const std::string& scheme, int head_dim = 64, int heads = 3) {
  CellStore::Config config;
  config.scheme = Scheme::Parse(scheme);
  config.head_dim = head_dim;
  config.num_kv_heads = heads;
  config.num_cells = 512;
  config.window_tokens = 20;
  return config;
}

// 300 rows: pages 0 and 1 closed, the rest exact.
void Fill(CellStore& store, unsigned seed) {
  std::mt19937 random(seed);
  const size_t values = static_cast<size_t>(store.exact_row_stride());
  const Floats rows = RandomRows(random, 300, values);
  std::vector<int64_t> cells(300);
  std::iota(cells.begin(), cells.end(), 0);
  store.Write(cells, rows.data(), store.exact_row_stride(), 2);
  store.Settle(2);
}

Bytes Saved(const CellStore& store, int64_t cell) {
  Bytes saved(store.saved_row_bytes(), std::byte{0xa5});
  store.SaveRow(cell, saved.data());
  return saved;
}

Floats Read(const CellStore& store, int64_t cell) {
  Floats row(static_cast<size_t>(store.exact_row_stride()));
  store.ReadRow(cell, row.data());
  return row;
}

ErrorCode LoadError(CellStore& store, const Bytes& saved) {
  try {
    store.LoadRow(7, saved.data());
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cell 7"), std::string::npos) << error.what();
    return error.code();
  }
  ADD_FAILURE() << "loaded";
  return ErrorCode::kFormat;
}

TEST(SavedRows, TakeTheBytesOfA16BitRowAndComeBackTheSame) {
  for (const CodecInfo& codec : Codecs()) {
    for (const int head_dim : {64, 80, 128}) {
      // ggml's blocks of 32 do not divide 80; the page format says so, and tests it.
      if (head_dim == 80 && (codec.name == "q8_0" || codec.name == "q4_0")) continue;
      CellStore store(Shape(std::string(codec.name), head_dim));
      EXPECT_EQ(store.saved_row_bytes(), static_cast<size_t>(head_dim) * 3 * 2);
      Fill(store, 1);
      if (!store.can_save()) continue;
      CellStore restored(store.config());
      for (int64_t cell = 0; cell < 300; ++cell) {
        restored.LoadRow(cell, Saved(store, cell).data());
      }
      for (int64_t cell = 0; cell < 300; ++cell) {
        ASSERT_EQ(Read(store, cell), Read(restored, cell)) << codec.name << " cell " << cell;
        ASSERT_EQ(Saved(store, cell), Saved(restored, cell)) << codec.name << " cell " << cell;
      }
      for (int64_t page = 0; page < 3; ++page) EXPECT_FALSE(restored.View(page, 0).mixed);
    }
  }
}

TEST(SavedRows, FitForTheSchemesPeopleUseAndAreRefusedByNameForTheOthers) {
  for (const char* scheme : {"turbo4:center", "turbo3:center", "turbo2:center", "turbo6:center",
                             "turbo8", "q8_0", "q4_0", "f16"}) {
    EXPECT_TRUE(CellStore(Shape(scheme)).can_save()) << scheme;
  }
  for (const char* scheme : {"turbo8:center", "f32", "bf16", "zscore3", "kivi2", "dual3"}) {
    CellStore store(Shape(scheme));
    EXPECT_FALSE(store.can_save()) << scheme;
    try {
      Saved(store, 0);
      ADD_FAILURE() << scheme;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_NE(std::string(error.what()).find(scheme), std::string::npos) << error.what();
    }
  }
}

TEST(SavedRows, KeepTheirOwnStatisticsWhereverTheyAreRestored) {
  CellStore a(Shape("turbo3:center")), b(Shape("turbo3:center"));
  Fill(a, 1);
  Fill(b, 2);
  CellStore restored(a.config());
  // Rows of two stores and of two pages of each, shifted by 100 cells: four headers in one page.
  std::vector<Floats> expected;
  for (int64_t i = 0; i < 200; ++i) {
    const CellStore& from = i % 3 == 0 ? a : b;
    expected.push_back(Read(from, i));
    restored.LoadRow(100 + i, Saved(from, i).data());
  }
  EXPECT_TRUE(restored.View(1, 0).mixed);
  for (int64_t i = 0; i < 200; ++i) {
    ASSERT_EQ(Read(restored, 100 + i), expected[static_cast<size_t>(i)]) << i;
    ASSERT_EQ(Saved(restored, 100 + i), Saved(i % 3 == 0 ? a : b, i)) << i;
  }
  Floats page(128 * 64);
  restored.DecodeCells(1, 2, page.data());
  for (int64_t slot = 0; slot < 128; ++slot) {
    const Floats row = Read(restored, 128 + slot);
    ASSERT_TRUE(std::equal(row.begin() + 128, row.end(), page.begin() + slot * 64)) << slot;
  }
  CellStore copy(a.config());
  copy.CopyFrom(restored, 90, 250);
  for (int64_t i = 0; i < 200; ++i) ASSERT_EQ(Saved(copy, 100 + i), Saved(restored, 100 + i));
  EXPECT_GT(copy.memory().header_bytes, 2 * 3 * copy.format().header_bytes());
}

TEST(SavedRows, HoldAPageOfAsManyHeadersAsRows) {
  CellStore::Config config = Shape("turbo4:center", 16, 1);
  config.page_tokens = 256;
  config.window_tokens = 0;
  config.max_partial_pages = 0;
  CellStore restored(config), source(config);
  std::mt19937 random(5);
  std::vector<Bytes> saved;
  // Twice, so that the second round finds the table full of headers no row needs any more.
  for (int round = 0; round < 2; ++round) {
    saved.clear();
    for (int64_t cell = 0; cell < 256; ++cell) {
      source.Clear();
      const Floats row = RandomRows(random, 1, 16);
      source.Write(std::vector<int64_t>{cell}, row.data(), 16, 1);
      source.Settle(1);
      saved.push_back(Saved(source, cell));
      restored.LoadRow(cell, saved.back().data());
    }
    for (int64_t cell = 0; cell < 256; ++cell) {
      ASSERT_EQ(Saved(restored, cell), saved[static_cast<size_t>(cell)]) << cell;
    }
  }
}

TEST(SavedRows, OfCellsNeverWrittenAreZeros) {
  CellStore store(Shape("turbo4"));
  EXPECT_EQ(Saved(store, 3), Bytes(store.saved_row_bytes()));
}

TEST(SavedRows, AreRefusedWhenDamagedOrOfAnotherScheme) {
  CellStore store(Shape("turbo4:center")), other(Shape("turbo4:center:scale=norm"));
  Fill(store, 1);
  const Bytes coded = Saved(store, 0);
  EXPECT_EQ(LoadError(other, coded), ErrorCode::kCorruption);
  CellStore plain(Shape("f16")), wide(Shape("f32"));
  EXPECT_EQ(LoadError(plain, coded), ErrorCode::kCorruption);
  EXPECT_EQ(LoadError(wide, coded), ErrorCode::kCorruption);

  CellStore target(store.config());
  Bytes damaged = coded;
  damaged[2] ^= std::byte{1};  // the tag
  EXPECT_EQ(LoadError(target, damaged), ErrorCode::kCorruption);
  damaged = coded;
  damaged.back() = std::byte{1};  // after the records
  EXPECT_EQ(LoadError(target, damaged), ErrorCode::kCorruption);
  damaged = coded;
  damaged[1] = std::byte{0x7c};  // another NaN in place of the mark
  EXPECT_EQ(LoadError(target, damaged), ErrorCode::kCorruption);
  damaged = Saved(store, 299);  // exact
  damaged[101] = std::byte{0xfc};
  EXPECT_EQ(LoadError(target, damaged), ErrorCode::kCorruption);
  EXPECT_EQ(target.memory().filled_cells, 0);
}

}  // namespace
}  // namespace polarquant
