// SPDX-License-Identifier: Apache-2.0
// Host: C, tests. Rows, pages, and what a refusal says.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "polarquant/polarquant.h"

namespace polarquant::c_testing {

using Floats = std::vector<float>;

inline Floats Random(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.25f, 1.0f);
  Floats values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline std::vector<int64_t> Cells(int64_t first, int64_t count) {
  std::vector<int64_t> cells(static_cast<size_t>(count));
  std::iota(cells.begin(), cells.end(), first);
  return cells;
}

// Balance scales over an order of magnitude.
inline Floats Scales(size_t count) {
  Floats scales(count);
  for (size_t i = 0; i < count; ++i) scales[i] = 0.5f + static_cast<float>(i * 7 % 31) / 8.0f;
  return scales;
}

inline ::testing::AssertionResult Ok(pq_status status) {
  if (status == PQ_OK) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "status " << status << ": " << pq_last_error();
}

// That a call was refused with `expected`, and that the message has all of `words`.
inline ::testing::AssertionResult Refused(pq_status expected, pq_status status,
                                          std::initializer_list<const char*> words) {
  const std::string message = pq_last_error();
  if (status != expected) {
    return ::testing::AssertionFailure()
           << "status " << status << " instead of " << expected << ": " << message;
  }
  for (const char* word : words) {
    if (message.find(word) == std::string::npos) {
      return ::testing::AssertionFailure() << "no \"" << word << "\" in: " << message;
    }
  }
  return ::testing::AssertionSuccess();
}

// Memory for a page, aligned as it must be.
class Page {
 public:
  explicit Page(size_t bytes) : bytes_(bytes), lines_((bytes + 63) / 64) {}
  std::byte* data() { return reinterpret_cast<std::byte*>(lines_.data()); }
  size_t size() const { return bytes_; }
  bool operator==(const Page& other) const {
    return bytes_ == other.bytes_ && std::memcmp(lines_.data(), other.lines_.data(), bytes_) == 0;
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  size_t bytes_;
  std::vector<Line> lines_;
};

template <typename Handle, pq_status (*kDestroy)(Handle*)>
struct Destroyer {
  void operator()(Handle* handle) const { EXPECT_EQ(kDestroy(handle), PQ_OK); }
};
using PageFormatPtr =
    std::unique_ptr<pq_page_format, Destroyer<pq_page_format, pq_page_format_destroy>>;
using CellStorePtr =
    std::unique_ptr<pq_cell_store, Destroyer<pq_cell_store, pq_cell_store_destroy>>;
using SequencePtr =
    std::unique_ptr<pq_sequence_cache, Destroyer<pq_sequence_cache, pq_sequence_cache_destroy>>;
using SavedPtr =
    std::unique_ptr<pq_saved_sequences, Destroyer<pq_saved_sequences, pq_saved_sequences_destroy>>;

// A struct as a later version of the header may have it: more fields at its end.
template <typename Struct>
struct Longer {
  Struct known;
  uint64_t more[2] = {};
  explicit Longer(Struct from) : known(from) { known.struct_size = sizeof(Longer); }
};

}  // namespace polarquant::c_testing
