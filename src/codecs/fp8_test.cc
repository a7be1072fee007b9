// SPDX-License-Identifier: Apache-2.0
// fp8_e4m3: every code, rounding, and its published distortion.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "codecs/codecs_testing.h"
#include "util/half.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

constexpr char kName[] = "fp8_e4m3";

// A row whose scale is 1, so that its other values are coded as they are.
Row UnderScaleOne(float value) {
  Row row(16, 0.0f);
  row[0] = 448.0f;
  row[1] = value;
  return row;
}

int CodeOf(float value) { return std::to_integer<int>(Encode(kName, UnderScaleOne(value))[3]); }

float ValueOf(int code) {
  Record record(18, std::byte{0});
  record[1] = std::byte{0x3c};  // f16 1
  record[2] = static_cast<std::byte>(code);
  return Decode(kName, record, 16)[0];
}

TEST(Fp8, HasTheNumbersOfTheFormat) {
  EXPECT_EQ(ValueOf(0x00), 0.0f);
  EXPECT_EQ(ValueOf(0x01), 0x1p-9f);  // the smallest subnormal
  EXPECT_EQ(ValueOf(0x07), 7 * 0x1p-9f);
  EXPECT_EQ(ValueOf(0x08), 0x1p-6f);  // the smallest normal
  EXPECT_EQ(ValueOf(0x38), 1.0f);
  EXPECT_EQ(ValueOf(0x3b), 1.375f);
  EXPECT_EQ(ValueOf(0x7e), 448.0f);
  EXPECT_EQ(ValueOf(0xfe), -448.0f);
  EXPECT_EQ(ValueOf(0x7f), 0.0f);  // not a number
  EXPECT_EQ(ValueOf(0xff), 0.0f);
}

TEST(Fp8, ReadsBackEveryCode) {
  for (int code = 0; code < 0x7f; ++code) {
    EXPECT_EQ(CodeOf(ValueOf(code)), code);
    EXPECT_EQ(CodeOf(-ValueOf(code)), code | 0x80);
    if (code > 0) {
      EXPECT_GT(ValueOf(code), ValueOf(code - 1));
    }
  }
}

TEST(Fp8, RoundsToTheNearestAndTiesToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = ValueOf(code), high = ValueOf(code + 1);
    const float middle = 0.5f * (low + high);  // exact
    EXPECT_EQ(CodeOf(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(CodeOf(std::nextafter(middle, 0.0f)), code) << code;
    EXPECT_EQ(CodeOf(std::nextafter(middle, 1e9f)), code + 1) << code;
  }
}

TEST(Fp8, NeverSaturatesARowAndWritesNoNan) {
  GaussianRows rows(64, 1);
  for (int r = 0; r < 200; ++r) {
    Row row = rows.Next();
    const float factor = std::ldexp(1.0f, r % 40 - 24);  // down to f16 subnormal scales
    for (float& value : row) value *= factor;
    const Record record = Encode(kName, row);
    for (size_t i = 2; i < record.size(); ++i) {
      EXPECT_NE(std::to_integer<int>(record[i]) & 0x7f, 0x7f);
    }
    const Row decoded = Decode(kName, record, 64);
    const size_t peak = static_cast<size_t>(
        std::max_element(row.begin(), row.end(),
                         [](float a, float b) { return std::abs(a) < std::abs(b); }) -
        row.begin());
    EXPECT_NEAR(decoded[peak] / row[peak], 1.0f, 1.0f / 16 + 1e-6f) << factor;
  }
}

TEST(Fp8, HasThePublishedDistortion) {
  // That of single numbers, for all but the row's largest value: the scale makes that one exact, a
  // tenth of the energy of 64 values.
  for (const auto& [head_dim, of_rows] : {std::pair{64, 0.000626}, std::pair{128, 0.000662}}) {
    GaussianRows rows(head_dim, 2);
    double error = 0.0, energy = 0.0;
    for (int r = 0; r < 4000; ++r) {
      const Row row = rows.Next(), decoded = RoundTrip(kName, row);
      double peak = 0.0;
      for (size_t i = 0; i < row.size(); ++i) {
        error += std::pow(static_cast<double>(row[i]) - decoded[i], 2);
        peak = std::max(peak, static_cast<double>(row[i]) * row[i]);
      }
      energy += Dot(row, row) - peak;
    }
    EXPECT_NEAR(error / energy / 0.00070, 1.0, 0.02) << head_dim;
    EXPECT_NEAR(QualityOf(kName, head_dim).distortion / of_rows, 1.0, 0.02) << head_dim;
    EXPECT_DOUBLE_EQ(BitsPerValue(kName, head_dim), 8.0 + 16.0 / head_dim);
  }
}

// A scale that the row does not choose: one for a whole tensor, or none.
TEST(Fp8, HasThePublishedDistortionUnderAnyScale) {
  for (const float scale : {1.0f, 0x1p-4f, 0x1p3f}) {
    GaussianRows rows(1024, 3);
    double error = 0.0, energy = 0.0;
    for (int r = 0; r < 200; ++r) {
      Row row = rows.Next();
      row[0] = 448.0f * scale;  // exact
      error += SquaredError(row, RoundTrip(kName, row));
      energy += Dot(row, row) - std::pow(row[0], 2);
    }
    EXPECT_NEAR(error / energy / 0.00070, 1.0, 0.02) << scale;
  }
}

TEST(Fp8, WritesTheGoldenRecord) {
  EXPECT_EQ(Hex(Encode(kName, GoldenRow(16))), "931cfef9ee66767cfcf6e66e797efaf20072");
  EXPECT_EQ(Hex(Encode(kName, Row(16, 0.0f))), std::string(36, '0'));
  EXPECT_EQ(Hex(Encode(kName, Row(16, -2.1e6f))).substr(0, 8), "946cfefe");
}

}  // namespace
}  // namespace polarquant
