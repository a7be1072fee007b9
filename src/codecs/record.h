// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the f16 numbers of records.
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

}  // namespace polarquant
