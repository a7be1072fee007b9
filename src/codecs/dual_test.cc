// SPDX-License-Identifier: Apache-2.0
// dual2 ... dual5: sizes, distortion on even rows, what the two scales gain on uneven ones, single
// rows, outliers.
#include <gtest/gtest.h>

#include <cmath>

#include "codecs/codecs_testing.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

constexpr Role kRoles[] = {Role::kKey, Role::kValue};

std::string Named(int bits, const char* rest = "") { return "dual" + std::to_string(bits) + rest; }

TEST(Dual, HasTheSizesOfTheFormat) {
  for (const Role role : kRoles) {
    for (int bits = 2; bits <= 5; ++bits) {
      EXPECT_DOUBLE_EQ(PageSubject(Named(bits), 128, role).bits_per_value(), bits + 0.25);
      EXPECT_DOUBLE_EQ(PageSubject(Named(bits, ":codes=rtn"), 128, role).bits_per_value(),
                       bits + 0.375);
    }
    const PageSubject lloyd("dual3", 80, role);
    EXPECT_EQ(lloyd.coder().header_bytes(), 160u);
    EXPECT_EQ(lloyd.coder().record_bytes(), 32u);
    EXPECT_EQ(lloyd.coder().group_tokens(), 0);
    const PageSubject rtn("dual3:codes=rtn", 80, role);
    EXPECT_EQ(rtn.coder().header_bytes(), role == Role::kKey ? 320u : 160u);
    EXPECT_EQ(rtn.coder().record_bytes(), role == Role::kKey ? 32u : 34u);
  }
  EXPECT_THROW(Scheme::Parse("dual3:codes=trellis"), Error);
  EXPECT_THROW(PageSubject("dual3:codes=rtn:scale=mse", 64), Error);
}

TEST(Dual, IsTheScalarQuantiserOnGaussianRows) {
  constexpr double kLloydMax[] = {0.117482, 0.034548, 0.009501, 0.002505};
  // Of rounding to nearest: keys with the r that fits best, values between the row's ends.
  constexpr double kRtnKeys[] = {0.12056, 0.03295, 0.00862, 0.00218};
  constexpr double kRtnValues[] = {0.24547, 0.04476, 0.00975, 0.00228};
  for (int bits = 2; bits <= 5; ++bits) {
    double least = 0.0, rtn[2] = {};
    for (uint64_t page = 0; page < 16; ++page) {
      const std::vector<Row> rows = GaussianPage(128, 128, 1 + page);
      least += DistortionOf(rows, PageSubject(Named(bits, ":scale=mse"), 128).RoundTrip(rows)) / 16;
      for (const Role role : kRoles) {
        rtn[role == Role::kKey] +=
            DistortionOf(rows, PageSubject(Named(bits, ":codes=rtn"), 128, role).RoundTrip(rows)) /
            16;
      }
    }
    const double expected = kLloydMax[bits - 2];
    EXPECT_LT(least, 1.01 * expected) << bits;
    EXPECT_GT(least, 0.75 * expected) << bits;
    EXPECT_NEAR(rtn[1] / kRtnKeys[bits - 2], 1.0, 0.02) << bits;
    EXPECT_NEAR(rtn[0] / kRtnValues[bits - 2], 1.0, 0.02) << bits;
    EXPECT_LT(least, rtn[1]) << bits;  // why codes=lloyd is the default
  }
}

// Channels and tokens of very different size, as deviations of e^N(0, 1.5^2).
std::vector<Row> UnevenPage(uint64_t seed) {
  std::vector<Row> rows = GaussianPage(128, 64, seed);
  const Row channels = GaussianPage(1, 64, seed + 100).front();
  const Row tokens = GaussianPage(1, 128, seed + 200).front();
  for (size_t t = 0; t < rows.size(); ++t) {
    for (size_t c = 0; c < 64; ++c) rows[t][c] *= std::exp(1.5f * (channels[c] + tokens[t]));
  }
  return rows;
}

// Error over energy, channel by channel and token by token.
double EvenDistortion(const std::vector<Row>& rows, const std::vector<Row>& decoded) {
  std::vector<double> error(64), energy(64);
  for (size_t t = 0; t < rows.size(); ++t) {
    const double size = Dot(rows[t], rows[t]);
    for (size_t c = 0; c < 64; ++c) {
      const double x = rows[t][c], y = decoded[t][c];
      error[c] += (x - y) * (x - y) / size;
      energy[c] += x * x / size;
    }
  }
  double sum = 0.0;
  for (size_t c = 0; c < 64; ++c) sum += error[c] / energy[c];
  return sum / 64.0;
}

TEST(Dual, BalancesChannelsAndTokens) {
  const std::vector<Row> rows = UnevenPage(1);
  const PageSubject dual("dual4:scale=mse", 64);
  std::vector<Row> turbo;
  for (const Row& row : rows) turbo.push_back(RoundTrip("turbo4:scale=mse", row));
  EXPECT_LT(EvenDistortion(rows, dual.RoundTrip(rows)), 0.0105);
  EXPECT_GT(EvenDistortion(rows, turbo), 20.0 * EvenDistortion(rows, dual.RoundTrip(rows)));
  for (const Role role : kRoles) {
    const PageSubject rtn("dual4:codes=rtn", 64, role);
    EXPECT_LT(EvenDistortion(rows, rtn.RoundTrip(rows)), 0.014);
  }
}

TEST(Dual, ZeroPointsTakeTheMeanOfAChannel) {
  std::vector<Row> rows = GaussianPage(128, 64, 5);
  for (Row& row : rows) {
    for (size_t c = 0; c < 64; ++c) row[c] += c % 2 == 0 ? 20.0f : -20.0f;
  }
  const auto error = [&](const char* scheme) {
    const std::vector<Row> decoded = PageSubject(scheme, 64).RoundTrip(rows);
    return DistortionOf(rows, decoded) * 401.0;  // of what varies
  };
  EXPECT_LT(error("dual4:codes=rtn"), 0.012);
  EXPECT_GT(error("dual4"), 0.1);
}

TEST(Dual, EncodesASingleRow) {
  for (const char* scheme : {"dual3", "dual3:codes=rtn"}) {
    for (const Role role : kRoles) {
      const PageSubject subject(scheme, 96, role);
      const std::vector<Row> rows = GaussianPage(128, 96, 6);
      const Record header = subject.Learn(rows);
      const Row other = GaussianPage(1, 96, 7).front();
      for (const float size : {0.01f, 1.0f, 100.0f}) {
        Row row = other;
        for (float& value : row) value *= size;
        EXPECT_LT(SquaredError(row, subject.RoundTrip(header, row)), 0.08 * Dot(row, row))
            << scheme << " " << size;
      }
      const std::vector<Row> alone = GaussianPage(1, 96, 8);
      EXPECT_LT(DistortionOf(alone, subject.RoundTrip(alone)), 0.06) << scheme;
      // Without any row the scales are 1, or the grids empty.
      for (const float value : subject.RoundTrip(subject.Learn({}), other)) {
        EXPECT_TRUE(std::isfinite(value));
      }
    }
  }
}

TEST(Dual, SurvivesZerosAndOutliers) {
  for (const char* scheme : {"dual2", "dual4", "dual2:codes=rtn", "dual4:codes=rtn"}) {
    for (const Role role : kRoles) {
      const PageSubject subject(scheme, 64, role);
      const std::vector<Row> zeros(128, Row(64, 0.0f));
      EXPECT_EQ(subject.RoundTrip(zeros), zeros);
      std::vector<Row> rows = GaussianPage(128, 64, 9);
      rows[3] = Row(64, 0.0f);
      for (size_t t = 0; t < 128; ++t) rows[t][11] = 0.0f;
      rows[5][7] = 2e6f;
      rows[6] = Row(64, 1e-30f);
      rows[9] = Row(64, -65504.0f);
      const std::vector<Row> decoded = subject.RoundTrip(rows);
      EXPECT_EQ(decoded[3], rows[3]);
      for (size_t t = 0; t < 128; ++t) {
        for (const float value : decoded[t]) ASSERT_TRUE(std::isfinite(value)) << scheme;
        if (t < 10) continue;
        EXPECT_LT(SquaredError(rows[t], decoded[t]), 0.7 * Dot(rows[t], rows[t]))
            << scheme << " " << t;
      }
    }
  }
}

TEST(Dual, WritesTheGoldenBytes) {
  const std::vector<Row> rows = {GoldenRow(16), Row(16, 1.0f), Row(16, -0.3f)};
  const auto bytes = [&](const char* scheme, Role role) {
    const PageSubject subject(scheme, 16, role);
    const Record header = subject.Learn(rows);
    return Hex(header) + " " + Hex(subject.Encode(header, rows[0]));
  };
  EXPECT_EQ(bytes("dual3", Role::kKey),
            "573d1d3c8b3a443a8d3be83ce83c8d3b443a8b3a1d3c573d7e3cfb3a2b3afb3a "
            "f03b896827ab1db1");
  EXPECT_EQ(bytes("dual4:codes=rtn", Role::kKey),
            "0a328c3f8830b83c07308e3b07308e3b07308e3b89318e3b89319b3e07308e3b"
            "07308e3b07308e3b88308e3b0a328e3b0931a93d07308e3b07308e3b07308e3b "
            "0d3f3495bc34a6bc44b8");
  EXPECT_EQ(bytes("dual5:codes=rtn", Role::kValue),
            "573d1d3c8b3a443a8d3be83ce83c8d3b443a8b3a1d3c573d7e3cfb3a2b3afb3a "
            "302efe3d60a4a97d28ccf22fcec3");
}

}  // namespace
}  // namespace polarquant
