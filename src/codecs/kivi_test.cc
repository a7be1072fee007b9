// SPDX-License-Identifier: Apache-2.0
// kivi2 and kivi4: distortions of both roles, sizes, channels and tokens that are kept apart.
#include <gtest/gtest.h>

#include <cmath>

#include "codecs/codecs_testing.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

TEST(Kivi, HasItsDistortionsAndSizes) {
  struct Expected {
    const char* scheme;
    double distortion, bits;
  };
  const Expected table[] = {
      {"kivi2", 0.1545, 3.0},  {"kivi2:group=64", 0.2025, 2.5},  {"kivi2:group=128", 0.2504, 2.25},
      {"kivi4", 0.00612, 5.0}, {"kivi4:group=64", 0.00803, 4.5}, {"kivi4:group=128", 0.00994, 4.25},
  };
  const std::vector<Row> rows = GaussianPage(2048, 128, 1);
  for (const Expected& expected : table) {
    const PageSubject keys(expected.scheme, 128, Role::kKey);
    const PageSubject values(expected.scheme, 128, Role::kValue);
    EXPECT_NEAR(DistortionOf(rows, keys.RoundTrip(rows)) / expected.distortion, 1.0, 0.02)
        << expected.scheme;
    EXPECT_NEAR(DistortionOf(rows, values.RoundTrip(rows)) / expected.distortion, 1.0, 0.02)
        << expected.scheme;
    EXPECT_DOUBLE_EQ(keys.bits_per_value(), expected.bits);
    EXPECT_DOUBLE_EQ(values.bits_per_value(), expected.bits);
  }
  const PageSubject keys("kivi2:group=64", 80);
  EXPECT_EQ(keys.coder().group_tokens(), 64);
  EXPECT_EQ(keys.coder().header_bytes(), 320u);
  EXPECT_EQ(keys.coder().record_bytes(), 20u);
  const PageSubject values("kivi2:group=64", 80, Role::kValue);  // groups of 64 and 16
  EXPECT_EQ(values.coder().header_bytes(), 0u);
  EXPECT_EQ(values.coder().record_bytes(), 28u);
}

TEST(Kivi, GivesEachChannelOfKeysItsOwnGrid) {
  std::vector<Row> rows = GaussianPage(128, 64, 2);
  const std::vector<Row> even = rows;
  for (Row& row : rows) row[5] = 100.0f * row[5] + 1000.0f;
  const std::vector<Row> plain = PageSubject("kivi4", 64).RoundTrip(even);
  const std::vector<Row> decoded = PageSubject("kivi4", 64).RoundTrip(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_NEAR(decoded[r][5], rows[r][5], 40.0f);
    for (size_t c = 0; c < 64; ++c) {
      if (c == 5) continue;
      EXPECT_EQ(decoded[r][c], plain[r][c]);
    }
  }
}

TEST(Kivi, GivesEachTokenOfValuesItsOwnGrid) {
  std::vector<Row> rows = GaussianPage(2, 64, 3);
  for (float& value : rows[1]) value *= 1000.0f;
  const std::vector<Row> decoded = PageSubject("kivi4", 64, Role::kValue).RoundTrip(rows);
  EXPECT_LT(SquaredError(rows[0], decoded[0]), 0.01 * Dot(rows[0], rows[0]));
  EXPECT_LT(SquaredError(rows[1], decoded[1]), 0.01 * Dot(rows[1], rows[1]));
}

TEST(Kivi, KeepsConstantGroupsAndClampsStrays) {
  const PageSubject keys("kivi2", 16);
  const std::vector<Row> constant(32, Row(16, -2.5f));
  EXPECT_EQ(keys.RoundTrip(constant), constant);
  const std::vector<Row> ends = {Row(16, -1.0f), Row(16, 2.0f)};
  const Record header = keys.Learn(ends);
  EXPECT_EQ(keys.RoundTrip(header, Row(16, 65504.0f)), ends[1]);
  EXPECT_EQ(keys.RoundTrip(header, Row(16, -9.0f)), ends[0]);
  EXPECT_EQ(keys.RoundTrip(keys.Learn({}), ends[0]), Row(16, 0.0f));
}

TEST(Kivi, RefusesGroupsLongerThanThePage) {
  try {
    PageSubject("kivi2:group=128", 64, Role::kKey, 64);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("128"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("64"), std::string::npos) << error.what();
  }
  EXPECT_THROW(Scheme::Parse("kivi2:group=16"), Error);
  EXPECT_THROW(Scheme::Parse("kivi2:center"), Error);
  EXPECT_EQ(Scheme::Parse("kivi4:group=64").ToString(), "kivi4:group=64");
}

TEST(Kivi, WritesTheGoldenBytes) {
  const std::vector<Row> rows = {GoldenRow(16), Row(16, 1.0f), Row(16, -0.3f)};
  const PageSubject keys("kivi4", 16);
  const Record header = keys.Learn(rows);
  EXPECT_EQ(Hex(header),
            "66320040cd30003d662e00388c2dcd348c2dcd346030cd34de31003f4430003c"
            "8c2dcd348c2dcd349d2ecd34e830cd345531003e772f003a8c2dcd348c2dcd34");
  EXPECT_EQ(Hex(keys.Encode(header, rows[0])), "0060ff0091ff00c3");
  EXPECT_EQ(Hex(keys.Encode(header, rows[1])), "ffffafffff8dffff");
  EXPECT_EQ(Hex(PageSubject("kivi2", 48, Role::kValue).Encode({}, GoldenRow(48))),
            "553d0040553d0040944ee9a4533aa5934ee9944e");
}

}  // namespace
}  // namespace polarquant
