// SPDX-License-Identifier: Apache-2.0
// qjl, qjl2, qjl4: the estimator, its mean and its variance.
#include <gtest/gtest.h>

#include "codecs/record.h"
#include "codecs/unbiased_testing.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

using namespace codecs_testing;

TEST(Sketch, DrawsSignsOfItsOwn) {
  for (const int head_dim : {64, 96, 112}) {
    for (int a = 0; a < kMaxSketches; ++a) {
      const RotationPlan& plan = SketchPlanOf(head_dim, a);
      EXPECT_EQ(plan.head_dim, head_dim);
      EXPECT_EQ(plan.blocks.size(), RotationBlocks(head_dim).size());
      for (int b = -1; b < a; ++b) {  // -1: the rotation of the page
        const RotationPlan& other = b < 0 ? RotationPlanOf(head_dim) : SketchPlanOf(head_dim, b);
        int differences = 0;
        for (int i = 0; i < head_dim; ++i) {
          EXPECT_EQ(std::abs(plan.factors[i]), std::abs(other.factors[i]));
          differences += plan.factors[i] != other.factors[i] ? 1 : 0;
        }
        EXPECT_GT(differences, head_dim / 4);
        EXPECT_LT(differences, 3 * head_dim / 4);
      }
    }
  }
}

// The definition: |x| / (n a) times the sum over rows s of an orthonormal S of sign(<s,x>) <s,q>,
// with a = E|u_1| from the Gamma function.
TEST(Qjl, GivesTheVectorOfItsEstimator) {
  for (const int head_dim : {16, 64, 80, 128}) {
    GaussianRows rows(head_dim, 1);
    const double n = head_dim;
    const double a =
        std::exp(std::lgamma(n / 2) - std::lgamma((n + 1) / 2)) / std::sqrt(std::acos(-1.0));
    for (int r = 0; r < 20; ++r) {
      const Row row = rows.Next(), query = rows.Next();
      Row sketched_row = row, sketched_query = query;
      Rotate(SketchPlanOf(head_dim, 0), sketched_row.data());
      Rotate(SketchPlanOf(head_dim, 0), sketched_query.data());
      double sum = 0.0;
      for (size_t i = 0; i < row.size(); ++i) {
        sum += sketched_row[i] > 0.0f ? sketched_query[i] : -sketched_query[i];
      }
      const double norm = std::sqrt(Dot(row, row));
      const double estimate = norm / (n * a) * sum;
      EXPECT_NEAR(Dot(query, RoundTrip("qjl", row)), estimate,
                  1e-3 * norm * std::sqrt(Dot(query, query)));
    }
  }
}

TEST(Qjl, IsUnbiasedOverSignsAndRows) {
  for (const char* codec : {"qjl", "qjl2", "qjl4"}) {
    for (const int head_dim : {64, 80, 112, 128}) {
      const Estimates estimates = EstimateProducts(codec, head_dim, 400, 20);
      EXPECT_LT(estimates.standard_error, 0.0025);
      EXPECT_NEAR(estimates.ratio, 1.0, 4.0 * estimates.standard_error) << codec << " " << head_dim;
    }
  }
}

TEST(Qjl, HasTheVarianceOfOrthogonalRows) {
  // 1 / rho^2 - 1 with rho the expected cosine of a row and its signs (0.801, 0.799), an m-th of it
  // for m sketches. Gaussian rows leave pi/2 / m.
  for (const auto& [head_dim, cosine] : {std::pair{64, 0.801007}, std::pair{128, 0.799444}}) {
    const double one = 1.0 / (cosine * cosine) - 1.0;
    EXPECT_NEAR(ProductVariance("qjl", head_dim) / one, 1.0, 0.05) << head_dim;
    EXPECT_NEAR(ProductVariance("qjl2", head_dim) / (one / 2.0), 1.0, 0.05) << head_dim;
    EXPECT_NEAR(ProductVariance("qjl4", head_dim) / (one / 4.0), 1.0, 0.05) << head_dim;
    EXPECT_NEAR(QualityOf("qjl", head_dim).distortion / one, 1.0, 0.01) << head_dim;
    EXPECT_NEAR(QualityOf("qjl", head_dim).cosine, cosine, 0.002) << head_dim;
  }
  EXPECT_NEAR(ProductVariance("qjl", 128) / 0.566, 1.0, 0.05);
}

TEST(Qjl, NeedsRotatedRows) {
  // The magnitudes of a sketched one-hot row are all one: its estimate is sqrt(pi/2) times too long
  // whatever the signs. The rotation before takes that away.
  Row one_hot(128, 0.0f);
  one_hot[5] = 1.0f;
  EXPECT_NEAR(Dot(one_hot, RoundTrip("qjl", one_hot)), 1.25, 0.01);
  EXPECT_TRUE(FindCodec("qjl").info.rotates);
  double sum = 0.0;
  for (size_t i = 0; i < 128; ++i) {
    Row row(128, 0.0f);
    row[i] = 1.0f;
    Rotate(row.data(), 128);
    sum += Dot(row, RoundTrip("qjl", row)) / 128.0;
  }
  EXPECT_NEAR(sum, 1.0, 0.05);
}

TEST(Qjl, StoresKeysOnlyAndOneBitARow) {
  for (const auto& [codec, sketches] : {std::pair{"qjl", 1.0}, {"qjl2", 2.0}, {"qjl4", 4.0}}) {
    EXPECT_TRUE(FindCodec(codec).info.keys);
    EXPECT_FALSE(FindCodec(codec).info.values);
    EXPECT_DOUBLE_EQ(BitsPerValue(codec, 64), sketches + 0.25);
    EXPECT_DOUBLE_EQ(BitsPerValue(codec, 128), sketches + 0.125);
  }
}

TEST(Qjl, KeepsTheNormOfEachBlock) {
  Row row = GaussianRows(112, 2).Next();  // 96 + 16
  for (size_t i = 0; i < 96; ++i) row[i] *= 1000.0f;
  const Record record = Encode("qjl", row);
  double loud = 0.0, quiet = 0.0;
  for (size_t i = 0; i < 112; ++i) (i < 96 ? loud : quiet) += std::pow(row[i], 2);
  EXPECT_NEAR(LoadHalf(record.data()) / std::sqrt(loud / 96.0), 1.0, 1e-3);
  EXPECT_NEAR(LoadHalf(record.data() + 2) / std::sqrt(quiet / 16.0), 1.0, 1e-3);
}

TEST(Qjl, WritesTheGoldenRecords) {
  EXPECT_EQ(Hex(Encode("qjl", GoldenRow(32))), "e93ce5fd2eb8");
  EXPECT_EQ(Hex(Encode("qjl2", GoldenRow(32))), "e93ce5fd2eb842a0e521");
  EXPECT_EQ(Hex(Encode("qjl4", GoldenRow(112))),
            "e33ce53cf4e81189517c5c1ebb278e4de1a65fa330ae2d47129499caa7c4"
            "7d7fcc74ea60b4ba88f83e4e1d1fe08145f15bea78b4ffd41e6f7d46df73");
  EXPECT_EQ(Hex(Encode("qjl2", Row(64, 0.0f))), std::string(36, '0'));
}

}  // namespace
}  // namespace polarquant
