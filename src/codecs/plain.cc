// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: numbers kept as numbers. The baseline of every comparison, and the reason why
// any cache can be named by a scheme. A record is head_dim little-endian numbers.
#include <cstring>

#include "codecs/codecs.h"
#include "util/half.h"

namespace polarquant {
namespace {

struct F32 {
  using Stored = float;
  static constexpr const char* kSource = "IEEE 754 binary32";
  static constexpr RecordKernel kKernel = RecordKernel::kNone;
  static float Store(float value) { return value; }
  static float Load(float stored) { return stored; }
};
struct F16 {
  using Stored = uint16_t;
  static constexpr const char* kSource = "IEEE 754 binary16";
  static constexpr RecordKernel kKernel = RecordKernel::kF16;
  static uint16_t Store(float value) { return FloatToHalf(Sanitise(value)); }
  static float Load(uint16_t stored) { return HalfToFloat(stored); }
};
struct Bf16 {
  using Stored = uint16_t;
  static constexpr const char* kSource = "bfloat16, round to nearest even";
  static constexpr RecordKernel kKernel = RecordKernel::kNone;
  static uint16_t Store(float value) { return FloatToBfloat16(value); }
  static float Load(uint16_t stored) { return Bfloat16ToFloat(stored); }
};

template <typename Number>
size_t RecordBytes(int head_dim) {
  return static_cast<size_t>(head_dim) * sizeof(typename Number::Stored);
}

template <typename Number>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  for (int i = 0; i < head_dim; ++i) {
    const typename Number::Stored stored = Number::Store(row[i]);
    std::memcpy(record + static_cast<size_t>(i) * sizeof stored, &stored, sizeof stored);
  }
}

template <typename Number>
void Decode(const std::byte* record, int head_dim, float* row) {
  for (int i = 0; i < head_dim; ++i) {
    typename Number::Stored stored;
    std::memcpy(&stored, record + static_cast<size_t>(i) * sizeof stored, sizeof stored);
    row[i] = Number::Load(stored);
  }
}

template <typename Number>
Codec PlainCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = Number::kSource,
                   .code_bits = 8 * static_cast<int>(sizeof(typename Number::Stored)),
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = false,
                   .normalises = false},  // there is no error for centring to lower
          .record_bytes = RecordBytes<Number>,
          .encode = Encode<Number>,
          .decode = Decode<Number>,
          .record_kernel = Number::kKernel};
}

}  // namespace

Codec F32Codec(std::string_view name, std::string_view summary) {
  return PlainCodec<F32>(name, summary);
}
Codec F16Codec(std::string_view name, std::string_view summary) {
  return PlainCodec<F16>(name, summary);
}
Codec Bf16Codec(std::string_view name, std::string_view summary) {
  return PlainCodec<Bf16>(name, summary);
}

}  // namespace polarquant
