// SPDX-License-Identifier: Apache-2.0
// Stage 2/7 rotate and 7/7 un-rotate, in the words of `Simd`: the same operations on the same
// numbers as math/rotation-inl.h, so the same bits. A block is one run of numbers to the Hadamard
// stages: its rows of 4, 8, 16, ... channels lie side by side and a stage never crosses them.
#pragma once

#include <cstring>

#include "kernels/kernels.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

// a + b in the lower lane of a pair (a, b), a - b in the upper one.
template <int kStride>
inline Simd::F Butterfly(Simd::F x) {
  return Simd::Add(Simd::SwapLanes<kStride>(x), Simd::NegateUpper<kStride>(x));
}

// Stages of strides below `width` and kWidth.
template <int kStride = 1>
inline Simd::F ButterfliesInside(Simd::F x, int width) {
  if constexpr (kStride < Simd::kWidth) {
    if (kStride >= width) return x;
    return ButterfliesInside<2 * kStride>(Butterfly<kStride>(x), width);
  } else {
    return x;
  }
}

// Hadamard transforms of `count` / `width` rows of `width` (a power of two) numbers.
inline void HadamardRows(float* x, int count, int width) {
  for (int i = 0; i < count; i += Simd::kWidth) {
    Simd::Store(x + i, ButterfliesInside(Simd::Load(x + i), width));
  }
  for (int stride = Simd::kWidth; stride < width; stride *= 2) {
    for (int base = 0; base < count; base += 2 * stride) {
      for (int i = base; i < base + stride; i += Simd::kWidth) {
        const Simd::F a = Simd::Load(x + i), b = Simd::Load(x + i + stride);
        Simd::Store(x + i, Simd::Add(a, b));
        Simd::Store(x + i + stride, Simd::Sub(a, b));
      }
    }
  }
}

// Vectors of the compiler, for Paley rows narrower than a register of ours.
template <int kFloats>
struct Vector {
  typedef float Type __attribute__((vector_size(4 * kFloats)));
};

// Four rows of the Paley factor at once, over kFloats columns of x: [order][width].
template <int kFloats>
inline void PaleyStripe(const float* in, float* out, int order, int width, const float* signs) {
  using V = typename Vector<kFloats>::Type;
  static_assert(sizeof(V) == 4 * kFloats);
  constexpr int kRows = 4;  // divides 12 and 20
  for (int row = 0; row < order; row += kRows) {
    V sums[kRows];
    for (int column = 0; column < order; ++column) {
      V value;
      std::memcpy(&value, in + column * width, sizeof value);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const V term = signs[(row + r) * order + column] * value;
        sums[r] = column == 0 ? term : sums[r] + term;
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) std::memcpy(out + (row + r) * width, &sums[r], sizeof(V));
  }
}

inline void Paley(float* x, const RotationBlock& block, Transposed transposed) {
  const int order = block.order, width = block.size / order;
  const float* signs = PaleyMatrix(order, transposed);
  float in[kMaxRotationBlock];
  for (int i = 0; i < block.size; i += Simd::kWidth) Simd::Store(in + i, Simd::Load(x + i));
  for (int column = 0; column < width;) {
    if (width - column >= Simd::kWidth) {
      PaleyStripe<Simd::kWidth>(in + column, x + column, order, width, signs);
      column += Simd::kWidth;
    } else if (width - column >= 8) {
      PaleyStripe<8>(in + column, x + column, order, width, signs);
      column += 8;
    } else {
      PaleyStripe<4>(in + column, x + column, order, width, signs);
      column += 4;
    }
  }
}

inline void MultiplyFactors(const RotationPlan& plan, float* row) {
  for (int i = 0; i < plan.head_dim; i += Simd::kWidth) {
    Simd::Store(row + i, Simd::Mul(Simd::Load(row + i), Simd::Load(plan.factors + i)));
  }
}

void RotateRows(float* rows, int64_t row_stride, int count, int head_dim) {
  const RotationPlan& plan = RotationPlanOf(head_dim);
  for (int r = 0; r < count; ++r) {
    float* row = rows + r * row_stride;
    MultiplyFactors(plan, row);
    for (const RotationBlock& block : plan.blocks) {
      HadamardRows(row + block.offset, block.size, block.size / block.order);
      if (block.order > 1) Paley(row + block.offset, block, Transposed::kNo);
    }
  }
}

void UnrotateRows(float* rows, int64_t row_stride, int count, int head_dim) {
  const RotationPlan& plan = RotationPlanOf(head_dim);
  for (int r = 0; r < count; ++r) {
    float* row = rows + r * row_stride;
    for (const RotationBlock& block : plan.blocks) {
      if (block.order > 1) Paley(row + block.offset, block, Transposed::kYes);
      HadamardRows(row + block.offset, block.size, block.size / block.order);
    }
    MultiplyFactors(plan, row);
  }
}

}  // namespace
}  // namespace polarquant
