// SPDX-License-Identifier: Apache-2.0
#include "statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace polarquant::cli {
namespace {

std::vector<float> RandomLogits(unsigned seed, size_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

std::vector<double> Softmax(const std::vector<float>& logits) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  std::vector<double> probabilities;
  probabilities.reserve(logits.size());
  for (const float logit : logits) {
    probabilities.push_back(std::exp(static_cast<double>(logit)) / sum);
  }
  return probabilities;
}

TEST(BaseDistribution, AgreesWithTheDefinitionOnRandomLogits) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto base = RandomLogits(seed, 300);
    const auto other = RandomLogits(seed + 1000, 300);
    const auto p = Softmax(base);
    const auto q = Softmax(other);
    double expected = 0;
    for (size_t i = 0; i < p.size(); ++i) expected += p[i] * std::log(p[i] / q[i]);
    const TokenScore score = BaseDistribution(base).Compare(other, 7);
    EXPECT_NEAR(score.divergence, expected, 1e-9 * expected) << "seed " << seed;
    EXPECT_NEAR(score.log_likelihood, std::log(q[7]), 1e-9) << "seed " << seed;
  }
}

TEST(BaseDistribution, IsZeroForEqualLogitsAndForShiftedOnes) {
  const auto base = RandomLogits(1, 1000);
  EXPECT_EQ(BaseDistribution(base).Compare(base, 0).divergence, 0);
  auto shifted = base;
  for (float& logit : shifted) logit += 64;
  EXPECT_LT(BaseDistribution(base).Compare(shifted, 0).divergence, 1e-9);
  EXPECT_TRUE(BaseDistribution(base).Compare(shifted, 0).same_top);
}

TEST(BaseDistribution, ResolvesDivergencesFarBelowFloatPrecision) {
  // Two tokens, p = 1/2 each; a difference d of one logit gives KL = d^2 / 8 to second order.
  const std::vector<float> base = {0, 0};
  const std::vector<float> other = {0x1p-12f, 0};
  EXPECT_NEAR(BaseDistribution(base).Compare(other, 0).divergence, 0x1p-27, 0x1p-38);
}

TEST(BaseDistribution, SurvivesLogitsThatHideTokens) {
  const std::vector<float> base = {0, -1e30f, 5};
  const std::vector<float> other = {1, -2e30f, 4};
  const TokenScore score = BaseDistribution(base).Compare(other, 2);
  EXPECT_TRUE(std::isfinite(score.divergence));
  EXPECT_GT(score.divergence, 0);
}

TEST(BaseDistribution, SeesWhenTheFirstTokenDiffers) {
  const std::vector<float> base = {1, 2};
  const std::vector<float> other = {2, 1};
  EXPECT_FALSE(BaseDistribution(base).Compare(other, 0).same_top);
  EXPECT_TRUE(BaseDistribution(base).Compare(base, 0).same_top);
}

TEST(Scores, GivePerplexityMeanErrorAndShares) {
  Scores scores;
  scores.Add({1.0, std::log(0.5), true});
  scores.Add({3.0, std::log(0.125), false});
  EXPECT_DOUBLE_EQ(scores.perplexity(), 4.0);  // exp(-(log 1/2 + log 1/8) / 2)
  EXPECT_DOUBLE_EQ(scores.mean_divergence(), 2.0);
  EXPECT_DOUBLE_EQ(scores.divergence_error(), 1.0);  // deviation sqrt(2) over sqrt(2)
  EXPECT_DOUBLE_EQ(scores.max_divergence(), 3.0);
  EXPECT_DOUBLE_EQ(scores.same_top_share(), 0.5);
}

TEST(Quantile, InterpolatesBetweenSortedNeighbours) {
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.0), 1);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 1.0), 4);
  EXPECT_DOUBLE_EQ(Quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Quantile({5}, 0.99), 5);
  EXPECT_DOUBLE_EQ(Median({9, 1, 5}), 5);
}

}  // namespace
}  // namespace polarquant::cli
