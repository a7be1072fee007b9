// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: solving for the Lloyd-Max quantisers of N(0, 1).
//
// Positive half only: centroids c_0 < ... < c_{n-1}, thresholds t_0 = 0, t_i = (c_{i-1} + c_i) / 2,
// t_n = infinity. Optimal when c_i = g(t_i, t_{i+1}), the mean of the cell.
#include "math/lloyd_max.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <string>

#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double Density(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);  // 0 at infinity
}
double UpperTail(double x) { return 0.5 * std::erfc(x / std::numbers::sqrt2); }
double Mass(double a, double b) { return UpperTail(a) - UpperTail(b); }
double FirstMoment(double a, double b) { return Density(a) - Density(b); }

// x >= 0 with UpperTail(x) = tail, by bisection to double precision.
double InverseUpperTail(double tail) {
  double low = 0.0, high = 40.0;
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (UpperTail(middle) > tail ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

// The half's thresholds with both ends: 0, midpoints, infinity.
std::vector<double> Edges(const std::vector<double>& half) {
  std::vector<double> edges{0.0};
  for (size_t i = 1; i < half.size(); ++i) edges.push_back(0.5 * (half[i - 1] + half[i]));
  edges.push_back(kInfinity);
  return edges;
}

// Solves for a step of Newton's method on c_i - g(t_i, t_{i+1}) = 0 and takes it; returns the
// largest change. The Jacobian is tridiagonal: every threshold moves by half of each neighbour.
double NewtonStep(std::vector<double>& half) {
  const size_t n = half.size();
  const std::vector<double> t = Edges(half);
  std::vector<double> residual(n), lower(n, 0.0), diagonal(n), upper(n, 0.0);
  for (size_t i = 0; i < n; ++i) {
    const double mass = Mass(t[i], t[i + 1]);
    const double mean = FirstMoment(t[i], t[i + 1]) / mass;
    residual[i] = half[i] - mean;
    diagonal[i] = 1.0;
    if (i > 0) {
      lower[i] = -0.5 * Density(t[i]) * (mean - t[i]) / mass;
      diagonal[i] += lower[i];
    }
    if (i + 1 < n) {
      upper[i] = -0.5 * Density(t[i + 1]) * (t[i + 1] - mean) / mass;
      diagonal[i] += upper[i];
    }
  }
  for (size_t i = 1; i < n; ++i) {
    const double factor = lower[i] / diagonal[i - 1];
    diagonal[i] -= factor * upper[i - 1];
    residual[i] -= factor * residual[i - 1];
  }
  double largest = 0.0;
  for (size_t i = n; i-- > 0;) {
    if (i + 1 < n) residual[i] -= upper[i] * residual[i + 1];
    residual[i] /= diagonal[i];
    largest = std::max(largest, std::abs(residual[i]));
    half[i] -= residual[i];
  }
  return largest;
}

std::vector<double> Mirrored(const std::vector<double>& half) {
  std::vector<double> all;
  for (size_t i = half.size(); i-- > 0;) all.push_back(-half[i]);
  all.insert(all.end(), half.begin(), half.end());
  return all;
}

void CheckBits(int bits, int limit) {
  if (bits >= 1 && bits <= limit) return;
  throw Error(ErrorCode::kParameter, "a codebook of " + std::to_string(bits) +
                                         " bits was asked for: 1 to " + std::to_string(limit) +
                                         " are possible");
}

}  // namespace

std::vector<double> Midpoints(const std::vector<double>& centroids) {
  std::vector<double> thresholds;
  for (size_t i = 1; i < centroids.size(); ++i) {
    thresholds.push_back(0.5 * (centroids[i - 1] + centroids[i]));
  }
  return thresholds;
}

LloydMax SolveLloydMax(int bits) {
  CheckBits(bits, kMaxCodeBits);
  const size_t n = size_t{1} << (bits - 1);
  // Panter and Dite's point density, then Lloyd's iteration to come near, then Newton.
  std::vector<double> half(n);
  for (size_t i = 0; i < n; ++i) {
    const double tail = 0.5 - (static_cast<double>(i) + 0.5) / (2.0 * static_cast<double>(n));
    half[i] = std::numbers::sqrt3 * InverseUpperTail(tail);
  }
  for (int step = 0; step < 300; ++step) {
    const std::vector<double> t = Edges(half);
    for (size_t i = 0; i < n; ++i) half[i] = FirstMoment(t[i], t[i + 1]) / Mass(t[i], t[i + 1]);
  }
  for (int step = 0; step < 50 && NewtonStep(half) > 1e-15; ++step) {
  }
  LloydMax solution;
  solution.centroids = Mirrored(half);
  solution.thresholds = Midpoints(solution.centroids);
  return solution;
}

double GaussianDistortion(const std::vector<double>& centroids,
                          const std::vector<double>& thresholds) {
  double distortion = 1.0;
  for (size_t i = 0; i < centroids.size(); ++i) {
    const double a = i == 0 ? -kInfinity : thresholds[i - 1];
    const double b = i + 1 == centroids.size() ? kInfinity : thresholds[i];
    const double c = centroids[i];
    distortion += c * (c * Mass(a, b) - 2.0 * FirstMoment(a, b));
  }
  return distortion;
}

Int8Codebook SolveInt8Codebook(int bits) {
  constexpr int kMaxInt8Bits = 4;
  CheckBits(bits, kMaxInt8Bits);
  const LloydMax exact = SolveLloydMax(bits);
  const double top = exact.centroids.back();
  Int8Codebook best;
  double best_distortion = kInfinity;
  // The outermost centroid falls on 100..127: finer grids than that serve nobody, coarser ones
  // lose.
  constexpr int kTrials = 2749;
  for (int trial = 0; trial <= kTrials; ++trial) {
    const float unit = static_cast<float>(top / (100.0 + 0.01 * trial));
    Int8Codebook book{{}, unit};
    std::vector<double> rounded;
    for (const double c : exact.centroids) {
      book.steps.push_back(static_cast<signed char>(std::lround(c / static_cast<double>(unit))));
      rounded.push_back(static_cast<double>(unit) * book.steps.back());
    }
    const double distortion = GaussianDistortion(rounded, Midpoints(rounded));
    if (distortion < best_distortion) {
      best_distortion = distortion;
      best = book;
    }
  }
  return best;
}

}  // namespace polarquant
