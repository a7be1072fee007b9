// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise, against the original: records of q8_0 and q4_0 are the bytes that ggml's own
// quantizers write, and decode to the numbers that ggml decodes them to.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "ggml.h"
#include "polarquant/page.h"

namespace polarquant {
namespace {

using Row = std::vector<float>;

struct Case {
  const char* codec;
  ggml_type type;
};

// Rows of every temper: Gaussian at several magnitudes, heavy tails, one huge channel, ties.
std::vector<Row> Rows(int head_dim) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<Row> rows;
  const auto add = [&](auto value) {
    Row& row = rows.emplace_back(static_cast<size_t>(head_dim));
    for (int i = 0; i < head_dim; ++i) row[static_cast<size_t>(i)] = value(i);
  };
  for (const float magnitude : {1e-6f, 1e-2f, 1.0f, 30.0f, 1e4f}) {
    for (int repeat = 0; repeat < 200; ++repeat) {
      add([&](int) { return magnitude * normal(random); });
    }
  }
  for (int repeat = 0; repeat < 200; ++repeat) {
    add([&](int) {  // pages take what f16 can hold
      return std::min(6e4f, std::exp(3.0f * normal(random))) * (random() % 2 ? 1.0f : -1.0f);
    });
  }
  add([](int) { return 0.0f; });
  add([](int i) { return i == 5 ? -300.0f : 0.01f; });
  add([](int i) { return i % 2 ? 1.0f : -1.0f; });
  add([](int i) { return static_cast<float>(i % 32) - 15.5f; });
  add([](int i) { return 0.5f * static_cast<float>(i % 17 - 8); });
  return rows;
}

class GgmlBytes : public testing::TestWithParam<Case> {};

TEST_P(GgmlBytes, EncodeToTheSameBytesAndDecodeToTheSameNumbers) {
  const auto [codec, type] = GetParam();
  for (const int head_dim : {32, 64, 96, 128, 256}) {
    const PageFormat format(Scheme::Parse(std::string(codec) + ":rotate=none"), Role::kKey,
                            head_dim);
    ASSERT_EQ(format.record_bytes(), ggml_row_size(type, head_dim));
    std::vector<std::byte> page(format.page_bytes()), ours(format.record_bytes());
    std::vector<std::byte> theirs(format.record_bytes());
    Row our_row(static_cast<size_t>(head_dim)), their_row(our_row);
    int number = 0;
    for (const Row& row : Rows(head_dim)) {
      format.EncodePage(row.data(), 1, page.data());
      format.ReadRecord(page.data(), 0, ours.data());
      ggml_quantize_chunk(type, row.data(), theirs.data(), 0, 1, head_dim, nullptr);
      ASSERT_EQ(ours, theirs) << codec << ", head_dim " << head_dim << ", row " << number;

      format.DecodeRow(page.data(), 0, our_row.data());
      ggml_get_type_traits(type)->to_float(theirs.data(), their_row.data(), head_dim);
      ASSERT_EQ(our_row, their_row) << codec << ", head_dim " << head_dim << ", row " << number;
      ++number;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, GgmlBytes,
                         testing::Values(Case{"q8_0", GGML_TYPE_Q8_0},
                                         Case{"q4_0", GGML_TYPE_Q4_0}),
                         [](const auto& test) { return std::string(test.param.codec); });

}  // namespace
}  // namespace polarquant
