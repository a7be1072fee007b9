// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: the 8-bit floats that inference engines keep caches in (Micikevicius et al.,
// "FP8 formats for deep learning", arXiv 2209.05433, section 3; the "fn" form without infinities).
// A record is an f16 scale and one byte a channel:
//
//   scale   the row's largest magnitude / 448, rounded to f16, the next one up if that is too
//           small: no value of the row saturates
//   byte    sign, 4 bits of exponent (bias 7), 3 of mantissa: value / scale to nearest, ties to
//           even. 0x7f and 0xff (not a number) are never written; a reader takes them for 0
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/record.h"

namespace polarquant {
namespace {

constexpr float kLargest = 448.0f;
constexpr uint8_t kLargestCode = 0x7e;
constexpr int kBias = 7, kMantissaBits = 3;
constexpr int kDroppedBits = 23 - kMantissaBits;
constexpr size_t kScaleBytes = 2;

uint8_t ToE4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= std::bit_cast<uint32_t>(kLargest)) return sign | kLargestCode;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6f)) {
    // Beside 2^14 the float adder rounds at 2^-9, the unit of the subnormals.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    const uint32_t code = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0x1p14f);
    return static_cast<uint8_t>(sign | code);
  }
  const uint32_t odd = (magnitude >> kDroppedBits) & 1u;
  const uint32_t rounded = magnitude + (1u << (kDroppedBits - 1)) - 1u + odd;
  const uint32_t code = (rounded - (static_cast<uint32_t>(127 - kBias) << 23)) >> kDroppedBits;
  return static_cast<uint8_t>(sign | code);
}

std::array<float, 256> DecodeTable() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    const int exponent = (code >> kMantissaBits) & 15, mantissa = code & 7;
    if ((code & 0x7f) > kLargestCode) continue;
    const int significand = exponent == 0 ? mantissa : mantissa + (1 << kMantissaBits);
    const int power = std::max(exponent, 1) - kBias - kMantissaBits;
    const float magnitude = std::ldexp(static_cast<float>(significand), power);
    values[static_cast<size_t>(code)] = code >= 0x80 ? -magnitude : magnitude;
  }
  return values;
}

size_t RecordBytes(int head_dim) { return kScaleBytes + static_cast<size_t>(head_dim); }

void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  float largest = 0.0f;
  for (int i = 0; i < head_dim; ++i) largest = std::max(largest, std::fabs(row[i]));
  float scale = StoreHalf(largest / kLargest, record);
  if (scale * kLargest < largest && scale < kMaxHalf) {
    const uint16_t next = static_cast<uint16_t>(FloatToHalf(scale) + 1);
    scale = StoreHalf(HalfToFloat(next), record);
  }
  for (int i = 0; i < head_dim; ++i) {
    record[kScaleBytes + static_cast<size_t>(i)] =
        static_cast<std::byte>(scale > 0.0f ? ToE4m3(row[i] / scale) : 0);
  }
}

void Decode(const std::byte* record, int head_dim, float* row) {
  static const std::array<float, 256> values = DecodeTable();
  const float scale = LoadHalf(record);
  for (int i = 0; i < head_dim; ++i) {
    row[i] = scale * values[std::to_integer<size_t>(record[kScaleBytes + static_cast<size_t>(i)])];
  }
}

}  // namespace

Codec Fp8E4m3Codec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "FP8 formats for deep learning (Micikevicius et al. 2022), e4m3",
                   .code_bits = 8,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = false},
          .record_bytes = RecordBytes,
          .encode = Encode,
          .decode = Decode};
}

}  // namespace polarquant
