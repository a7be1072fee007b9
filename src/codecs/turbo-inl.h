// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: one block of a rotated row to codes and a scale, to be compiled once for
// every instruction set (internal linkage, as math/rotation-inl.h says).
//
// The error that codes c leave under the best scale is |x|^2 - <c,x>^2 / |c|^2: it falls with the
// cosine of c and x, whatever the scale rule. So the codes are those of the largest cosine among a
// few steps (a step is the width of one unit of the codebook) around the block's deviation, then
// once more from the least-squares step of the best. Against codes from the deviation alone, D
// falls by 9 % at 3 bits and 20 % at 4 bits for blocks of 64 (6 % and 14 % for 128), and a search
// over every step would gain 1 % more: turbo_test measures it. Plain alternation of codes and scale
// stops in the first of many local minima, at 5 % and 8 %.
//
// Every target must write the same bytes, so whoever writes this with intrinsics keeps:
//
//   sums     sixteen lanes, folded (math/lane_sum-inl.h), of products rounded before they are added
//   code     half + m for x * inverse >= 0, else half - 1 - m: m is the number of positive
//            thresholds t with |x * inverse| >= t, inverse = 1 / step, half = 2^(bits - 1)
//   steps    deviation * unit * kSearch[i], deviation = sqrt(<x,x> / size); the first best wins;
//   then
//            the <c,x> / <c,c> of the best, if it is better
//   scale    step / unit with step = <c,x> / <c,c> (mse), sqrt(<x,x> / <c,c>) (norm) or
//            <x,x> / <c,x> (unbiased); at most 65504, rounded to f16
//
// A block whose deviation is below kSmallest, or whose scale rounds to 0, has scale 0 and the codes
// of zeros.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "codecs/turbo.h"
#include "math/lane_sum-inl.h"
#include "polarquant/scheme.h"
#include "util/half.h"

namespace polarquant {
namespace {

inline constexpr float kSearch[] = {0.76f, 0.84f, 0.92f, 1.0f, 1.08f, 1.16f};
inline constexpr float kSmallest = 0x1p-26f;  // half of what f16 rounds to its least number

// What codes assigned with a step amount to.
struct TurboFit {
  float step;
  float dot;     // <c,x>
  float energy;  // <c,c>
  float explained() const { return dot * dot / energy; }
};

// How far from zero the values lie: the number of positive thresholds passed, and the positive
// centroid there. Counting vectorises and is exact for the whole numbers of narrow codebooks.
template <int kBits>
inline void AssignMagnitudes(const TurboBook& book, const FloatVector& magnitude, IntVector* passed,
                             FloatVector* centroid) {
  constexpr int kHalf = 1 << (kBits - 1);
  const FloatVector zero = {};
  *passed = IntVector{};
  *centroid = zero + book.centroids[kHalf];
  for (int t = 0; t < kHalf - 1; ++t) {
    const IntVector above = magnitude >= zero + book.thresholds[kHalf + t];
    const FloatVector gap = zero + (book.centroids[kHalf + t + 1] - book.centroids[kHalf + t]);
    *passed -= above;
    *centroid += above ? gap : zero;
  }
}

// The same for codebooks of any width, by searching.
template <>
inline void AssignMagnitudes<0>(const TurboBook& book, const FloatVector& magnitude,
                                IntVector* passed, FloatVector* centroid) {
  const int half = 1 << (book.bits - 1);
  float value[kVectorFloats], nearest[kVectorFloats];
  int index[kVectorFloats] = {};
  std::memcpy(value, &magnitude, sizeof value);
  for (int step = half / 2; step > 0; step /= 2) {
    for (int l = 0; l < kVectorFloats; ++l) {
      const int passes = value[l] >= book.thresholds[half + index[l] + step - 1];
      index[l] += step * passes;  // no branch: every other one would be mispredicted
    }
  }
  for (int l = 0; l < kVectorFloats; ++l) nearest[l] = book.centroids[half + index[l]];
  std::memcpy(passed, index, sizeof index);
  std::memcpy(centroid, nearest, sizeof nearest);
}

// Assigns `size` values with a step; writes their codes if `codes` is not null.
template <int kBits>
inline TurboFit AssignCodes(const TurboBook& book, const float* x, int size, float step,
                            uint8_t* codes) {
  const float inverse = 1.0f / step;
  const int half = 1 << (book.bits - 1);
  const FloatVector zero = {};
  Lanes dot, energy;
  for (int i = 0; i < size; i += kSumLanes) {
    for (int p = 0; p < kVectors; ++p) {
      FloatVector value, centroid;
      IntVector passed;
      LoadVector(x + i + p * kVectorFloats, &value);
      const IntVector negative = value < zero;
      const FloatVector magnitude = negative ? -value : value;
      AssignMagnitudes<kBits>(book, magnitude * inverse, &passed, &centroid);
      dot.part[p] += centroid * magnitude;
      energy.part[p] += centroid * centroid;
      if (codes == nullptr) continue;
      const IntVector code = (passed ^ negative) + half;  // ~passed is -1 - passed
      for (int l = 0; l < kVectorFloats; ++l) {
        codes[i + p * kVectorFloats + l] = static_cast<uint8_t>(code[l]);
      }
    }
  }
  return {step, FoldLanes(dot), FoldLanes(energy)};
}

template <int kBits>
inline TurboFit SearchCodes(const TurboBook& book, const float* x, int size, float deviation,
                            uint8_t* codes) {
  TurboFit best = {};
  float best_explained = 0.0f;
  for (const float factor : kSearch) {
    const float step = deviation * book.unit * factor;
    const TurboFit fit = AssignCodes<kBits>(book, x, size, step, nullptr);
    if (!(fit.explained() > best_explained)) continue;
    best = fit;
    best_explained = fit.explained();
  }
  const TurboFit refined = AssignCodes<kBits>(book, x, size, best.dot / best.energy, codes);
  if (refined.explained() > best_explained) return refined;
  return AssignCodes<kBits>(book, x, size, best.step, codes);
}

inline TurboFit SearchCodes(const TurboBook& book, const float* x, int size, float deviation,
                            uint8_t* codes) {
  if (book.bits == 1) return SearchCodes<1>(book, x, size, deviation, codes);
  if (book.bits == 2) return SearchCodes<2>(book, x, size, deviation, codes);
  if (book.bits == 3) return SearchCodes<3>(book, x, size, deviation, codes);
  if (book.bits == 4) return SearchCodes<4>(book, x, size, deviation, codes);
  return SearchCodes<0>(book, x, size, deviation, codes);
}

// `x` is finite, `size` a multiple of 16. Returns the f16 scale.
inline uint16_t EncodeTurboBlock(const TurboBook& book, const float* x, int size, ScaleRule rule,
                                 uint8_t* codes) {
  const float norm2 = SquaredNorm(x, size);
  const float deviation = std::sqrt(norm2 / static_cast<float>(size));
  uint16_t scale = 0;
  if (deviation >= kSmallest) {
    const TurboFit fit = SearchCodes(book, x, size, deviation, codes);
    const float step = rule == ScaleRule::kMse    ? fit.dot / fit.energy
                       : rule == ScaleRule::kNorm ? std::sqrt(norm2 / fit.energy)
                                                  : norm2 / fit.dot;
    const float deviations = step / book.unit;
    scale = FloatToHalf(deviations < kMaxHalf ? deviations : kMaxHalf);
  }
  if (scale == 0) {
    for (int i = 0; i < size; ++i) codes[i] = static_cast<uint8_t>(1 << (book.bits - 1));
  }
  return scale;
}

}  // namespace
}  // namespace polarquant
