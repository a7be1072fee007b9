// SPDX-License-Identifier: Apache-2.0
// equator: its bits are the sides of the angles and the signs of the channels, which is the same;
// its decoder is the best recursion; and the cosine it really reaches.
#include <gtest/gtest.h>

#include <numbers>

#include "codecs/codecs_testing.h"
#include "math/sphere.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

bool BitOf(const Record& record, int channel) {
  const size_t byte = 1 + static_cast<size_t>(channel) / 8;
  return (std::to_integer<int>(record[byte]) >> (channel % 8) & 1) != 0;
}

double NormByteOf(const Record& record) { return std::to_integer<int>(record[0]); }

TEST(Equator, IsTheSideOfEveryAngleAndTheSignOfEveryChannel) {
  for (const int head_dim : {64, 128}) {
    GaussianRows rows(head_dim, 1);
    for (int r = 0; r < 50; ++r) {
      const Row row = rows.Next();
      const Record record = Encode("equator", row);
      double tail = 0.0;  // |k_i ... k_n|^2
      for (int i = head_dim - 1; i >= 0; --i) {
        const double k = row[static_cast<size_t>(i)];
        tail += k * k;
        const bool above = std::acos(k / std::sqrt(tail)) < std::numbers::pi / 2;
        EXPECT_EQ(BitOf(record, i), above);
        EXPECT_EQ(BitOf(record, i), k > 0.0);
      }
    }
  }
}

// The document's recursion with the mean cosine and the mean sine of every angle.
Row DecodedByRecursion(const Record& record, int head_dim, double norm) {
  Row row(static_cast<size_t>(head_dim));
  const double root_pi = std::sqrt(std::numbers::pi);
  double radius = norm;
  for (int i = 0; i < head_dim; ++i) {
    const double m = head_dim - i;  // channels that are left
    const double half = std::lgamma(m / 2), more = std::lgamma((m + 1) / 2);
    const double cosine = m > 1 ? std::exp(half - more) / root_pi : 1.0;
    row[static_cast<size_t>(i)] =
        static_cast<float>(BitOf(record, i) ? radius * cosine : -radius * cosine);
    if (m > 1) radius *= std::exp(2 * half - more - std::lgamma((m - 1) / 2));
  }
  return row;
}

TEST(Equator, DecodesAsTheBestRecursionDoes) {
  for (const int head_dim : {16, 64, 80, 128}) {
    GaussianRows rows(head_dim, 2);
    for (int r = 0; r < 20; ++r) {
      const Record record = Encode("equator", rows.Next());
      const double norm =
          std::exp2((NormByteOf(record) - 1) / 8 - 15) * std::sqrt(static_cast<double>(head_dim));
      const Row decoded = Decode("equator", record, head_dim);
      const Row recursion = DecodedByRecursion(record, head_dim, norm);
      for (size_t i = 0; i < decoded.size(); ++i) EXPECT_NEAR(decoded[i], recursion[i], 1e-5);
    }
  }
}

TEST(Sphere, HasThePublishedCosinesOfSigns) {
  for (const auto& [size, cosine] :
       {std::pair{64, 0.801007}, std::pair{80, 0.800382}, std::pair{96, 0.799965},
        std::pair{128, 0.799444}, std::pair{256, 0.798664}}) {
    EXPECT_NEAR(SignCosine(size), cosine, 6e-7) << size;
  }
  for (int size = 16; size <= kMaxHeadDim; size += 16) {
    const double exact = std::exp(std::lgamma(size / 2.0) - std::lgamma((size + 1) / 2.0)) *
                         std::sqrt(size / std::numbers::pi);
    EXPECT_NEAR(SignCosine(size), exact, 2e-7) << size;
  }
}

TEST(Equator, ReachesACosineOfFourFifths) {
  for (const auto& [head_dim, cosine, distortion] :
       {std::tuple{64, 0.80091, 0.3586}, std::tuple{128, 0.79927, 0.3612}}) {
    const Quality quality = QualityOf("equator", head_dim);
    EXPECT_NEAR(quality.cosine, cosine, 0.002) << head_dim;
    EXPECT_NEAR(quality.distortion / distortion, 1.0, 0.01) << head_dim;
    EXPECT_DOUBLE_EQ(BitsPerValue("equator", head_dim), 1.0 + 8.0 / head_dim);
  }
}

TEST(Equator, RoundsNormsToEighthsOfAnOctave) {
  for (int code = 1; code < 256; ++code) {
    const double r = std::exp2((code - 1) / 8.0 - 15.0);
    for (const double off : {-0.49, 0.0, 0.49}) {
      const Row row(64, static_cast<float>(r * std::exp2(off / 8.0)));
      EXPECT_EQ(NormByteOf(Encode("equator", row)), code) << off;
    }
  }
  EXPECT_EQ(NormByteOf(Encode("equator", Row(64, 0x1p-15f))), 1);
  EXPECT_EQ(NormByteOf(Encode("equator", Row(64, 0x1p-16f))), 1);
  EXPECT_EQ(NormByteOf(Encode("equator", Row(64, 0x1.fp-17f))), 0);
  EXPECT_EQ(NormByteOf(Encode("equator", Row(64, 2.1e6f))), 255);
}

TEST(Equator, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("equator", GoldenRow(32))), "7b38ce719c");
  EXPECT_EQ(Hex(Encode("equator", GoldenRow(112))), "7b7b38ce719ce338c7718ee31cc7398e");
  EXPECT_EQ(Hex(Encode("equator", Row(16, 0.0f))), "00ffff");
}

}  // namespace
}  // namespace polarquant
