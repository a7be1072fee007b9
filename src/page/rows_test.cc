// SPDX-License-Identifier: Apache-2.0
// Rows and records of a page, any number of them at once: as one by one, and no others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "page/page_testing.h"
#include "polarquant/error.h"
#include "polarquant/page.h"

namespace polarquant {
namespace {

// Zeros, NaN, infinities, huge and tiny rows among Gaussian ones.
std::vector<float> UglyRows(int count, int head_dim, std::mt19937& random) {
  std::vector<float> rows = GaussianRows(count, head_dim, random());
  constexpr float kSizes[] = {1.0f, 1.0f, 1.0f, 0.0f, 1e-7f, 1e-30f, 1e4f, 1e38f};
  constexpr float kOdd[] = {kNan, kInfinity, -kInfinity, -0.0f, 1e-40f};
  for (int r = 0; r < count; ++r) {
    float* row = rows.data() + r * head_dim;
    const float size = kSizes[random() % std::size(kSizes)];
    for (int i = 0; i < head_dim; ++i) row[i] *= size;
    if (random() % 4 == 0) {
      row[random() % static_cast<unsigned>(head_dim)] = kOdd[random() % std::size(kOdd)];
    }
  }
  return rows;
}

template <typename Visit>
void ForEveryPageSize(const std::vector<int>& head_dims, const Visit& visit) {
  std::mt19937 random(19);
  ForEveryFormat(head_dims, [&](const PageFormat& usual) {
    for (const int tokens : {64, 128, 256}) {
      if (tokens != 128 && random() % 3 != 0) continue;
      SCOPED_TRACE("page_tokens " + std::to_string(tokens));
      visit(PageFormat(usual.scheme(), usual.role(), usual.head_dim(), tokens), random);
    }
  });
}

TEST(EveryScheme, EncodesAnyRowsAsOneByOneAndAsThePageAndLeavesTheOthers) {
  ForEveryPageSize(
      {16, 64, 80, 96, 112, 128, 256}, [](const PageFormat& format, std::mt19937& random) {
        const int head_dim = format.head_dim(), tokens = format.page_tokens();
        const std::vector<float> old_rows = UglyRows(tokens, head_dim, random);
        std::vector<float> mixed = old_rows;
        const int first = static_cast<int>(random() % static_cast<unsigned>(tokens));
        const int count = static_cast<int>(random() % static_cast<unsigned>(tokens - first + 1));
        SCOPED_TRACE(std::to_string(count) + " rows from " + std::to_string(first));
        const std::vector<float> rows = UglyRows(count, head_dim, random);
        std::copy(rows.begin(), rows.end(), mixed.begin() + first * head_dim);
        PageBytes together(format), single(format), whole(format);
        format.EncodePage(old_rows.data(), tokens, together.get());
        format.EncodePage(old_rows.data(), tokens, single.get());
        format.EncodeRows(together.get(), first, count, rows.data());
        for (int r = 0; r < count; ++r) {
          format.EncodeRow(single.get(), first + r, rows.data() + r * head_dim);
        }
        ASSERT_TRUE(together == single);
        if (format.header_bytes() != 0) return;
        format.EncodePage(mixed.data(), tokens, whole.get());
        ASSERT_TRUE(together == whole);
      });
}

TEST(EveryScheme, MovesTheRecordsOfAnyRowsAndLeavesTheOthers) {
  ForEveryPageSize(
      {16, 64, 80, 96, 112, 128, 256}, [](const PageFormat& format, std::mt19937& random) {
        const int head_dim = format.head_dim(), tokens = format.page_tokens();
        const std::vector<float> rows = UglyRows(tokens, head_dim, random);
        const std::vector<float> others = UglyRows(tokens, head_dim, random);
        PageBytes from(format), to(format), single(format);
        format.EncodePage(rows.data(), tokens, from.get());
        format.EncodePage(others.data(), tokens, to.get());
        format.EncodePage(others.data(), tokens, single.get());
        const int first = static_cast<int>(random() % static_cast<unsigned>(tokens));
        const int count = static_cast<int>(random() % static_cast<unsigned>(tokens - first + 1));
        const size_t record = format.record_bytes(), stride = record + random() % 3;
        SCOPED_TRACE(std::to_string(count) + " rows from " + std::to_string(first));
        std::vector<std::byte> records(static_cast<size_t>(count) * stride + 1, std::byte{0x5a});
        format.ReadRecords(from.get(), first, count, records.data(), stride);
        std::vector<std::byte> expected(records.size(), std::byte{0x5a});
        for (int r = 0; r < count; ++r) {
          std::byte* at = expected.data() + static_cast<size_t>(r) * stride;
          format.ReadRecord(from.get(), first + r, at);
          format.WriteRecord(single.get(), first + r, at);
        }
        ASSERT_EQ(records, expected);
        format.WriteRecords(to.get(), first, count, records.data(), stride);
        ASSERT_TRUE(to == single);
      });
}

TEST(EveryScheme, ReadsRowsOfAPageOfZerosAsZeros) {
  ForEveryPageSize({16, 64, 80, 112, 128}, [](const PageFormat& format, std::mt19937& random) {
    if (format.header_bytes() != 0) return;
    const int head_dim = format.head_dim(), tokens = format.page_tokens();
    PageBytes page(format);
    std::memset(page.get(), 0, format.page_bytes());
    const std::vector<float> row = GaussianRows(1, head_dim, 20);
    const int index = static_cast<int>(random() % static_cast<unsigned>(tokens));
    format.EncodeRows(page.get(), index, 1, row.data());
    std::vector<float> decoded(static_cast<size_t>(tokens * head_dim));
    format.DecodePage(page.get(), tokens, decoded.data());
    float* written = decoded.data() + index * head_dim;
    ASSERT_LT(MeanError(row, {written, written + head_dim}, head_dim), 0.9);
    std::fill_n(written, head_dim, 0.0f);
    for (const float value : decoded) ASSERT_EQ(value, 0.0f);
  });
}

TEST(PageFormat, RefusesRowsThatAPageDoesNotHave) {
  const PageFormat format(Scheme::Parse("turbo4"), Role::kKey, 64);
  PageBytes page(format);
  std::vector<float> rows(size_t{129} * 64);
  format.EncodePage(rows.data(), 128, page.get());
  std::vector<std::byte> records(129 * format.record_bytes());
  const size_t stride = format.record_bytes();
  const auto refuses = [](const auto& call, const char* value, const char* most) {
    try {
      call();
      ADD_FAILURE() << "no error: " << value;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kParameter);
      const std::string message = error.what();
      EXPECT_NE(message.find(value), std::string::npos) << message;
      EXPECT_NE(message.find(most), std::string::npos) << message;
    }
  };
  const auto at = page.get();
  refuses([&] { format.EncodePage(rows.data(), 129, at); }, "count 129", "0..128");
  refuses([&] { format.EncodePage(rows.data(), -1, at); }, "count -1", "0..128");
  refuses([&] { format.DecodePage(at, 129, rows.data()); }, "count 129", "0..128");
  refuses([&] { format.DecodeCodes(at, 129, rows.data()); }, "count 129", "0..128");
  refuses([&] { format.EncodeRow(at, 128, rows.data()); }, "index 128", "0..127");
  refuses([&] { format.DecodeRow(at, -1, rows.data()); }, "index -1", "0..127");
  refuses([&] { format.EncodeRows(at, 100, 29, rows.data()); }, "count 29", "0..28");
  refuses([&] { format.EncodeRows(at, 129, 0, rows.data()); }, "first 129", "0..128");
  refuses([&] { format.ReadRecord(at, 128, records.data()); }, "index 128", "0..127");
  refuses([&] { format.WriteRecord(at, 128, records.data()); }, "index 128", "0..127");
  refuses([&] { format.ReadRecords(at, 1, 128, records.data(), stride); }, "count 128", "0..127");
  refuses([&] { format.WriteRecords(at, -1, 1, records.data(), stride); }, "first -1", "0..128");
  refuses([&] { format.Header(at, 128); }, "index 128", "0..127");
  refuses([&] { format.LearnGroup(at, 0, rows.data(), 129); }, "count 129", "0..128");
}

}  // namespace
}  // namespace polarquant
