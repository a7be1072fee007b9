// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. What a codec does to rows: the error of the rows themselves, and
// of their inner products with queries. Everything in double.
#pragma once

#include <cstdint>

namespace polarquant::cli {

class Distortion {
 public:
  explicit Distortion(int head_dim) : head_dim_(head_dim) {}

  // `rows` and what they were decoded to, both [count][head_dim].
  void Add(const float* rows, const float* decoded, int count);

  int64_t num_rows() const { return num_rows_; }
  // D: the energy of the error over that of the rows.
  double relative() const;
  // -10 log10 D; infinite for exact rows.
  double sqnr_db() const;
  // How many bits a value are spent beyond what Shannon's bound for white Gaussian rows, D = 4^-R,
  // asks for at this D. Below 0 is possible for other rows: their bound is lower. Minus infinity
  // for exact rows.
  double gap_bits(double bits_per_value) const;

  // Of a row and its decoded one; rows of zeros have no direction and are left out. NaN if all are.
  double mean_cosine() const;
  double min_cosine() const { return num_directions_ > 0 ? min_cosine_ : mean_cosine(); }

  // Of inner products with queries q whose directions are all equally likely. Then
  // E <q,x'><q,x> = |q|^2 <x',x> / head_dim, so that both figures are exact means over all queries
  // and no query is drawn.
  // Slope of <q,x'> on <q,x>, minus one: -D with least-squares scales, 0 with unbiased ones.
  double inner_product_bias() const;
  // head_dim E(<q,x'> - <q,x>)^2 / (|q|^2 |x|^2), the mean over rows but those of zeros.
  double inner_product_variance() const;

 private:
  int head_dim_;
  int64_t num_rows_ = 0, num_directions_ = 0;
  double energy_ = 0, error_ = 0, product_ = 0;  // sums of |x|^2, |x - x'|^2, <x, x'>
  double cosines_ = 0, relative_errors_ = 0;     // sums over rows that are not zeros
  double min_cosine_ = 1;
};

}  // namespace polarquant::cli
