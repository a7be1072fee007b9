// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: logits to softmax weights, and conversions; written in the words of `Simd`.
#pragma once

#include "kernels/cpu/encode-inl.h"
#include "kernels/kernels.h"

namespace polarquant {
namespace {

constexpr float kHidden = -__builtin_inff();

// e^x for x in [-87, 88]: x = n ln 2 + r with ln 2 in two parts (Cody and Waite 1980), then the
// series of e^r to degree 7; relative error below 2e-7.
inline Simd::F Exp(Simd::F x) {
  const Simd::F n = Simd::Round(Simd::Mul(x, Simd::Set(1.44269504f)));
  Simd::F r = Simd::Fma(n, Simd::Set(-0.693359375f), x);
  r = Simd::Fma(n, Simd::Set(2.12194440e-4f), r);
  Simd::F y = Simd::Set(1.0f / 5040);
  y = Simd::Fma(y, r, Simd::Set(1.0f / 720));
  y = Simd::Fma(y, r, Simd::Set(1.0f / 120));
  y = Simd::Fma(y, r, Simd::Set(1.0f / 24));
  y = Simd::Fma(y, r, Simd::Set(1.0f / 6));
  y = Simd::Fma(y, r, Simd::Set(0.5f));
  y = Simd::Fma(y, r, Simd::Set(1.0f));
  y = Simd::Fma(y, r, Simd::Set(1.0f));
  return Simd::Scale2(y, n);
}

// tanh: the odd series near 0, elsewhere 1 - 2 / (e^2x + 1).
inline Simd::F Tanh(Simd::F x) {
  const Simd::F a = Simd::Abs(x);
  const Simd::F e = Exp(Simd::Min(Simd::Add(a, a), Simd::Set(40.0f)));
  const Simd::F far =
      Simd::Sub(Simd::Set(1.0f), Simd::Div(Simd::Set(2.0f), Simd::Add(e, Simd::Set(1.0f))));
  const Simd::F s = Simd::Mul(a, a);
  Simd::F p = Simd::Set(21844.0f / 6081075);
  p = Simd::Fma(p, s, Simd::Set(-1382.0f / 155925));
  p = Simd::Fma(p, s, Simd::Set(62.0f / 2835));
  p = Simd::Fma(p, s, Simd::Set(-17.0f / 315));
  p = Simd::Fma(p, s, Simd::Set(2.0f / 15));
  p = Simd::Fma(p, s, Simd::Set(-1.0f / 3));
  const Simd::F near = Simd::Fma(Simd::Mul(p, s), a, a);
  return Simd::CopySign(Simd::IfLess(a, Simd::Set(0.4f), near, far), x);
}

struct Shape {
  Simd::F scale, cap, inverse_cap, slope;
};

template <bool kCap, bool kMask>
inline Simd::F ShapeVector(Simd::F x, const Shape& shape, Simd::F mask) {
  x = Simd::Mul(x, shape.scale);
  if constexpr (kCap) x = Simd::Mul(shape.cap, Tanh(Simd::Mul(x, shape.inverse_cap)));
  if constexpr (kMask) {
    const Simd::F hidden = Simd::Set(kHidden);
    x = Simd::IfLess(hidden, mask, Simd::Fma(shape.slope, mask, x), hidden);
  }
  return x;
}

template <bool kCap, bool kMask>
inline float ShapeRow(float* logits, int count, const Shape& shape, const uint16_t* mask) {
  Simd::F max = Simd::Set(kHidden);
  int i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) {
    const Simd::F m = kMask ? Simd::LoadHalf(mask + i) : Simd::Zero();
    const Simd::F x = ShapeVector<kCap, kMask>(Simd::Load(logits + i), shape, m);
    Simd::Store(logits + i, x);
    max = Simd::Max(max, x);
  }
  if (i < count) {  // the rest of a ragged row, hidden beyond its end
    float rest[Simd::kWidth] = {};
    uint16_t mask_rest[Simd::kWidth] = {};
    for (int k = 0; k < count - i; ++k) rest[k] = logits[i + k];
    for (int k = 0; kMask && k < count - i; ++k) mask_rest[k] = mask[i + k];
    const Simd::F m = kMask ? Simd::LoadHalf(mask_rest) : Simd::Zero();
    Simd::Store(rest, ShapeVector<kCap, kMask>(Simd::Load(rest), shape, m));
    for (int k = 0; k < count - i; ++k) logits[i + k] = rest[k];
    for (int k = count - i; k < Simd::kWidth; ++k) rest[k] = kHidden;
    max = Simd::Max(max, Simd::Load(rest));
  }
  return Simd::MaxOf(max);
}

float ShapeLogits(float* logits, int count, float scale, float softcap, float slope,
                  const uint16_t* mask) {
  const bool cap = softcap != 0.0f;
  const Shape shape = {Simd::Set(scale), Simd::Set(softcap), Simd::Set(cap ? 1.0f / softcap : 0.0f),
                       Simd::Set(slope)};
  if (cap) {
    return mask != nullptr ? ShapeRow<true, true>(logits, count, shape, mask)
                           : ShapeRow<true, false>(logits, count, shape, mask);
  }
  return mask != nullptr ? ShapeRow<false, true>(logits, count, shape, mask)
                         : ShapeRow<false, false>(logits, count, shape, mask);
}

// e^x, exactly 0 below -87 (where it would be less than 2^-125) and for -inf.
inline Simd::F ExpOrZero(Simd::F x) {
  const Simd::F least = Simd::Set(-87.0f);
  return Simd::IfLess(x, least, Simd::Zero(), Exp(Simd::Max(x, least)));
}

float ExpSum(float* logits, int count, float max) {
  Simd::F sum = Simd::Zero();
  if (max == kHidden) {  // nothing is seen
    for (int i = 0; i < count; ++i) logits[i] = 0.0f;
    return 0.0f;
  }
  const Simd::F m = Simd::Set(max);
  int i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) {
    const Simd::F x = ExpOrZero(Simd::Sub(Simd::Load(logits + i), m));
    Simd::Store(logits + i, x);
    sum = Simd::Add(sum, x);
  }
  if (i < count) {
    float rest[Simd::kWidth];
    for (int k = 0; k < Simd::kWidth; ++k) rest[k] = i + k < count ? logits[i + k] : kHidden;
    const Simd::F x = ExpOrZero(Simd::Sub(Simd::Load(rest), m));
    sum = Simd::Add(sum, x);
    Simd::Store(rest, x);
    for (int k = 0; k < count - i; ++k) logits[i + k] = rest[k];
  }
  return Simd::Sum(sum);
}

void ScaleRow(float* row, int count, float factor) {
  const Simd::F f = Simd::Set(factor);
  int i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) {
    Simd::Store(row + i, Simd::Mul(Simd::Load(row + i), f));
  }
  for (; i < count; ++i) row[i] *= factor;
}

void HalvesToFloats(const uint16_t* halves, int64_t count, float* floats) {
  int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) {
    Simd::Store(floats + i, Simd::LoadHalf(halves + i));
  }
  if (i == count) return;
  uint16_t rest[Simd::kWidth] = {};
  for (int64_t k = i; k < count; ++k) rest[k - i] = halves[k];
  float out[Simd::kWidth];
  Simd::Store(out, Simd::LoadHalf(rest));
  for (int64_t k = i; k < count; ++k) floats[k] = out[k - i];
}

void FloatsToHalves(const float* floats, int64_t count, uint16_t* halves) {
  int64_t i = 0;
  for (; i + Simd::kWidth <= count; i += Simd::kWidth) {
    Simd::StoreHalf(halves + i, SaneVector(Simd::Load(floats + i)));
  }
  if (i == count) return;
  float rest[Simd::kWidth] = {};
  for (int64_t k = i; k < count; ++k) rest[k - i] = floats[k];
  uint16_t out[Simd::kWidth];
  Simd::StoreHalf(out, SaneVector(Simd::Load(rest)));
  for (int64_t k = i; k < count; ++k) halves[k] = out[k - i];
}

}  // namespace
}  // namespace polarquant
