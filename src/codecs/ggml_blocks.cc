// SPDX-License-Identifier: Apache-2.0
// Stage 3/7 quantise: ggml's q8_0 and q4_0, byte for byte, so that our figures for llama.cpp's own
// quantised caches are theirs. A record is head_dim / 32 blocks, each an f16 scale d and 32 codes:
//
//   q8_0 (34 bytes)  d = max|x| / 127, code = round(x / d) as int8, halves away from zero
//   q4_0 (18 bytes)  d = m / -8 with m the first value of largest magnitude (signed), code =
//                    min(15, floor(x / d + 8.5)); byte j: value j low, value j + 16 high
//
// The quotient is x times the f32 reciprocal of the unrounded d. Two things differ where ggml would
// leave the numbers: a d beyond f16 is stored as +-65504, and one whose reciprocal overflows makes
// a block of zeros.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "codecs/codecs.h"
#include "polarquant/error.h"
#include "util/half.h"

namespace polarquant {
namespace {

constexpr int kBlock = 32;

struct Scale {
  uint16_t half;
  float inverse;
};

Scale ScaleOf(float d) {
  const float clamped = Sanitise(d);
  const bool usable = std::fabs(clamped) >= std::numeric_limits<float>::min();
  return {FloatToHalf(clamped), usable ? 1.0f / clamped : 0.0f};
}

struct Q8_0 {
  static constexpr const char* kName = "q8_0";
  static constexpr const char* kSource = "ggml block_q8_0";
  static constexpr RecordKernel kKernel = RecordKernel::kQ8_0;
  static constexpr int kBits = 8;

  static void Encode(const float* x, std::byte* block) {
    float largest = 0.0f;
    for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
    const Scale scale = ScaleOf(largest / 127.0f);
    std::memcpy(block, &scale.half, sizeof scale.half);
    for (int i = 0; i < kBlock; ++i) {
      const float code = std::clamp(std::round(x[i] * scale.inverse), -127.0f, 127.0f);
      block[2 + i] = static_cast<std::byte>(static_cast<int8_t>(code));
    }
  }
  static void Decode(const std::byte* block, float d, float* x) {
    for (int i = 0; i < kBlock; ++i) {
      x[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    }
  }
};

struct Q4_0 {
  static constexpr const char* kName = "q4_0";
  static constexpr const char* kSource = "ggml block_q4_0";
  static constexpr RecordKernel kKernel = RecordKernel::kQ4_0;
  static constexpr int kBits = 4;

  static unsigned Code(float x, const Scale& scale) {
    return static_cast<unsigned>(std::clamp(x * scale.inverse + 8.5f, 0.0f, 15.0f));
  }
  static void Encode(const float* x, std::byte* block) {
    float extreme = 0.0f;
    for (int i = 0; i < kBlock; ++i) {
      if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    }
    const Scale scale = ScaleOf(extreme / -8.0f);
    std::memcpy(block, &scale.half, sizeof scale.half);
    for (int i = 0; i < kBlock / 2; ++i) {
      block[2 + i] =
          static_cast<std::byte>(Code(x[i], scale) | Code(x[i + kBlock / 2], scale) << 4);
    }
  }
  static void Decode(const std::byte* block, float d, float* x) {
    for (int i = 0; i < kBlock / 2; ++i) {
      const int pair = std::to_integer<int>(block[2 + i]);
      x[i] = d * static_cast<float>((pair & 15) - 8);
      x[i + kBlock / 2] = d * static_cast<float>((pair >> 4) - 8);
    }
  }
};

template <typename Block>
constexpr size_t kBlockBytes = 2 + (kBlock * Block::kBits) / 8;

template <typename Block>
size_t RecordBytes(int head_dim) {
  if (head_dim % kBlock != 0) {
    throw Error(ErrorCode::kUnsupported,
                "head_dim " + std::to_string(head_dim) + " is not supported by " + Block::kName +
                    ": its blocks need a multiple of 32; choose a turbo codec, which takes " +
                    "multiples of 16");
  }
  return static_cast<size_t>(head_dim / kBlock) * kBlockBytes<Block>;
}

template <typename Block>
void Encode(const float* row, int head_dim, ScaleRule, std::byte* record) {
  for (int i = 0; i < head_dim; i += kBlock, record += kBlockBytes<Block>) {
    Block::Encode(row + i, record);
  }
}

template <typename Block>
void Decode(const std::byte* record, int head_dim, float* row) {
  for (int i = 0; i < head_dim; i += kBlock, record += kBlockBytes<Block>) {
    uint16_t half = 0;
    std::memcpy(&half, record, sizeof half);
    Block::Decode(record, HalfToFloat(half), row + i);
  }
}

template <typename Block>
Codec BlockCodec(std::string_view name, std::string_view summary) {
  return {.info = {.name = name,
                   .summary = summary,
                   .source = Block::kSource,
                   .code_bits = Block::kBits,
                   .keys = true,
                   .values = true,
                   .rotates = true,
                   .scale_rules = false},
          .record_bytes = RecordBytes<Block>,
          .encode = Encode<Block>,
          .decode = Decode<Block>,
          .record_kernel = Block::kKernel};
}

}  // namespace

Codec Q8_0Codec(std::string_view name, std::string_view summary) {
  return BlockCodec<Q8_0>(name, summary);
}
Codec Q4_0Codec(std::string_view name, std::string_view summary) {
  return BlockCodec<Q4_0>(name, summary);
}

}  // namespace polarquant
