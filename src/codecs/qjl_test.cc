// SPDX-License-Identifier: Apache-2.0
// qjl, qjl2, qjl4: the estimator, its mean and its variance.
#include <gtest/gtest.h>

#include "codecs/record.h"
#include "codecs/sketch.h"
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

// The paper's definition: |x| sqrt(pi/2) / m times the sum of sign(<s,x>) <s,q>.
TEST(Qjl, GivesTheVectorOfThePapersEstimator) {
  for (const int head_dim : {16, 80, 128}) {
    GaussianRows rows(head_dim, 3);
    const Row row = rows.Next(), query = rows.Next();
    double sum = 0.0;
    for (const int sketch : {0, 1}) {
      const float* s = GaussianSketch(head_dim, sketch);
      for (int i = 0; i < head_dim; ++i, s += head_dim) {
        const Row gaussian(s, s + head_dim);
        sum += Dot(gaussian, row) > 0.0 ? Dot(gaussian, query) : -Dot(gaussian, query);
      }
    }
    const double norm = std::sqrt(Dot(row, row));
    const double estimate = norm * std::sqrt(std::acos(0.0)) / (2.0 * head_dim) * sum;
    EXPECT_NEAR(Dot(query, RoundTrip("qjl2:rows=gaussian", row)), estimate,
                1e-3 * norm * std::sqrt(Dot(query, query)));
  }
}

TEST(Qjl, DrawsGaussianRowsFromN01) {
  double sum = 0.0, squares = 0.0, neighbours = 0.0;
  const float* s = GaussianSketch(128, 0);
  constexpr int kValues = 128 * 128;
  for (int i = 0; i < kValues; ++i) {
    sum += s[i];
    squares += static_cast<double>(s[i]) * s[i];
    neighbours += static_cast<double>(s[i]) * s[(i + 1) % kValues];
  }
  EXPECT_NEAR(sum / kValues, 0.0, 0.03);
  EXPECT_NEAR(squares / kValues, 1.0, 0.04);
  EXPECT_NEAR(neighbours / kValues, 0.0, 0.03);
  EXPECT_NE(*GaussianSketch(128, 1), *s);
}

// Unbiased over the draw of the rows, of which there is one: its mean length strays from sqrt(d) by
// 1 / sqrt(2 d m), relatively.
TEST(Qjl, IsUnbiasedWithGaussianRows) {
  for (const auto& [codec, sketches] : {std::pair{"qjl", 1}, {"qjl2", 2}, {"qjl4", 4}}) {
    for (const int head_dim : {64, 80, 128}) {
      const Estimates estimates =
          EstimateProducts(std::string(codec) + ":rows=gaussian", head_dim, 200, 10);
      const double draw = 1.0 / (head_dim * std::sqrt(2.0 * sketches));
      EXPECT_NEAR(estimates.ratio, 1.0, 3.0 * std::hypot(estimates.standard_error, draw))
          << codec << " " << head_dim;
    }
  }
}

// d / m (pi/2) - 1 / m of the row for m rows, and its d times that of a product.
TEST(Qjl, HasTheVarianceOfGaussianRows) {
  for (const auto& [codec, known] : {std::pair{"qjl", 1.547}, {"qjl2", 0.770}, {"qjl4", 0.393}}) {
    const std::string scheme = std::string(codec) + ":rows=gaussian";
    EXPECT_NEAR(QualityOf(scheme, 128, 1000).distortion / known, 1.0, 0.05) << codec;
    EXPECT_NEAR(ProductVariance(scheme, 128, 3000) / known, 1.0, 0.1) << codec;
  }
}

// Keys with loud channels, as models have them, and the queries that see them.
struct LoudRows {
  int head_dim;
  GaussianRows source{head_dim, 5};

  Row Next() {
    Row row = source.Next();
    for (size_t i = 0; i < 8; ++i) row[(5 * i + 3) % row.size()] *= 10.0f;
    return row;
  }
};

TEST(Qjl, IsUnbiasedWithOutliersApart) {
  for (const char* scheme :
       {"qjl:outliers=8", "qjl2:outliers=8", "qjl:rows=gaussian:outliers=8:rotate=none"}) {
    constexpr int kRows = 6000, kDim = 128;
    LoudRows rows{kDim};
    GaussianRows noise(kDim, 6);
    const bool rotated = Scheme::Parse(scheme).rotate;
    double estimates = 0.0, products = 0.0, squares = 0.0;
    VisitPages(
        scheme, kDim, kRows,
        [&] {
          Row row = rows.Next();
          if (rotated) Rotate(row.data(), kDim);
          return row;
        },
        [&](const Row& row, const Row& decoded) {
          Row query = noise.Next();
          for (size_t i = 0; i < kDim; ++i) query[i] += 0.2f * row[i];
          const double product = Dot(query, row), estimate = Dot(query, decoded);
          products += product;
          estimates += estimate;
          squares += (estimate - product) * (estimate - product);
        });
    EXPECT_NEAR(estimates / products, 1.0, 4.0 * std::sqrt(squares) / products + 0.008) << scheme;
  }
}

// The noise of a loud channel no longer reaches the quiet ones.
TEST(Qjl, GainsFromOutliersApart) {
  const auto variance = [](const std::string& scheme) {
    constexpr int kRows = 3000, kDim = 128;
    LoudRows rows{kDim};
    GaussianRows queries(kDim, 7);
    double sum = 0.0;
    VisitPages(
        scheme, kDim, kRows,
        [&] {
          Row row = rows.Next();
          Rotate(row.data(), kDim);
          return row;
        },
        [&](const Row& row, const Row& decoded) {
          const Row query = queries.Next();
          const double error = Dot(query, decoded) - Dot(query, row);
          sum += error * error / (Dot(query, query) * Dot(row, row));
        });
    return kDim * sum / kRows;
  };
  EXPECT_NEAR(variance("qjl2") / 0.283, 1.0, 0.08);
  EXPECT_LT(variance("qjl:outliers=8"), 0.5 * variance("qjl2"));  // the same bits
  EXPECT_LT(variance("qjl2:outliers=8"), variance("qjl:outliers=8"));
}

TEST(Qjl, CountsWhatOutliersCost) {
  EXPECT_NEAR(BitsPerValue("qjl2:outliers=8", 128), 3.26, 0.005);
  EXPECT_EQ(Subject("qjl:outliers=64", 128).record_bytes(), 2u + 16 + 2 + 16);
  EXPECT_EQ(Subject("qjl:outliers=1:rows=gaussian", 112).record_bytes(), 2u + 14 + 2 + 14);
  EXPECT_EQ(Subject("qjl:outliers=1", 112).coder().header_bytes(), 14u);
  EXPECT_EQ(Subject("qjl", 112).coder().header_bytes(), 0u);
  EXPECT_FALSE(Takes("qjl:outliers=64", 64));
  EXPECT_TRUE(Takes("qjl:outliers=63", 64));
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
  EXPECT_EQ(Hex(Encode("qjl:rows=gaussian", GoldenRow(32))), "e93c663f58f9");
  EXPECT_EQ(Hex(Encode("qjl:outliers=2", GoldenRow(32))), "5c3ce7fd2eb8823804296090");
  EXPECT_EQ(Hex(Encode("qjl2", Row(64, 0.0f))), std::string(36, '0'));
}

}  // namespace
}  // namespace polarquant
