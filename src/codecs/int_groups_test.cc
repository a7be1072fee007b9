// SPDX-License-Identifier: Apache-2.0
// int2 and int4: codes by hand, groups, and the published distortions.
#include <gtest/gtest.h>

#include <algorithm>

#include "codecs/affine.h"
#include "codecs/codecs_testing.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

TEST(IntGroups, HaveTheCodesOfTheFormula) {
  Row row(16, 0.0f);
  row[0] = -1.0f;  // the minimum: shift 1, code 0
  row[1] = 14.0f;  // the maximum: scale 1, code 15
  row[2] = 0.5f;   // 1.5 goes to the even 2
  row[3] = 1.5f;   // 2.5 too
  row[4] = 1.6f;
  EXPECT_EQ(Hex(Encode("int4", row)),
            "003c003c"
            "f022131111111111");
  for (float& value : row) value *= 0.2f;  // scale 1 for two bits
  EXPECT_EQ(Hex(Encode("int2", row)),
            "003c6632"
            "0c010000");
}

TEST(IntGroups, KeepTheEndsOfEachGroup) {
  GaussianRows rows(112, 1);  // groups of 64 and 48
  for (const char* codec : {"int2", "int4"}) {
    for (int r = 0; r < 50; ++r) {
      Row row = rows.Next();
      for (size_t i = 64; i < row.size(); ++i) row[i] = 100.0f + 0.01f * row[i];
      const Row decoded = RoundTrip(codec, row);
      for (const auto& [begin, end] : {std::pair{0, 64}, std::pair{64, 112}}) {
        const auto [low, high] = std::minmax_element(row.begin() + begin, row.begin() + end);
        const float half_ulp = std::max(std::abs(*low), std::abs(*high)) * 0x1p-11f;
        const auto at = [&](auto where) {
          return decoded[static_cast<size_t>(where - row.begin())];
        };
        EXPECT_NEAR(at(low), *low, half_ulp) << codec;
        EXPECT_NEAR(at(high), *high, 2.0f * half_ulp + (*high - *low) * 0x1p-11f) << codec;
      }
    }
  }
}

TEST(IntGroups, KeepConstantRowsExactly) {
  for (const char* codec : {"int2", "int4"}) {
    for (const float value : {0.0f, 1.5f, -3.0f, 65504.0f}) {
      EXPECT_EQ(RoundTrip(codec, Row(80, value)), Row(80, value)) << codec;
    }
  }
}

TEST(IntGroups, HaveThePublishedDistortions) {
  for (const int head_dim : {64, 128}) {
    EXPECT_NEAR(QualityOf("int2", head_dim).distortion / 0.2025, 1.0, 0.02) << head_dim;
    EXPECT_NEAR(QualityOf("int4", head_dim).distortion / 0.00803, 1.0, 0.02) << head_dim;
    EXPECT_DOUBLE_EQ(BitsPerValue("int2", head_dim), 2.5);
    EXPECT_DOUBLE_EQ(BitsPerValue("int4", head_dim), 4.5);
  }
}

// No codec has these, but the grids have them.
TEST(IntGroups, HaveThePublishedDistortionsOfOtherWidthsAndGroups) {
  struct Expected {
    int bits, group;
    double distortion;
  };
  for (const Expected& expected :
       {Expected{2, 32, 0.1545}, Expected{2, 64, 0.2025}, Expected{2, 128, 0.2504},
        Expected{3, 32, 0.02815}, Expected{4, 32, 0.00612}, Expected{4, 64, 0.00803},
        Expected{4, 128, 0.00994}, Expected{8, 32, 2.1e-5}}) {
    const auto coder = MakeAffineRows(expected.bits, 128, expected.group, AffineFit::kMinMax);
    GaussianRows rows(128, 4);
    double error = 0.0, energy = 0.0;
    for (int r = 0; r < 4000; ++r) {
      const Row row = rows.Next();
      Record record(coder->record_bytes());
      Row decoded(128);
      coder->Encode(nullptr, row.data(), record.data());
      coder->Decode(nullptr, record.data(), decoded.data());
      error += SquaredError(row, decoded);
      energy += Dot(row, row);
    }
    EXPECT_NEAR(error / energy / expected.distortion, 1.0, 0.02)
        << expected.bits << " bits, groups of " << expected.group;
  }
}

// Skewed rows: a few loud values stretch the grid to one side.
TEST(IntGroups, LoseLessWithTheShiftOfHqq) {
  for (const char* codec : {"int2", "int4"}) {
    const Subject minmax(codec, 128), hqq(std::string(codec) + ":fit=hqq", 128);
    EXPECT_EQ(hqq.bits_per_value(), minmax.bits_per_value());
    GaussianRows rows(128, 3);
    double before = 0.0, after = 0.0;
    for (int r = 0; r < 500; ++r) {
      Row row = rows.Next();
      for (float& value : row) value = value * std::abs(value);
      const Row a = minmax.RoundTrip(row), b = hqq.RoundTrip(row);
      for (size_t i = 0; i < row.size(); ++i) {
        before += static_cast<double>(std::abs(row[i] - a[i]));
        after += static_cast<double>(std::abs(row[i] - b[i]));
      }
    }
    EXPECT_LT(after, 0.95 * before) << codec;
  }
  EXPECT_EQ(RoundTrip("int2:fit=hqq", Row(80, 1.5f)), Row(80, 1.5f));
  Row skewed = GoldenRow(80);
  for (float& value : skewed) value = value > 0.0f ? value * value : value;
  EXPECT_EQ(Hex(Encode("int2:fit=hqq", skewed)),
            "00406b3f004000405009e554422594530995504e2554423995500ee5");
}

TEST(IntGroups, WriteTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("int2", GoldenRow(80))),
            "553d0040553d0040944ee9a4533aa5934ee9944e3aa5533ae9944ee9");
  EXPECT_EQ(Hex(Encode("int4", GoldenRow(80))),
            "44340040443400403086eb4197fc52a80d63b81e74c92f85"
            "da3086eb4197fc52a80d63b81e74c92f85da3086eb4197fc");
  EXPECT_EQ(Hex(Encode("int4", Row(16, 0.0f))), std::string(24, '0'));
}

}  // namespace
}  // namespace polarquant
