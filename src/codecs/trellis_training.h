// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: where the tables of trellis1 ... trellis4 come from. Training is Lloyd's
// iteration with Viterbi's algorithm in place of the nearest neighbour: encode Gaussian rows, then
// move every level to the mean of the values it was chosen for.
#pragma once

#include "codecs/trellis.h"

namespace polarquant {

// Deterministic: its own generator with a fixed seed, and nothing whose last bit depends on the
// machine. Takes about a second.
TrellisTable TrainTrellis(int bits);

}  // namespace polarquant
