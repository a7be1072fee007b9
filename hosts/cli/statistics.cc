// SPDX-License-Identifier: Apache-2.0
#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace polarquant::cli {
namespace {

size_t TopOf(std::span<const float> logits) {
  return static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

BaseDistribution::BaseDistribution(std::span<const float> logits)
    : logits_(logits), probabilities_(logits.size()), top_(TopOf(logits)) {
  const double largest = logits[top_];
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    probabilities_[i] = std::exp(logits[i] - largest);
    sum += probabilities_[i];
  }
  for (double& probability : probabilities_) probability /= sum;
  log_sum_ = largest + std::log(sum);
}

TokenScore BaseDistribution::Compare(std::span<const float> logits, int32_t next) const {
  const size_t top = TopOf(logits);
  const double largest = logits[top];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  const double log_sum = largest + std::log(sum);
  // sum p (log p - log q) = sum p (b - o) - (log_sum_b - log_sum_o); subtracting the mean shift
  // inside the sum keeps its terms as small as the divergence itself.
  const double shift = log_sum_ - log_sum;
  double divergence = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    divergence += probabilities_[i] * (static_cast<double>(logits_[i]) - logits[i] - shift);
  }
  TokenScore score;
  score.divergence = std::max(divergence, 0.0);
  score.log_likelihood = logits[static_cast<size_t>(next)] - log_sum;
  score.same_top = top_ == top;
  return score;
}

void Scores::Add(const TokenScore& score) {
  divergences_.push_back(score.divergence);
  log_likelihood_ += score.log_likelihood;
  same_top_ += score.same_top;
}

double Scores::perplexity() const {
  return std::exp(-log_likelihood_ / static_cast<double>(num_tokens()));
}

double Scores::mean_divergence() const {
  return std::accumulate(divergences_.begin(), divergences_.end(), 0.0) /
         static_cast<double>(num_tokens());
}

double Scores::divergence_error() const {
  if (num_tokens() < 2) return 0;
  const double mean = mean_divergence();
  double squares = 0;
  for (const double value : divergences_) squares += (value - mean) * (value - mean);
  const auto count = static_cast<double>(num_tokens());
  return std::sqrt(squares / (count - 1) / count);
}

double Scores::divergence_quantile(double share) const { return Quantile(divergences_, share); }

double Scores::max_divergence() const {
  return *std::max_element(divergences_.begin(), divergences_.end());
}

double Scores::same_top_share() const {
  return static_cast<double>(same_top_) / static_cast<double>(num_tokens());
}

double Quantile(std::vector<double> values, double share) {
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<ptrdiff_t>(place);
  std::nth_element(values.begin(), values.begin() + below, values.end());
  const double lower = values[static_cast<size_t>(below)];
  if (static_cast<size_t>(below) + 1 == values.size()) return lower;
  const double upper = *std::min_element(values.begin() + below + 1, values.end());
  return lower + (place - static_cast<double>(below)) * (upper - lower);
}

}  // namespace polarquant::cli
