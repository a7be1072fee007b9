// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: affine grids, evenly spaced levels between the ends of a group of values.
//
//   scale = (max - min) / (2^b - 1), shift = 0 - min, both rounded to f16
//   code  = (x + shift) / scale to nearest, ties to even, within 0 .. 2^b - 1
//   value = code * scale - shift
//
// A group without extent has scale 0 and codes 0: its value is -shift.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>

#include "codecs/codec.h"
#include "codecs/record.h"

namespace polarquant {

inline constexpr size_t kAffineBytes = 4;  // f16 scale, f16 shift

struct Affine {
  float scale = 0.0f, shift = 0.0f;

  uint8_t CodeOf(float x, int bits) const {
    if (!(scale > 0.0f)) return 0;
    const float top = static_cast<float>((1 << bits) - 1);
    return static_cast<uint8_t>(std::nearbyint(std::clamp((x + shift) / scale, 0.0f, top)));
  }
  float ValueOf(uint8_t code) const { return static_cast<float>(code) * scale - shift; }
};

// Stores the grid of a group with these ends; returns it as a reader will see it.
inline Affine StoreAffine(float low, float high, int bits, std::byte* at) {
  const float top = static_cast<float>((1 << bits) - 1);
  const float scale = StoreHalf((high - low) / top, at);
  return {scale, StoreHalf(0.0f - low, at + 2)};
}

inline Affine LoadAffine(const std::byte* at) { return {LoadHalf(at), LoadHalf(at + 2)}; }

// How the shift of a group is found.
enum class AffineFit { kMinMax, kHqq };

// Rows in groups of neighbouring channels, each with a grid of its own (int_groups.cc).
std::unique_ptr<const Coder> MakeAffineRows(int bits, int head_dim, int group, AffineFit fit);

}  // namespace polarquant
