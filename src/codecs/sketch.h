// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: one-bit sketches (QJL, Zandieh et al., arXiv 2406.03482). A sketch keeps the
// signs of S x, S a random matrix, and gives back S^T sign(S x) times a constant: a vector whose
// dot product with any q is right on average over S, however wrong the vector itself is.
//
// S is orthogonal unless said otherwise, a randomised Hadamard transform for each rotation block,
// which leaves 0.56 where the paper's Gaussian rows leave pi/2 of |q|^2 |x|^2 / d as variance, and
// costs O(d log d). A row of length 1 wants another constant than a Gaussian one: x' = |x| S^T
// sign(S x) / (n E|u_1|) with u uniform on the sphere of n dimensions, where the paper's sqrt(pi/2)
// / n would overestimate by 1/(4n). The mean over sign draws is exact for rows without dominant
// channels only (a one-hot row comes out 25 % long); that is why rows are rotated before they are
// sketched. The Gaussian rows of the paper are here too; they need no rotation.
#pragma once

#include <algorithm>
#include <cstdint>

#include "math/rotation.h"
#include "math/sphere.h"

namespace polarquant {

// bits[i] = 1 if (S x)_i > 0; the strict comparison of the paper.
inline void SketchBits(const float* x, int head_dim, int sketch, uint8_t* bits) {
  float projected[kMaxHeadDim];
  std::copy_n(x, head_dim, projected);
  Rotate(SketchPlanOf(head_dim, sketch), projected);
  for (int i = 0; i < head_dim; ++i) bits[i] = projected[i] > 0.0f ? 1 : 0;
}

// What the bits say of x when each block of x has mean square 1.
inline void SketchedRow(const uint8_t* bits, int head_dim, int sketch, float* row) {
  const RotationPlan& plan = SketchPlanOf(head_dim, sketch);
  for (const RotationBlock& block : plan.blocks) {
    const float magnitude = 1.0f / SignCosine(block.size);
    for (int i = block.offset; i < block.offset + block.size; ++i) {
      row[i] = bits[i] != 0 ? magnitude : -magnitude;
    }
  }
  Unrotate(plan, row);
}

// The same with rows of independent N(0, 1), [head_dim][head_dim] of them, those of all sketches
// drawn one after another as quantiles by the upper 16 bits of SplitMix64. What they say is of a
// row of mean square 1, and the constant is the paper's.
const float* GaussianSketch(int head_dim, int sketch);
void GaussianSketchBits(const float* x, int head_dim, int sketch, uint8_t* bits);
void GaussianSketchedRow(const uint8_t* bits, int head_dim, int sketch, float* row);

}  // namespace polarquant
