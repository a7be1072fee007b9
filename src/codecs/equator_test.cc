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

// The direction is sign(k) whatever the norm costs: 0.80 is all there is.
TEST(Equator, KnowsTheSignsWhateverTheBitsOfItsNorm) {
  for (int norm_bits = 4; norm_bits <= 16; ++norm_bits) {
    const std::string scheme = "equator:norm_bits=" + std::to_string(norm_bits);
    const double step = std::exp2(5 - norm_bits);  // in octaves
    for (const auto& [head_dim, cosine] : {std::pair{64, 0.801}, {128, 0.799}}) {
      const Quality quality = QualityOf(scheme, head_dim, 2000);
      EXPECT_NEAR(quality.cosine, cosine, 0.002) << scheme;
      const size_t norm_bytes = static_cast<size_t>(norm_bits + 7) / 8;
      EXPECT_EQ(Subject(scheme, head_dim).record_bytes(), norm_bytes + head_dim / 8);
    }
    GaussianRows rows(112, 3);
    for (int r = 0; r < 20; ++r) {
      const Row row = rows.Next(), decoded = RoundTrip(scheme, row);
      for (size_t i = 0; i < row.size(); ++i) EXPECT_EQ(decoded[i] > 0.0f, row[i] >= 0.0f);
      double energy = 0.0;
      for (size_t i = 0; i < 96; ++i) energy += std::pow(row[i], 2);
      const double norm = std::abs(decoded[0]) / SignCosine(96);
      EXPECT_LE(std::abs(std::log2(norm / std::sqrt(energy / 96.0))), 0.5001 * step + 1e-6);
    }
  }
  EXPECT_EQ(Encode("equator:norm_bits=8", GoldenRow(32)), Encode("equator", GoldenRow(32)));
}

TEST(Equator, HoldsTheNormsOfEveryRow) {
  for (const auto& [norm_bits, largest] : {std::pair{4, 13}, {5, 15}, {6, 16}, {16, 16}}) {
    const std::string scheme = "equator:norm_bits=" + std::to_string(norm_bits);
    for (int octave = -15; octave <= 16; ++octave) {
      const Row decoded = RoundTrip(scheme, Row(16, std::ldexp(1.0f, octave)));
      const double norm = std::log2(static_cast<double>(decoded[0] / SignCosine(16)));
      EXPECT_NEAR(norm, std::min(octave, largest), norm_bits == 4 ? 1.0 : 1e-6) << scheme;
    }
  }
  EXPECT_EQ(Hex(Encode("equator:norm_bits=4", Row(16, 0.0f))), "00ffff");
  EXPECT_EQ(Hex(Encode("equator:norm_bits=12", Row(16, 1.0f))), "8107ffff");  // 1 + 128 * 15
}

TEST(Equator, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("equator", GoldenRow(32))), "7b38ce719c");
  EXPECT_EQ(Hex(Encode("equator", GoldenRow(112))), "7b7b38ce719ce338c7718ee31cc7398e");
  EXPECT_EQ(Hex(Encode("equator", Row(16, 0.0f))), "00ffff");
}

}  // namespace
}  // namespace polarquant
