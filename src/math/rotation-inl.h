// SPDX-License-Identifier: Apache-2.0
// Stage 2/7 rotate: the arithmetic itself, to be compiled once for every instruction set. Whoever
// writes it with intrinsics must keep the order: multiply by the factors; Hadamard stages with
// strides 1, 2, 4, ...; then the sums of the Paley factor from row 0 upwards. Products are with +-1
// only, so neither vector width nor contraction changes a bit.
//
// Everything has internal linkage: code compiled for one instruction set must never be merged by
// the linker with that of another.
#pragma once

#include <cstring>
#include <utility>

#include "math/rotation.h"
#include "math/vector-inl.h"

namespace polarquant {
namespace {

// Within one vector: lane i becomes lane i + lane i^kStride, or their difference where i has the
// bit kStride (the other one minus itself).
template <int kStride, int... kLane>
inline void ButterflyInVector(FloatVector* v, std::integer_sequence<int, kLane...>) {
  const FloatVector other = __builtin_shufflevector(*v, *v, (kLane ^ kStride)...);
  const FloatVector sign = {((kLane & kStride) != 0 ? -1.0f : 1.0f)...};
  *v = other + *v * sign;
}

// Unnormalised Walsh-Hadamard transforms, natural order, of all size / width pieces of x. `width`
// is a power of two from 4, `size` a multiple of 16 and of width.
inline void HadamardPieces(float* x, int size, int width) {
  constexpr std::make_integer_sequence<int, kVectorFloats> kLanes;
  for (int i = 0; i < size; i += kVectorFloats) {
    FloatVector v;
    LoadVector(x + i, &v);
    ButterflyInVector<1>(&v, kLanes);
    ButterflyInVector<2>(&v, kLanes);
    if constexpr (kVectorFloats > 4) {
      if (width > 4) ButterflyInVector<4>(&v, kLanes);
    }
    if constexpr (kVectorFloats > 8) {
      if (width > 8) ButterflyInVector<8>(&v, kLanes);
    }
    StoreVector(v, x + i);
  }
  for (int stride = kVectorFloats; stride < width; stride *= 2) {
    for (int base = 0; base < size; base += 2 * stride) {
      for (int i = base; i < base + stride; i += kVectorFloats) {
        FloatVector a, b;
        LoadVector(x + i, &a);
        LoadVector(x + i + stride, &b);
        StoreVector(a + b, x + i);
        StoreVector(a - b, x + i + stride);
      }
    }
  }
}

// x := (P (x) I) x for a Paley matrix P [order][order] of signs; x is [order][width].
inline void PaleyInPlace(float* x, int order, int width, const float* signs) {
  constexpr int kQuad = 4;  // every width is a multiple
  float in[kMaxRotationBlock];
  std::memcpy(in, x, static_cast<size_t>(order) * static_cast<size_t>(width) * sizeof(float));
  for (int row = 0; row < order; ++row) {
    for (int c = 0; c < width; c += kQuad) {
      FloatQuad sum, term;
      LoadVector(in + c, &sum);
      sum *= signs[row * order];
      for (int column = 1; column < order; ++column) {
        LoadVector(in + column * width + c, &term);
        sum += term * signs[row * order + column];
      }
      StoreVector(sum, x + row * width + c);
    }
  }
}

inline void RotateRow(const RotationPlan& plan, float* row) {
  for (int i = 0; i < plan.head_dim; ++i) row[i] *= plan.factors[i];
  for (const RotationBlock& block : plan.blocks) {
    float* x = row + block.offset;
    const int width = block.size / block.order;
    HadamardPieces(x, block.size, width);
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
    HadamardPieces(x, block.size, width);
  }
  for (int i = 0; i < plan.head_dim; ++i) row[i] *= plan.factors[i];
}

}  // namespace
}  // namespace polarquant
