// SPDX-License-Identifier: Apache-2.0
// Stage 2/7 rotate: the arithmetic itself, to be compiled once for every instruction set. Whoever
// writes it with intrinsics must keep the order: multiply by the factors; Hadamard stages with
// strides 1, 2, 4, ...; then the sums of the Paley factor from row 0 upwards. Products are with +-1
// only, so neither vector width nor contraction changes a bit.
//
// Everything has internal linkage: code compiled for one instruction set must never be merged by
// the linker with that of another.
#pragma once

#include "math/rotation.h"

namespace polarquant {
namespace {

// Unnormalised Walsh-Hadamard transform of `size` (a power of two) floats, natural order.
inline void HadamardInPlace(float* x, int size) {
  for (int stride = 1; stride < size; stride *= 2) {
    for (int base = 0; base < size; base += 2 * stride) {
      for (int i = base; i < base + stride; ++i) {
        const float a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
  }
}

// x := (P (x) I) x for a Paley matrix P [order][order] of signs; x is [order][width].
inline void PaleyInPlace(float* x, int order, int width, const float* signs) {
  float in[kMaxRotationBlock];
  for (int i = 0; i < order * width; ++i) in[i] = x[i];
  for (int row = 0; row < order; ++row) {
    float* out = x + row * width;
    for (int c = 0; c < width; ++c) out[c] = signs[row * order] * in[c];
    for (int column = 1; column < order; ++column) {
      const float sign = signs[row * order + column];
      for (int c = 0; c < width; ++c) out[c] += sign * in[column * width + c];
    }
  }
}

inline void RotateRow(const RotationPlan& plan, float* row) {
  for (int i = 0; i < plan.head_dim; ++i) row[i] *= plan.factors[i];
  for (const RotationBlock& block : plan.blocks) {
    float* x = row + block.offset;
    const int width = block.size / block.order;
    for (int a = 0; a < block.order; ++a) HadamardInPlace(x + a * width, width);
    if (block.order == 1) continue;
    PaleyInPlace(x, block.order, width, PaleyMatrix(block.order, Transposed::kNo));
  }
}

inline void UnrotateRow(const RotationPlan& plan, float* row) {
  for (const RotationBlock& block : plan.blocks) {
    float* x = row + block.offset;
    const int width = block.size / block.order;
    if (block.order > 1) {
      PaleyInPlace(x, block.order, width, PaleyMatrix(block.order, Transposed::kYes));
    }
    for (int a = 0; a < block.order; ++a) HadamardInPlace(x + a * width, width);
  }
  for (int i = 0; i < plan.head_dim; ++i) row[i] *= plan.factors[i];
}

}  // namespace
}  // namespace polarquant
