// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the codebooks of turbo1 ... turbo8, for those who encode or decode faster.
#pragma once

namespace polarquant {

// Centroids and thresholds count in steps of `unit` standard deviations: a value is
// scale * unit * centroids[code]. For 1 to 4 bits the centroids are whole numbers within -127..127
// and the thresholds whole or half ones, so both are exact; for 5 to 8 bits unit is 1.
struct TurboBook {
  int bits;
  const float* centroids;   // [2^bits], ascending
  const float* thresholds;  // [2^bits - 1]: threshold i lies between centroids i and i + 1
  float unit;
};

inline constexpr int kMaxInt8Bits = 4;  // the widest codebook on the int8 grid

// bits 1..8. Lives for the life of the program. Thread-safe.
const TurboBook& TurboBookOf(int bits);

}  // namespace polarquant
