// SPDX-License-Identifier: Apache-2.0
// Stage 2/7 rotate (and 7/7 un-rotate). Seeded random signs and a fast Hadamard transform, block by
// block: y = n^-1/2 H diag(s) x. Orthonormal, so dot products and norms stay: queries are rotated
// instead of un-rotating keys, and one output instead of every value.
//
// A block has a size of 2^k (16..512), 12 * 2^k (48..384) or 20 * 2^k (80..320). Powers of two use
// Sylvester's matrix; the others the Kronecker product of Paley's matrix of order 12 or 20 (Paley
// 1933, type I) with Sylvester's. A head_dim that is no such size is cut greedily into the largest
// blocks that fit: 112 = 96 + 16. Energy does not move between blocks, so each has its own scale.
//
// The signs are fixed by kRotationSeed and head_dim (FORMAT.md): changing either is a new format.
// Sketches (codecs/sketch.h) are rotations with signs of their own.
#pragma once

#include <cstdint>
#include <span>

namespace polarquant {

inline constexpr int kMinHeadDim = 16;
inline constexpr int kMaxHeadDim = 1024;
inline constexpr int kMaxRotationBlock = 512;
inline constexpr uint64_t kRotationSeed = 2026;
inline constexpr uint64_t kSketchSeed = 3482;  // of the first sketch; the next ones count up
inline constexpr int kMaxSketches = 4;

// What SplitMix64 starts from (math/random.h) for everything that is drawn for a head_dim.
constexpr uint64_t RotationState(uint64_t seed, int head_dim) {
  return seed * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(head_dim);
}

struct RotationBlock {
  int offset;  // first channel
  int size;    // order * 2^k channels
  int order;   // of the Paley factor: 12, 20, or 1 for none
};

// What a rotation of a head_dim is made of. Lives for the life of the program.
struct RotationPlan {
  int head_dim;
  std::span<const RotationBlock> blocks;
  const float* factors;  // [head_dim], sign * size^-1/2: multiplied in first when rotating, last
                         // when un-rotating
};

// The plan of a head_dim that CheckHeadDim accepts; it throws for others. Thread-safe.
const RotationPlan& RotationPlanOf(int head_dim);
std::span<const RotationBlock> RotationBlocks(int head_dim);
// The rotation of a sketch, 0..kMaxSketches-1: the same blocks, signs from kSketchSeed + sketch.
const RotationPlan& SketchPlanOf(int head_dim, int sketch);

// x := H x in place, not normalised: Sylvester's matrix in natural order, `size` a power of two
// from 16 to kMaxHeadDim. Every value is a sum of the same additions on every instruction set.
void Hadamard(float* x, int size);

// Paley's matrix of order 12 or 20, or its transpose: [order][order] of +1 and -1.
enum class Transposed { kNo, kYes };
const float* PaleyMatrix(int order, Transposed transposed);

// Rotate one row of head_dim floats in place. O(d log d); relative error below 1e-6 of the norm.
void Rotate(float* row, int head_dim);
void Unrotate(float* row, int head_dim);
// The same by any plan.
void Rotate(const RotationPlan& plan, float* row);
void Unrotate(const RotationPlan& plan, float* row);

}  // namespace polarquant
