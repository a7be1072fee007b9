// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the scale of a block and the search for the step that codes are assigned
// with, for codecs whose points are not a scalar codebook (turbo has its own, vectorised).
//
// Codes c under their best scale <c,x> / <c,c> leave the error |x|^2 - <c,x>^2 / <c,c>. So the step
// that decides which point is nearest is free: a few are tried and the codes that explain most are
// kept. Sums are in double, one after another, so that every compiler writes the same bytes.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "polarquant/scheme.h"
#include "util/half.h"

namespace polarquant {

// Half of what f16 rounds to its least number: rows below it are rows of zeros.
inline constexpr double kSmallestDeviation = 0x1p-26;

struct Fit {
  double dot = 0.0;     // <c,x>
  double energy = 0.0;  // <c,c>
  double scale() const { return energy > 0.0 ? dot / energy : 0.0; }
  double explained() const { return dot > 0.0 ? dot * scale() : 0.0; }
};

inline Fit FitOf(const float* x, const float* points, int size) {
  Fit fit;
  for (int i = 0; i < size; ++i) {
    const double point = points[i];
    fit.dot += point * static_cast<double>(x[i]);
    fit.energy += point * point;
  }
  return fit;
}

// The scale that a rule stores for codes of `fit` and a block of squared norm `energy`.
inline double ScaleOf(ScaleRule rule, const Fit& fit, double energy) {
  if (!(fit.dot > 0.0)) return 0.0;
  if (rule == ScaleRule::kMse) return fit.scale();
  return rule == ScaleRule::kNorm ? std::sqrt(energy / fit.energy) : energy / fit.dot;
}

// Root mean square of a block.
inline double DeviationOf(const float* x, int size) {
  return std::sqrt(FitOf(x, x, size).energy / size);
}

inline uint16_t ScaleToHalf(double scale) {
  return FloatToHalf(scale < static_cast<double>(kMaxHalf) ? static_cast<float>(scale) : kMaxHalf);
}

// assign(step, points) writes the code of each part of x / step and its point in units of the step.
// Tries `steps`, then the scale of the best of them, and leaves the codes of the winner assigned;
// the first of equals wins. Returns the winner's fit.
template <typename Assign>
Fit SearchStep(const float* x, int size, std::span<const float> steps, float* points,
               const Assign& assign) {
  Fit best;
  float best_step = steps.front();
  for (const float step : steps) {
    assign(step, points);
    const Fit fit = FitOf(x, points, size);
    if (!(fit.explained() > best.explained())) continue;
    best = fit;
    best_step = step;
  }
  if (best.scale() > 0.0) {
    assign(static_cast<float>(best.scale()), points);
    const Fit refined = FitOf(x, points, size);
    if (refined.explained() > best.explained()) return refined;
  }
  assign(best_step, points);
  return best;
}

}  // namespace polarquant
