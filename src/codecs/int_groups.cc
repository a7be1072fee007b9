// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: int2 and int4, the affine groups of quanto's quantised cache in transformers
// (axis 0: groups of 64 neighbouring channels of one row). A head_dim that is no multiple of 64 has
// a shorter last group. A record is an f16 scale and an f16 shift for each group, then all codes
// packed (codecs/pack.h):
//
//   scale = (max - min) / (2^b - 1), shift = 0 - min
//   code  = (x + shift) / scale to nearest, ties to even, within 0 .. 2^b - 1
//   value = code * scale - shift
//
// The codes are those of the scale and shift as stored. A group without extent has scale 0 and
// codes 0: its value is -shift.
#include <algorithm>
#include <cmath>

#include "codecs/codecs.h"
#include "codecs/pack.h"
#include "codecs/record.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kGroup = 64;
constexpr size_t kGroupBytes = 4;

size_t HeadBytes(int head_dim) {
  return static_cast<size_t>((head_dim + kGroup - 1) / kGroup) * kGroupBytes;
}

template <int kBits>
size_t RecordBytes(int head_dim) {
  return HeadBytes(head_dim) + PackedBytes(head_dim, kBits);
}

template <int kBits>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  constexpr float kTop = static_cast<float>((1 << kBits) - 1);
  uint8_t codes[kMaxHeadDim] = {};
  std::byte* head = record;
  for (int begin = 0; begin < head_dim; begin += kGroup, head += kGroupBytes) {
    const int end = std::min(begin + kGroup, head_dim);
    const auto [low, high] = std::minmax_element(row + begin, row + end);
    const float scale = StoreHalf((*high - *low) / kTop, head);
    const float shift = StoreHalf(0.0f - *low, head + 2);
    for (int i = begin; i < end && scale > 0.0f; ++i) {
      const float steps = std::clamp((row[i] + shift) / scale, 0.0f, kTop);
      codes[i] = static_cast<uint8_t>(std::nearbyint(steps));
    }
  }
  PackCodes(codes, head_dim, kBits, head);
}

template <int kBits>
void Decode(const std::byte* record, int head_dim, float* row) {
  uint8_t codes[kMaxHeadDim];
  UnpackCodes(record + HeadBytes(head_dim), head_dim, kBits, codes);
  for (int begin = 0; begin < head_dim; begin += kGroup, record += kGroupBytes) {
    const float scale = LoadHalf(record), shift = LoadHalf(record + 2);
    for (int i = begin; i < std::min(begin + kGroup, head_dim); ++i) {
      row[i] = static_cast<float>(codes[i]) * scale - shift;
    }
  }
}

}  // namespace

template <int kBits>
Codec IntGroupCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = "optimum-quanto, the quantised cache of transformers",
                   .code_bits = kBits,
                   .keys = true,
                   .values = true,
                   .rotates = false,
                   .scale_rules = false},
          .record_bytes = RecordBytes<kBits>,
          .encode = Encode<kBits>,
          .decode = Decode<kBits>};
}

template Codec IntGroupCodec<2>(std::string_view, std::string_view);
template Codec IntGroupCodec<4>(std::string_view, std::string_view);

}  // namespace polarquant
