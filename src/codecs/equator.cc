// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: equator, one bit for each hyperspherical angle (the key codec of
// VeloxQuant-MLX). Angle i of a vector k is arccos(k_i / |k_i ... k_n|), so it lies above the
// equator exactly if k_i > 0: d - 1 such bits and the sign of the last channel are sign(k), and no
// decoder can know more of the direction. The best one multiplies the means of |cos| and sin of
// every angle, which gives every channel the same magnitude |k| E|u_1|, u uniform on the sphere
// (math/sphere.h). The cosine reached is 0.80, not 1: D = 0.36 at little more than one bit.
//
// A record is a norm code of n bits for each rotation block, packed (codecs/pack.h), then d bits, 1
// where the channel is >= 0. `norm_bits=` is n, 8 unless said otherwise. Code 0 is a block of
// zeros; the others are 1 + s (log2(r) + 15) for the nearest such r to the block's root mean
// square, with s = 2^(n - 5) steps an octave: all of 2^-15 to 2^17 that 2^n codes hold, and f16
// rows have no more. Eighths of an octave, 8 bits, add 0.0004 to D.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <span>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "math/lane_sum-inl.h"
#include "math/rotation.h"
#include "math/sphere.h"

namespace polarquant {
namespace {

// Norms count in this fraction of an octave: half of the finest step.
constexpr int kFinest = 4096;
constexpr int kLeastNormBits = 4, kMostNormBits = 16;
constexpr int kLowestOctave = -15;
constexpr float kSmallest = 0x1p-16f;  // what rounds to 2^-15 rather than to zero

// 2^(i / kFinest); rounding to float hides how the machine computes powers.
const std::array<float, kFinest>& Fractions() {
  static const std::array<float, kFinest> fractions = [] {
    std::array<float, kFinest> all{};
    for (size_t i = 0; i < all.size(); ++i) {
      all[i] = static_cast<float>(std::exp2(static_cast<double>(i) / kFinest));
    }
    return all;
  }();
  return fractions;
}

class EquatorCoder final : public Coder {
 public:
  EquatorCoder(int norm_bits, int head_dim)
      : norm_bits_(norm_bits),
        step_(kFinest * 32 >> norm_bits),
        head_dim_(head_dim),
        blocks_(RotationBlocks(head_dim)) {}

  size_t record_bytes() const override { return NormBytes() + PackedBytes(head_dim_, 1); }

  void Encode(const std::byte*, const float* row, std::byte* record) const override {
    uint16_t norms[kMaxHeadDim / kMinHeadDim] = {};
    uint8_t bits[kMaxHeadDim];
    for (size_t b = 0; b < blocks_.size(); ++b) {
      const float norm2 = SquaredNorm(row + blocks_[b].offset, blocks_[b].size);
      norms[b] = NormCode(std::sqrt(norm2 / static_cast<float>(blocks_[b].size)));
    }
    for (int i = 0; i < head_dim_; ++i) bits[i] = row[i] >= 0.0f ? 1 : 0;
    PackCodes(norms, NumBlocks(), norm_bits_, record);
    PackCodes(bits, head_dim_, 1, record + NormBytes());
  }

  void Decode(const std::byte*, const std::byte* record, float* row) const override {
    uint16_t norms[kMaxHeadDim / kMinHeadDim] = {};
    uint8_t bits[kMaxHeadDim];
    UnpackCodes(record, NumBlocks(), norm_bits_, norms);
    UnpackCodes(record + NormBytes(), head_dim_, 1, bits);
    for (size_t b = 0; b < blocks_.size(); ++b) {
      const RotationBlock& block = blocks_[b];
      const float magnitude = NormOf(norms[b]) * SignCosine(block.size);
      for (int i = block.offset; i < block.offset + block.size; ++i) {
        row[i] = bits[i] != 0 ? magnitude : -magnitude;
      }
    }
  }

 private:
  int NumBlocks() const { return static_cast<int>(blocks_.size()); }
  size_t NormBytes() const { return PackedBytes(NumBlocks(), norm_bits_); }

  uint16_t NormCode(float r) const {
    if (!(r >= kSmallest)) return 0;
    int exponent = 0;
    const float fraction = 2.0f * std::frexp(r, &exponent);  // 1 <= fraction < 2
    const auto above = std::upper_bound(Fractions().begin(), Fractions().end(), fraction);
    const int octaves = exponent - 1 - kLowestOctave;
    const int finest = octaves * kFinest + static_cast<int>(above - Fractions().begin()) - 1;
    return static_cast<uint16_t>(
        std::clamp(1 + (finest + step_ / 2) / step_, 1, (1 << norm_bits_) - 1));
  }

  float NormOf(int code) const {
    if (code == 0) return 0.0f;
    const int finest = (code - 1) * step_;
    return std::ldexp(Fractions()[static_cast<size_t>(finest % kFinest)],
                      finest / kFinest + kLowestOctave);
  }

  int norm_bits_, step_;  // a step in finest ones
  int head_dim_;
  std::span<const RotationBlock> blocks_;
};

std::unique_ptr<const Coder> Make(const Scheme& scheme, const RowShape& shape) {
  return std::make_unique<EquatorCoder>(OptionOf(scheme, "norm_bits"), shape.head_dim);
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
                   .scale_rules = false,
                   .options = {{.name = "norm_bits",
                                .summary = "bits of a block's norm",
                                .least = kLeastNormBits,
                                .most = kMostNormBits,
                                .usual = 8}}},
          .make = Make};
}

}  // namespace polarquant
