// SPDX-License-Identifier: Apache-2.0
// turboprod2 ... turboprod4: the paper's algorithm, its mean and its variance.
#include <gtest/gtest.h>

#include "codecs/pack.h"
#include "codecs/turbo.h"
#include "codecs/unbiased_testing.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

std::string Name(int bits) { return "turboprod" + std::to_string(bits); }

TEST(TurboProd, TakesTheNearestCodesUnderTheRowsOwnNorm) {
  GaussianRows rows(128, 1);
  for (int bits = 2; bits <= 4; ++bits) {
    const TurboBook& book = TurboBookOf(bits - 1);
    int differences = 0;
    for (int r = 0; r < 20; ++r) {
      const Row row = rows.Next();
      const Record record = Encode(Name(bits), row);
      uint8_t codes[128];
      UnpackCodes(record.data() + 4, 128, bits - 1, codes);
      const double deviation = std::sqrt(Dot(row, row) / 128.0);
      for (size_t i = 0; i < 128; ++i) {
        int nearest = 0;
        double best = 1e30;
        for (int c = 0; c < 1 << (bits - 1); ++c) {
          const double centroid = static_cast<double>(book.unit) * book.centroids[c];
          const double distance = std::abs(row[i] / deviation - centroid);
          if (distance < best) nearest = c;
          best = std::min(best, distance);
        }
        differences += nearest != codes[i] ? 1 : 0;
      }
    }
    EXPECT_LE(differences, 5) << bits;  // the stored norm is f16
  }
}

TEST(TurboProd, IsUnbiasedOverSignsAndRows) {
  for (int bits = 2; bits <= 4; ++bits) {
    for (const int head_dim : {64, 80, 112, 128}) {
      const Estimates estimates = EstimateProducts(Name(bits), head_dim, 400, 20);
      EXPECT_LT(estimates.standard_error, 0.0015);
      EXPECT_NEAR(estimates.ratio, 1.0, 4.0 * estimates.standard_error) << bits << " " << head_dim;
    }
  }
}

TEST(TurboProd, HasTheMeasuredVarianceOfOrthogonalSketches) {
  const double expected[3] = {0.204, 0.0655, 0.0192};
  // (1 / rho^2 - 1) times the distortion of b - 1 bits, for 64 as for 128.
  const double sphere_64[3] = {0.3583873608, 0.1145257568, 0.0333908341};
  for (int bits = 2; bits <= 4; ++bits) {
    EXPECT_NEAR(ProductVariance(Name(bits), 128) / expected[bits - 2], 1.0, 0.05) << bits;
    const double at_64 = 0.5586 * sphere_64[bits - 2];
    EXPECT_NEAR(ProductVariance(Name(bits), 64) / at_64, 1.0, 0.05) << bits;
    EXPECT_NEAR(QualityOf(Name(bits), 128).distortion / expected[bits - 2], 1.0, 0.02) << bits;
    EXPECT_NEAR(QualityOf(Name(bits), 64).distortion / at_64, 1.0, 0.025) << bits;
  }
}

TEST(TurboProd, LosesToTheUnbiasedScaleAtTheSameBits) {
  GaussianRows rows(128, 2);
  for (int bits = 2; bits <= 4; ++bits) {
    const Codec& turbo = FindCodec("turbo" + std::to_string(bits));
    double error = 0.0, energy = 0.0;
    for (int r = 0; r < 500; ++r) {
      const Row row = rows.Next();
      Record record(turbo.record_bytes(128));
      Row decoded(128);
      turbo.encode(row.data(), 128, ScaleRule::kUnbiased, record.data());
      turbo.decode(record.data(), 128, decoded.data());
      error += Dot(row, row) - 2.0 * Dot(row, decoded) + Dot(decoded, decoded);
      energy += Dot(row, row);
    }
    EXPECT_LT(error / energy, 0.7 * QualityOf(Name(bits), 128, 500).distortion) << bits;
  }
}

TEST(TurboProd, StoresTwoScalesABlock) {
  for (int bits = 2; bits <= 4; ++bits) {
    EXPECT_DOUBLE_EQ(BitsPerValue(Name(bits), 64), bits + 0.5);
    EXPECT_DOUBLE_EQ(BitsPerValue(Name(bits), 128), bits + 0.25);
    EXPECT_DOUBLE_EQ(BitsPerValue(Name(bits), 112), bits + 64.0 / 112);  // 96 + 16
  }
}

TEST(TurboProd, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("turboprod2", GoldenRow(32))), "e93c1e3838ce719c65d8bba5");
  EXPECT_EQ(Hex(Encode("turboprod3", GoldenRow(32))), "e93c8834904ef9a4433ae593bffc1ad9");
  EXPECT_EQ(Hex(Encode("turboprod4", GoldenRow(32))), "e93ca031d15847631db18ec63a1aeb887dcb3ba6");
  EXPECT_EQ(Hex(Encode("turboprod4", GoldenRow(112))),
            "e33ce53c9a315f31d15847631db18ec63a1aeb887534d6d15847aca3b18ec63a"
            "621d8d7534d611eb68aca3b18e5847631d8d9d96a9bde7078ea5c4a0afc64c20");
  EXPECT_EQ(Hex(Encode("turboprod2", Row(16, 0.0f))), "00000000ffff0000");
}

}  // namespace
}  // namespace polarquant
