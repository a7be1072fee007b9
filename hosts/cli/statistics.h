// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. The figures of a comparison: Kullback-Leibler divergence between
// next-token distributions, quantiles, medians. Everything in double.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polarquant::cli {

// What one position tells about a cache.
struct TokenScore {
  double divergence = 0;      // KL(base || other), nats
  double log_likelihood = 0;  // of the next token under `other`
  bool same_top = false;      // both rank the same token first
};

// The next-token distribution of the 16-bit cache at one position, against which the logits of
// other caches are held: one exponential a token for each of them.
class BaseDistribution {
 public:
  explicit BaseDistribution(std::span<const float> logits);  // [num_vocab], kept by the caller
  // `logits` [num_vocab] of another cache, and the token that really came next.
  TokenScore Compare(std::span<const float> logits, int32_t next) const;

 private:
  std::span<const float> logits_;
  std::vector<double> probabilities_;
  double log_sum_;
  size_t top_;
};

// Collects token scores of one cache.
class Scores {
 public:
  void Add(const TokenScore& score);

  int64_t num_tokens() const { return static_cast<int64_t>(divergences_.size()); }
  double perplexity() const;
  double mean_divergence() const;
  double divergence_error() const;  // standard error of the mean
  double divergence_quantile(double share) const;
  double max_divergence() const;
  double same_top_share() const;

 private:
  std::vector<double> divergences_;
  double log_likelihood_ = 0;
  int64_t same_top_ = 0;
};

// The value below which a share of the sorted values lies, interpolated between neighbours.
// `values` must not be empty; it is reordered.
double Quantile(std::vector<double> values, double share);
inline double Median(std::vector<double> values) { return Quantile(std::move(values), 0.5); }

}  // namespace polarquant::cli
