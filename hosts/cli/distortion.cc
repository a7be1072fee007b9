// SPDX-License-Identifier: Apache-2.0
#include "distortion.h"

#include <algorithm>
#include <cmath>

namespace polarquant::cli {

void Distortion::Add(const float* rows, const float* decoded, int count) {
  for (int r = 0; r < count; ++r, rows += head_dim_, decoded += head_dim_) {
    double energy = 0;
    double decoded_energy = 0;
    double error = 0;
    double product = 0;
    for (int i = 0; i < head_dim_; ++i) {
      const double x = rows[i];
      const double y = decoded[i];
      energy += x * x;
      decoded_energy += y * y;
      error += (x - y) * (x - y);
      product += x * y;
    }
    ++num_rows_;
    energy_ += energy;
    error_ += error;
    product_ += product;
    if (energy == 0) continue;
    ++num_directions_;
    relative_errors_ += error / energy;
    const double cosine = decoded_energy > 0 ? product / std::sqrt(energy * decoded_energy) : 0;
    cosines_ += cosine;
    min_cosine_ = std::min(min_cosine_, cosine);
  }
}

double Distortion::relative() const { return energy_ > 0 ? error_ / energy_ : NAN; }

double Distortion::sqnr_db() const { return -10 * std::log10(relative()); }

double Distortion::gap_bits(double bits_per_value) const {
  return bits_per_value + 0.5 * std::log2(relative());
}

double Distortion::mean_cosine() const { return cosines_ / static_cast<double>(num_directions_); }

double Distortion::inner_product_bias() const { return product_ / energy_ - 1; }

double Distortion::inner_product_variance() const {
  return relative_errors_ / static_cast<double>(num_directions_);
}

}  // namespace polarquant::cli
