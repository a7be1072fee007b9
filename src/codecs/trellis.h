// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the bitshift trellis of QTIP (Tseng et al. 2024) with 256 states. A block of
// T values is T * k bits, closed to a ring. The eight bits from bit t * k on are the state of
// channel t, and a table says what each state stands for. Neighbours share 8 - k bits, so a value
// is chosen from 256 although only k bits are its own.
#pragma once

#include <cstdint>

namespace polarquant {

inline constexpr int kTrellisStateBits = 8;
inline constexpr int kTrellisStates = 1 << kTrellisStateBits;
inline constexpr int kMaxTrellisBits = 4;

// A channel's value is scale * unit * levels[state].
struct TrellisTable {
  signed char levels[kTrellisStates];
  float unit;
};

// That of trellis1 ... trellis4; train_trellis.cc prints them.
const TrellisTable& TrellisTableOf(int bits);

// The codes [size] of the ring whose levels [kTrellisStates] come near x, which is given in the
// units of the levels: code t is bits t * k ... t * k + k - 1. And the state of each channel.
// size is even, size * bits at least 16, bits 1 to 4, size at most kMaxRotationBlock.
void EncodeTrellis(int bits, const float* levels, const float* x, int size, uint8_t* codes);
void StatesOf(int bits, const uint8_t* codes, int size, uint8_t* states);

}  // namespace polarquant
