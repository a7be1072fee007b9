// SPDX-License-Identifier: Apache-2.0
// What the tests of the cell store have in common.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "cache/cell_store_model.h"
#include "cache/random_profile.h"
#include "polarquant/cell_store.h"
#include "polarquant/error.h"

namespace polarquant {

inline CellStore::Config SomeConfig(const std::string& scheme = "turbo4", int window = 16,
                                    int head_dim = 64, int heads = 2) {
  CellStore::Config config;
  config.scheme = Scheme::Parse(scheme);
  config.head_dim = head_dim;
  config.num_kv_heads = heads;
  config.num_cells = 1000;
  config.window_tokens = window;
  config.sink_tokens = 4;
  config.max_partial_pages = 2;
  if (config.scheme.normalisation.needs_profile()) {
    config.profile = RandomProfile(heads, head_dim, Rope::Pairing::kHalves, 1);
  }
  return config;
}

inline std::vector<int64_t> Cells(int64_t first, int64_t count) {
  std::vector<int64_t> cells(static_cast<size_t>(count));
  std::iota(cells.begin(), cells.end(), first);
  return cells;
}

inline std::vector<int32_t> Positions(int64_t first, int64_t count) {
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
  return positions;
}

inline Floats SomeRows(const CellStore& store, int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.5f, 1.0f);
  Floats rows(static_cast<size_t>(count * store.exact_row_stride()));
  for (float& value : rows) value = normal(random);
  return rows;
}

// Rows of cells [first, first + count), whose positions go on from `position`, or are the cells'.
inline void Write(CellStore& store, int64_t first, int64_t count, unsigned seed = 1,
                  int64_t position = -1) {
  store.Write(Cells(first, count), SomeRows(store, count, seed).data(), store.exact_row_stride(), 1,
              Positions(position < 0 ? first : position, count).data());
}

inline PageBits ExactBits(const CellStore& store, int64_t page) {
  const PageView view = store.View(page, 0);
  PageBits bits;
  std::ranges::copy(view.exact, bits.words);
  return bits;
}
inline int ExactIn(const CellStore& store, int64_t page) { return ExactBits(store, page).Count(); }
inline bool HasCodes(const CellStore& store, int64_t page) {
  return store.View(page, 0).page != nullptr;
}

inline Floats Read(const CellStore& store, int64_t cell) {
  Floats row(static_cast<size_t>(store.exact_row_stride()));
  store.ReadRow(cell, row.data());
  return row;
}

// The code of a cell, of every kv_head.
inline Bytes Code(const CellStore& store, int64_t cell) {
  const int64_t tokens = store.shape().page_tokens;
  Bytes code;
  for (int head = 0; head < store.shape().num_kv_heads; ++head) {
    Bytes record(store.format(head).record_bytes());
    store.format(head).ReadRecord(store.View(cell / tokens, head).page,
                                  static_cast<int>(cell % tokens), record.data());
    code.insert(code.end(), record.begin(), record.end());
  }
  return code;
}

// Codes and statistics of a page.
inline Bytes PageBytes(const CellStore& store, int64_t page) {
  Bytes all;
  const int tokens = store.shape().page_tokens;
  for (int head = 0; head < store.shape().num_kv_heads; ++head) {
    for (int slot = 0; slot < tokens; slot += store.format().group_tokens()) {
      const auto header = store.format().Header(store.View(page, head).page, slot);
      all.insert(all.end(), header.begin(), header.end());
    }
  }
  for (int slot = 0; slot < tokens; ++slot) {
    const Bytes code = Code(store, page * tokens + slot);
    all.insert(all.end(), code.begin(), code.end());
  }
  return all;
}

inline Bytes Saved(const CellStore& store, int64_t first, int64_t count = 1) {
  Bytes saved(static_cast<size_t>(count) * store.saved_row_bytes(), std::byte{0xa5});
  store.SaveRows(first, count, saved.data(), 2);
  return saved;
}

inline std::string Refusal(ErrorCode code, const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace polarquant
