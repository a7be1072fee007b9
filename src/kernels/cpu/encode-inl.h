// SPDX-License-Identifier: Apache-2.0
// Stages 1/7, 3/7 and 4/7: rows are sanitised, quantised and packed into tiles, bit-identical to
// the codec's own encoder on every target. codecs/turbo-inl.h says what is computed, and the order
// kept. The steps of the search are tried together: none waits for another's sums. Centroids are
// whole numbers, so sums of their squares are exact in any order.
#pragma once

#include "codecs/codec.h"
#include "codecs/turbo-inl.h"
#include "kernels/cpu/records-inl.h"
#include "kernels/kernels.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

inline Simd::F SaneVector(Simd::F x) {
  return Simd::Max(Simd::Set(-kMaxHalf), Simd::Min(Simd::Set(kMaxHalf), Simd::ZeroNaN(x)));
}

void PrepareRows(const float* rows, int count, int head_dim, const float* mean,
                 const float* balance, float* prepared) {
  for (int r = 0; r < count; ++r, rows += head_dim, prepared += head_dim) {
    for (int i = 0; i < head_dim; i += Simd::kWidth) {
      Simd::F x = SaneVector(Simd::Load(rows + i));
      if (mean != nullptr) x = Simd::Sub(x, Simd::Load(mean + i));
      if (balance != nullptr) x = Simd::Mul(x, Simd::Load(balance + i));
      Simd::Store(prepared + i, x);
    }
  }
}

constexpr int kParts = kSumLanes / Simd::kWidth;  // that make the sixteen lanes
constexpr int kSteps = std::size(kSearch);
static_assert(kSteps <= 8 && kSteps % Simd::kStepsAtOnce == 0);

// Sixteen lanes of <c,x> and <c,c>.
struct Sums {
  Simd::F dot[kParts], energy[kParts];
};

// The codes of kCount steps at once; those of a single one are written if `codes` is not null.
template <int kBits, int kCount>
inline void Assign(const Simd::Levels& levels, const float* x, int size, const float* inverses,
                   uint8_t* codes, Sums* results) {
  Simd::F inverse[kCount], dot[kCount][kParts], energy[kCount][kParts];
#pragma GCC unroll 8
  for (int s = 0; s < kCount; ++s) {
    inverse[s] = Simd::Set(inverses[s]);
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) dot[s][p] = energy[s][p] = Simd::Zero();
  }
  for (int i = 0; i < size; i += kSumLanes) {
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      const Simd::F value = Simd::Load(x + i + p * Simd::kWidth);
      const Simd::F magnitude = Simd::Abs(value);
#pragma GCC unroll 8
      for (int s = 0; s < kCount; ++s) {
        Simd::I passed;
        const Simd::F centroid =
            Simd::Nearest<kBits>(levels, Simd::Mul(magnitude, inverse[s]), &passed);
        dot[s][p] = Simd::Add(dot[s][p], Simd::Mul(centroid, magnitude));
        energy[s][p] = Simd::Fma(centroid, centroid, energy[s][p]);
        if constexpr (kCount == 1) {
          Simd::StoreSigned(codes + i + p * Simd::kWidth, value, passed, 1 << (kBits - 1));
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int s = 0; s < kCount; ++s) {
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      results[s].dot[p] = dot[s][p];
      results[s].energy[p] = energy[s][p];
    }
  }
}

template <int kBits>
inline TurboFit AssignStep(const Simd::Levels& levels, const float* x, int size, float step,
                           float inverse, uint8_t* codes) {
  Sums sums;
  Assign<kBits, 1>(levels, x, size, &inverse, codes, &sums);
  return {step, Simd::SumSixteen(sums.dot), Simd::SumSixteen(sums.energy)};
}

template <int kBits>
inline TurboFit Search(const Simd::Levels& levels, const float* x, int size, float step,
                       uint8_t* codes) {
  float steps[8], inverses[8], dots[8], energies[8], explained[8], refined[8], refined_inverses[8];
  for (int s = 0; s < 8; ++s) steps[s] = step * kSearch[s < kSteps ? s : 0];
  for (int s = 0; s < 8; ++s) inverses[s] = 1.0f / steps[s];
  Sums sums[8];
#pragma GCC unroll 8
  for (int s = 0; s < kSteps; s += Simd::kStepsAtOnce) {
    Assign<kBits, Simd::kStepsAtOnce>(levels, x, size, inverses + s, nullptr, sums + s);
  }
  for (int s = kSteps; s < 8; ++s) sums[s] = sums[0];  // never the first of the largest
  Simd::SumEight([&](int s) { return sums[s].dot; }, dots);
  Simd::SumEight([&](int s) { return sums[s].energy; }, energies);
  for (int s = 0; s < 8; ++s) explained[s] = dots[s] * dots[s] / energies[s];
  // Of all, while the best is looked for.
  for (int s = 0; s < 8; ++s) refined[s] = dots[s] / energies[s];
  for (int s = 0; s < 8; ++s) refined_inverses[s] = 1.0f / refined[s];
  const int best = Simd::FirstLargest(explained);
  const TurboFit fit =
      AssignStep<kBits>(levels, x, size, refined[best], refined_inverses[best], codes);
  if (fit.explained() > explained[best]) return fit;
  return AssignStep<kBits>(levels, x, size, steps[best], inverses[best], codes);
}

// The same as EncodeTurboBlock.
template <int kBits>
inline uint16_t EncodeBlock(const TurboBook& book, const Simd::Levels& levels, const float* x,
                            int size, ScaleRule rule, uint8_t* codes) {
  Simd::F squares[kParts];
  for (Simd::F& sum : squares) sum = Simd::Zero();
  for (int i = 0; i < size; i += kSumLanes) {
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) {
      const Simd::F value = Simd::Load(x + i + p * Simd::kWidth);
      squares[p] = Simd::Add(squares[p], Simd::Mul(value, value));
    }
  }
  const float norm2 = Simd::SumSixteen(squares);
  const float deviation = __builtin_sqrtf(norm2 / static_cast<float>(size));
  uint16_t scale = 0;
  if (deviation >= kSmallest) {
    const TurboFit fit = Search<kBits>(levels, x, size, deviation * book.unit, codes);
    const float step = rule == ScaleRule::kMse    ? fit.dot / fit.energy
                       : rule == ScaleRule::kNorm ? __builtin_sqrtf(norm2 / fit.energy)
                                                  : norm2 / fit.dot;
    const float deviations = step / book.unit;
    scale = FloatToHalf(deviations < kMaxHalf ? deviations : kMaxHalf);
  }
  if (scale == 0) __builtin_memset(codes, 1 << (kBits - 1), static_cast<size_t>(size));
  return scale;
}

template <int kBits>
inline void EncodeRowsOf(const float* rows, int first, int count, int tokens, int head_dim,
                         ScaleRule rule, bool lanes_are_tokens, std::byte* codes,
                         uint16_t* scales) {
  constexpr int kHalf = 1 << (kBits - 1);
  const TurboBook& book = TurboBookOf(kBits);
  const Simd::Levels levels =
      Simd::MakeLevels<kBits>(book.centroids + kHalf, book.thresholds + kHalf);
  const auto blocks = RotationBlocks(head_dim);
  alignas(64) uint8_t row_codes[kMaxHeadDim];
  for (int t = first; t < first + count; ++t, rows += head_dim) {
    uint16_t* scale = scales + t;
    for (const RotationBlock& block : blocks) {
      *scale = EncodeBlock<kBits>(book, levels, rows + block.offset, block.size, rule,
                                  row_codes + block.offset);
      scale += tokens;
    }
    uint8_t* tile = reinterpret_cast<uint8_t*>(codes) +
                    static_cast<size_t>(t / kTileTokens) * TileBytes(kBits, head_dim);
    PutRow<kBits>(row_codes, head_dim, lanes_are_tokens, t % kTileTokens, tile);
  }
}

void EncodeRows(const Codec& codec, const float* rows, int first, int count, int tokens,
                int head_dim, ScaleRule rule, bool lanes_are_tokens, std::byte* codes,
                uint16_t* scales) {
  const int bits = codec.info.code_bits;
  const auto encode = bits == 2   ? &EncodeRowsOf<2>
                      : bits == 3 ? &EncodeRowsOf<3>
                                  : &EncodeRowsOf<4>;
  encode(rows, first, count, tokens, head_dim, rule, lanes_are_tokens, codes, scales);
}

}  // namespace
}  // namespace polarquant
