// SPDX-License-Identifier: Apache-2.0
#include "distortion.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace polarquant::cli {
namespace {

constexpr int kHeadDim = 64;
constexpr int kRows = 2000;

std::vector<float> Normal(unsigned seed, int count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count) * kHeadDim);
  for (float& value : values) value = normal(random);
  return values;
}

// A quantiser that is no quantiser: x' = gain * x + noise.
std::vector<float> Faked(const std::vector<float>& rows, float gain, float noise) {
  std::vector<float> faked = Normal(2, kRows);
  for (size_t i = 0; i < rows.size(); ++i) faked[i] = gain * rows[i] + noise * faked[i];
  return faked;
}

TEST(Distortion, OfAShrinkingQuantiserIsItsGain) {
  const std::vector<float> rows = Normal(1, kRows);
  Distortion distortion(kHeadDim);
  distortion.Add(rows.data(), Faked(rows, 0.5f, 0).data(), kRows);
  EXPECT_EQ(distortion.num_rows(), kRows);
  EXPECT_NEAR(distortion.relative(), 0.25, 1e-12);
  EXPECT_NEAR(distortion.sqnr_db(), 6.0206, 1e-4);
  EXPECT_NEAR(distortion.gap_bits(3), 2, 1e-12);  // the bound is one bit at D = 1/4
  EXPECT_NEAR(distortion.mean_cosine(), 1, 1e-6);
  EXPECT_NEAR(distortion.min_cosine(), 1, 1e-6);
  EXPECT_NEAR(distortion.inner_product_bias(), -0.5, 1e-12);
  EXPECT_NEAR(distortion.inner_product_variance(), 0.25, 1e-12);
}

TEST(Distortion, OfAnUnbiasedNoiseIsItsEnergy) {
  const std::vector<float> rows = Normal(1, kRows);
  Distortion distortion(kHeadDim);
  distortion.Add(rows.data(), Faked(rows, 1, 0.2f).data(), kRows);
  EXPECT_NEAR(distortion.relative(), 0.04, 0.0005);
  EXPECT_NEAR(distortion.inner_product_bias(), 0, 0.002);
  EXPECT_NEAR(distortion.mean_cosine(), 1 / std::sqrt(1.04), 0.001);
  EXPECT_LT(distortion.min_cosine(), distortion.mean_cosine());
}

// What inner_product_bias and _variance say without drawing queries, with queries drawn.
TEST(Distortion, AgreesWithDrawnQueries) {
  const std::vector<float> rows = Normal(1, kRows);
  const std::vector<float> decoded = Faked(rows, 0.9f, 0.3f);
  Distortion distortion(kHeadDim);
  distortion.Add(rows.data(), decoded.data(), kRows);
  const int num_queries = 50;
  const std::vector<float> queries = Normal(3, num_queries);
  double both = 0;
  double exact = 0;
  double variance = 0;
  const auto dot = [](const float* a, const float* b) {
    double sum = 0;
    for (int i = 0; i < kHeadDim; ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
  };
  for (int r = 0; r < kRows; ++r) {
    const float* row = &rows[static_cast<size_t>(r) * kHeadDim];
    const float* other = &decoded[static_cast<size_t>(r) * kHeadDim];
    for (int n = 0; n < num_queries; ++n) {
      const float* query = &queries[static_cast<size_t>(n) * kHeadDim];
      const double right = dot(query, row);
      const double wrong = dot(query, other);
      both += right * wrong;
      exact += right * right;
      variance += kHeadDim * (wrong - right) * (wrong - right) /
                  (dot(query, query) * dot(row, row) * kRows * num_queries);
    }
  }
  EXPECT_NEAR(distortion.inner_product_bias(), both / exact - 1, 0.005);
  EXPECT_NEAR(distortion.inner_product_variance(), variance, 0.002);
}

TEST(Distortion, RowsOfZerosHaveNoDirection) {
  std::vector<float> rows = Normal(1, 2);
  std::fill(rows.begin(), rows.begin() + kHeadDim, 0.0f);
  Distortion distortion(kHeadDim);
  distortion.Add(rows.data(), rows.data(), 2);
  EXPECT_EQ(distortion.num_rows(), 2);
  EXPECT_EQ(distortion.relative(), 0);
  EXPECT_NEAR(distortion.min_cosine(), 1, 1e-12);
  EXPECT_EQ(distortion.inner_product_variance(), 0);
}

TEST(Distortion, OfExactRowsHasNoDecibels) {
  const std::vector<float> rows = Normal(1, 1);
  Distortion distortion(kHeadDim);
  distortion.Add(rows.data(), rows.data(), 1);
  EXPECT_TRUE(std::isinf(distortion.sqnr_db()));
  EXPECT_TRUE(std::isinf(distortion.gap_bits(32)));
}

}  // namespace
}  // namespace polarquant::cli
