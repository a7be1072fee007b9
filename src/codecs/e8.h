// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the lattice E8 = D8 + {0, (1/2, ..., 1/2)}, where D8 are the integer vectors
// of 8 with an even sum. The densest packing of its dimension: 0.65 dB less error than a cubic grid
// of the same density (Conway and Sloane, Sphere Packings, chapters 4 and 20).
#pragma once

#include <cstdint>
#include <limits>

namespace polarquant {

inline constexpr int kE8Dim = 8;
inline constexpr float kWholeLattice = std::numeric_limits<float>::infinity();

// The nearest point to x of (Z + offset)^8 with no coordinate beyond +-bound, which is such a
// coordinate itself; offset 0 or 1/2. Its sum is even if `even`. Returns the squared distance.
//
// Every coordinate goes to its nearest value; if the sum has to be even and is odd, the one moves
// on to its second nearest for which that costs least (the first of equals).
float NearestInCoset(const float* x, float offset, float bound, bool even, float* point);

// kStrict is E8. kNexus is the union of D8 and all of (Z + 1/2)^8 that nexusquant quantises to: no
// lattice, but half as dense again.
enum class E8Lattice { kStrict, kNexus };

// The nearest point of E8 with no coordinate beyond +-bound, a whole number; of equally near ones
// the integer one.
void NearestE8(E8Lattice lattice, const float* x, float bound, float* point);

// The codebook of e8p (e8p.cc): the word of the point nearest to x, and the point of a word.
uint16_t NearestE8p(const float* x);
void PointOfE8p(uint16_t word, float* point);

}  // namespace polarquant
