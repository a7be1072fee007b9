// SPDX-License-Identifier: Apache-2.0
// turbo2.5 and turbo3.5: which channels are loud, the three splits, their distortions on even and
// uneven channels, golden records.
#include <gtest/gtest.h>

#include <iterator>

#include "codecs/codecs_testing.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

Row ScaledRow(Row row, const std::vector<float>& factors) {
  for (size_t i = 0; i < row.size(); ++i) row[i] *= factors[i];
  return row;
}

double Distortion(const std::string& scheme, int head_dim, const std::vector<float>& factors) {
  GaussianRows rows(head_dim, 61);
  double sum = 0.0;
  constexpr int kRows = 2048;
  VisitPages(
      scheme, head_dim, kRows, [&] { return ScaledRow(rows.Next(), factors); },
      [&](const Row& row, const Row& decoded) {
        sum += SquaredError(row, decoded) / Dot(row, row);
      });
  return sum / kRows;
}

// `known` is for plain nearest codes under the exact norm, loud channels the same for all rows.
// Ours are searched for the step, which takes off what it does for turbo in blocks of 32 and 96.
// Even channels have no loud ones: choosing the loudest of a page gains a little there. Four very
// loud channels are too few for one Hadamard matrix of 32 to make them Gaussian, where the known
// figures have a random rotation: hence 8 % above.
TEST(TurboSplit, HasTheKnownDistortionsOrLess) {
  std::vector<float> even(128, 1.0f), four = even, many = even;
  for (size_t i = 0; i < 4; ++i) four[31 * i + 7] = 10.0f;
  for (size_t i = 0; i < 32; ++i) many[4 * i + 1] = 4.0f;
  struct Expected {
    const char* scheme;
    double known[3], measured[3];
  };
  const std::vector<float>* factors[] = {&even, &four, &many};
  for (const Expected& expected :
       {Expected{"turbo2.5", {0.0948, 0.0501, 0.0455}, {0.0877, 0.0417, 0.0400}},
        Expected{"turbo2.5:split=wide", {0.0887, 0.0283, 0.0258}, {0.0819, 0.0301, 0.0235}},
        Expected{"turbo2.5:split=half", {0.0739, 0.0460, 0.0422}, {0.0660, 0.0365, 0.0370}},
        Expected{"turbo3.5", {0.0276, 0.0133, 0.0128}, {0.02367, 0.01129, 0.01006}},
        Expected{"turbo3.5:split=wide", {0.0258, 0.0081, 0.0073}, {0.02237, 0.00814, 0.00632}}}) {
    for (size_t k = 0; k < std::size(factors); ++k) {
      const double distortion =
          Distortion(std::string(expected.scheme) + ":scale=mse", 128, *factors[k]);
      EXPECT_NEAR(distortion / expected.measured[k], 1.0, 0.02)
          << expected.scheme << " " << k << " " << distortion;
      EXPECT_LT(distortion, 1.08 * expected.known[k]) << expected.scheme << " " << k;
      EXPECT_GT(distortion, 0.75 * expected.known[k]) << expected.scheme << " " << k;
    }
  }
}

TEST(TurboSplit, TakesTheBitsOfItsSplit) {
  EXPECT_DOUBLE_EQ(BitsPerValue("turbo2.5", 128), 2.5 + 1.0 / 128);
  EXPECT_DOUBLE_EQ(BitsPerValue("turbo2.5:split=wide", 128), 2.75 + 1.0 / 128);
  EXPECT_DOUBLE_EQ(BitsPerValue("turbo2.5:split=half", 128), 2.75 + 1.0 / 128);
  EXPECT_DOUBLE_EQ(BitsPerValue("turbo3.5", 128), 3.5 + 1.0 / 128);
  EXPECT_DOUBLE_EQ(BitsPerValue("turbo3.5", 64), 3.75 + 1.0 / 128);
  EXPECT_EQ(Subject("turbo2.5", 80).record_bytes(), 2u + 2 + 6 + 16);          // 16 + 64
  EXPECT_EQ(Subject("turbo2.5:split=half", 80).record_bytes(), 4u + 12 + 12);  // 32 + 48
  EXPECT_EQ(Subject("turbo2.5", 1024).record_bytes(), 2u + 4 + 96 + 192);  // 256, 768 = 384 + 384
  EXPECT_FALSE(Takes("turbo3.5", 16));
  EXPECT_TRUE(Takes("turbo3.5:split=half", 32));
}

std::vector<int> LoudChannels(const Record& header) {
  std::vector<int> channels;
  for (size_t i = 0; i < 8 * header.size(); ++i) {
    const int byte = std::to_integer<int>(header[i / 8]);
    if ((byte >> (i % 8) & 1) != 0) channels.push_back(static_cast<int>(i));
  }
  return channels;
}

TEST(TurboSplit, LearnsTheLoudestChannelsOfAPage) {
  Subject subject("turbo2.5", 64);
  std::vector<int> expected;
  for (int i = 0; i < 16; ++i) expected.push_back(i);
  EXPECT_EQ(LoudChannels(subject.header()), expected);  // of no rows: the first ones
  GaussianRows rows(64, 62);
  std::vector<float> factors(64, 1.0f);
  expected.clear();
  for (size_t i = 0; i < 16; ++i) {
    factors[4 * i + 2] = 3.0f;
    expected.push_back(static_cast<int>(4 * i + 2));
  }
  std::vector<Row> page;
  for (int r = 0; r < kPageTokens; ++r) page.push_back(ScaledRow(rows.Next(), factors));
  subject.Learn(page);
  EXPECT_EQ(LoudChannels(subject.header()), expected);
}

TEST(TurboSplit, CodesEachSubsetAsTurboDoes) {
  Row row = GaussianRows(128, 63).Next();
  Subject subject("turbo3.5:split=wide", 128);
  std::vector<float> factors(128, 1.0f);
  for (size_t i = 96; i < 128; ++i) factors[i] = 5.0f;
  row = ScaledRow(row, factors);
  std::vector<Row> page(8, ScaledRow(Row(128, 1.0f), factors));
  subject.Learn(page);
  const Row decoded = subject.RoundTrip(row);
  for (const auto& [codec, first, size] : {std::tuple{"turbo3", 0, 96}, {"turbo5", 96, 32}}) {
    Row part(row.begin() + first, row.begin() + first + size);
    Rotate(part.data(), size);
    part = RoundTrip(codec, part);
    Unrotate(part.data(), size);
    EXPECT_EQ(part, Row(decoded.begin() + first, decoded.begin() + first + size)) << codec;
  }
}

TEST(TurboSplit, WritesTheGoldenRecords) {
  Row row = GoldenRow(48);
  for (size_t i = 0; i < 48; i += 3) row[i] *= 2.0f;
  struct Golden {
    const char *scheme, *header, *record;
  };
  for (const auto& [scheme, header, record] :
       {Golden{"turbo2.5", "611866198620", "e941d23c50dbce1e4bd2589e1b95207559a7"},
        Golden{"turbo3.5:split=wide", "611866198620",
               "e440043a615d7aa9db9acd1a69ccf04487b710ad80913c6a7491"}}) {
    Subject subject(scheme, 48);
    subject.Learn({row});
    EXPECT_EQ(Hex(subject.header()), header) << scheme;
    EXPECT_EQ(Hex(subject.Encode(row)), record) << scheme;
  }
}

}  // namespace
}  // namespace polarquant
