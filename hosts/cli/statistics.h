// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. The figures of a comparison: Kullback-Leibler divergence between
// next-token distributions, quantiles, medians. Everything in double.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace polarquant::cli {

// What one position tells about a cache: logits of the 16-bit cache (`base`) against logits of the
// cache looked at, both [num_vocab], and the token that really came next.
struct TokenScore {
  double divergence = 0;      // KL(base || other), nats
  double log_likelihood = 0;  // of the next token under `other`
  bool same_top = false;      // both rank the same token first
};
TokenScore CompareLogits(std::span<const float> base, std::span<const float> other, int32_t next);

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
