// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: equator, one bit for each hyperspherical angle (the key codec of
// VeloxQuant-MLX). Angle i of a vector k is arccos(k_i / |k_i ... k_n|), so it lies above the
// equator exactly if k_i > 0: d - 1 such bits and the sign of the last channel are sign(k), and no
// decoder can know more of the direction. The best one multiplies the means of |cos| and sin of
// every angle, which gives every channel the same magnitude |k| E|u_1|, u uniform on the sphere
// (math/sphere.h). The cosine reached is 0.80, not 1: D = 0.36 at little more than one bit.
//
// A record is one norm byte for each rotation block, then d bits (codecs/pack.h), 1 where the
// channel is >= 0. The byte is 0 for a block of zeros, else 1 + 8 (log2(r) + 15) for the nearest
// such r to the block's root mean square: eighths of an octave from 2^-15 to 2^16.75, all that f16
// rows can have. The steps add 0.0004 to D.
#include <algorithm>
#include <array>
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "math/lane_sum-inl.h"
#include "math/rotation.h"
#include "math/sphere.h"

namespace polarquant {
namespace {

constexpr int kSteps = 8;  // an octave
constexpr int kLowestOctave = -15;
constexpr int kTop = 255;
constexpr float kSmallest = 0x1p-16f;  // what rounds to 2^-15 rather than to zero

// 2^(i/8), and halfway in between, 2^((i + 1/2)/8).
constexpr std::array<float, kSteps> kFractions = {1.0f,        1.09050773f, 1.18920712f,
                                                  1.29683955f, 1.41421356f, 1.54221083f,
                                                  1.68179283f, 1.83400809f};
constexpr std::array<float, kSteps> kMiddles = {1.04427378f, 1.13878863f, 1.24185781f, 1.35425555f,
                                                1.47682615f, 1.61049033f, 1.75625216f, 1.91520656f};

int NormCode(float r) {
  if (!(r >= kSmallest)) return 0;
  int exponent = 0;
  const float fraction = 2.0f * std::frexp(r, &exponent);  // 1 <= fraction < 2
  const auto passed = std::count_if(kMiddles.begin(), kMiddles.end(),
                                    [&](float middle) { return fraction >= middle; });
  const int code = 1 + kSteps * (exponent - 1 - kLowestOctave) + static_cast<int>(passed);
  return std::clamp(code, 1, kTop);
}

float NormOf(int code) {
  if (code == 0) return 0.0f;
  const int steps = code - 1;
  return std::ldexp(kFractions[static_cast<size_t>(steps % kSteps)],
                    steps / kSteps + kLowestOctave);
}

size_t NormBytes(int head_dim) { return RotationBlocks(head_dim).size(); }

size_t RecordBytes(int head_dim) { return NormBytes(head_dim) + PackedBytes(head_dim, 1); }

void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  uint8_t bits[kMaxHeadDim] = {};
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float norm2 = SquaredNorm(row + block.offset, block.size);
    *record++ = static_cast<std::byte>(NormCode(std::sqrt(norm2 / static_cast<float>(block.size))));
  }
  for (int i = 0; i < head_dim; ++i) bits[i] = row[i] >= 0.0f ? 1 : 0;
  PackCodes(bits, head_dim, 1, record);
}

void Decode(const std::byte* record, int head_dim, float* row) {
  uint8_t bits[kMaxHeadDim];
  UnpackCodes(record + NormBytes(head_dim), head_dim, 1, bits);
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float magnitude = NormOf(std::to_integer<int>(*record++)) * SignCosine(block.size);
    for (int i = block.offset; i < block.offset + block.size; ++i) {
      row[i] = bits[i] != 0 ? magnitude : -magnitude;
    }
  }
}

}  // namespace

Codec EquatorCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "VeloxQuant-MLX's recursive polar code, which is sign(k)",
                   .code_bits = 1,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = false},
          .record_bytes = RecordBytes,
          .encode = Encode,
          .decode = Decode};
}

}  // namespace polarquant
