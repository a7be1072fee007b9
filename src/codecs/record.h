// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the 16-bit numbers of records and headers.
#pragma once

#include <cstddef>
#include <cstring>

#include "util/half.h"

namespace polarquant {

// Stores a finite number, beyond f16 as +-65504; returns what a reader will see.
inline float StoreHalf(float value, std::byte* at) {
  const uint16_t half = FloatToHalf(Sanitise(value));
  std::memcpy(at, &half, sizeof half);
  return HalfToFloat(half);
}

inline float LoadHalf(const std::byte* at) {
  uint16_t half = 0;
  std::memcpy(&half, at, sizeof half);
  return HalfToFloat(half);
}

// The same as bfloat16; any finite number but those within a thousandth of the largest float.
inline float StoreBfloat16(float value, std::byte* at) {
  const uint16_t rounded = FloatToBfloat16(value);
  std::memcpy(at, &rounded, sizeof rounded);
  return Bfloat16ToFloat(rounded);
}

inline float LoadBfloat16(const std::byte* at) {
  uint16_t rounded = 0;
  std::memcpy(&rounded, at, sizeof rounded);
  return Bfloat16ToFloat(rounded);
}

}  // namespace polarquant
