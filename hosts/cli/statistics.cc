// SPDX-License-Identifier: Apache-2.0
#include "statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace polarquant::cli {
namespace {

struct Normaliser {
  double log_sum;  // log of the sum of exponentials
  size_t top;      // the first of the largest logits
};

Normaliser Normalise(std::span<const float> logits) {
  const auto top = std::max_element(logits.begin(), logits.end());
  const double largest = *top;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return {largest + std::log(sum), static_cast<size_t>(top - logits.begin())};
}

}  // namespace

TokenScore CompareLogits(std::span<const float> base, std::span<const float> other, int32_t next) {
  const Normaliser base_norm = Normalise(base);
  const Normaliser other_norm = Normalise(other);
  // sum p (log p - log q) = sum p (b - o) - (log_sum_b - log_sum_o); subtracting the mean shift
  // inside the sum keeps its terms as small as the divergence itself.
  const double shift = base_norm.log_sum - other_norm.log_sum;
  double divergence = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const double difference = static_cast<double>(base[i]) - other[i] - shift;
    if (difference != 0) divergence += std::exp(base[i] - base_norm.log_sum) * difference;
  }
  TokenScore score;
  score.divergence = std::max(divergence, 0.0);
  score.log_likelihood = other[static_cast<size_t>(next)] - other_norm.log_sum;
  score.same_top = base_norm.top == other_norm.top;
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
