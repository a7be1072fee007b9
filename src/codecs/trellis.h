// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the bitshift trellis of QTIP (Tseng et al. 2024). A block of T values is T *
// k bits, closed to a ring. The L bits from bit t * k on are the state of channel t, and a code
// says what value each of the 2^L states stands for. Neighbours share L - k bits, so a value is
// chosen from 2^L although only k bits are its own.
#pragma once

#include <cstdint>
#include <vector>

#include "math/random.h"

namespace polarquant {

inline constexpr int kMaxTrellisBits = 4;
inline constexpr int kMaxTrellisStateBits = 16;

struct Trellis {
  int bits;             // k, 1 to 4
  int state_bits;       // L, 8 to 16
  const float* levels;  // [2^L], what the states stand for

  int num_states() const { return 1 << state_bits; }
};

// The trained levels of 256 states: a channel's value is scale * unit * levels[state].
inline constexpr int kTrainedStateBits = 8;
inline constexpr int kTrainedStates = 1 << kTrainedStateBits;
struct TrellisTable {
  signed char levels[kTrainedStates];
  float unit;
};

// That of trellis1 ... trellis4; train_trellis.cc prints them.
const TrellisTable& TrellisTableOf(int bits);

// The quantiles of N(0, 1) in any order of which complementing all bits of a state negates its
// level: where training begins, and a good code for more states.
std::vector<float> ShuffledQuantiles(int state_bits, SplitMix64& generator);

// The code 1MAD of QTIP: the sum of the four bytes of a linear congruence of the state, which is
// close to N(0, 1) and needs no table.
float ComputedLevel(uint32_t state);

// The codes [size] of the ring whose levels come near x, which is given in the units of the levels:
// code t is bits t * k ... t * k + k - 1. And the state of each channel. size is even, size * bits
// at least state_bits, size at most kMaxRotationBlock.
void EncodeTrellis(const Trellis& trellis, const float* x, int size, uint8_t* codes);
void StatesOf(const Trellis& trellis, const uint8_t* codes, int size, uint16_t* states);

}  // namespace polarquant
