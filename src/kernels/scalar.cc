// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: every kernel as plain loops over the definitions: the portable target, and the
// ground the others are tested against.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "codecs/codec.h"
#include "codecs/pack.h"
#include "format/tile_layout.h"
#include "kernels/kernels.h"
#include "math/rotation.h"
#include "util/half.h"

namespace polarquant {
namespace {

constexpr float kHidden = -std::numeric_limits<float>::infinity();

// ---- tiles

// The centroids of one token times their block's scale and the codec's unit.
void DecodeToken(const Codec& codec, LaneOrder order, int head_dim, const std::byte* codes,
                 const uint16_t* scales, int tokens, int token, float* row) {
  const int bits = codec.info.code_bits;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(codes);
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    const float step = HalfToFloat(scales[token]) * codec.unit;
    for (int c = block.offset; c < block.offset + block.size; ++c) {
      const CodeAddress at = AddressOf(order, bits, head_dim, token, c);
      const unsigned code =
          GetCode(bytes + at.segment_offset, bits, at.lane_blocks, at.depth, at.lane, at.step);
      row[c] = step * static_cast<float>(codec.centroids[code]);
    }
    scales += tokens;
  }
}

size_t PreparedBytes(int rows, int head_dim) {
  return static_cast<size_t>(rows) * static_cast<size_t>(head_dim) * sizeof(float);
}

void Prepare(const Codec&, const float* queries, int64_t query_stride, int rows, int head_dim,
             std::byte* prepared) {
  float* out = reinterpret_cast<float*>(prepared);
  for (int r = 0; r < rows; ++r) {
    std::copy_n(queries + r * query_stride, head_dim, out + static_cast<int64_t>(r) * head_dim);
  }
}

template <typename Element>
float ToFloat(Element value) {
  if constexpr (sizeof(Element) == sizeof(uint16_t)) {
    return HalfToFloat(value);
  } else {
    return value;
  }
}

template <typename Element>
void Score(const float* queries, int64_t query_stride, int rows, int head_dim, const Element* keys,
           int64_t row_stride, int count, float* logits, int64_t stride) {
  for (int t = 0; t < count; ++t) {
    for (int r = 0; r < rows; ++r) {
      float sum = 0.0f;
      for (int i = 0; i < head_dim; ++i) {
        const Element& key = keys[t * row_stride + i];
        sum += queries[r * query_stride + i] * ToFloat(key);  // NOLINT(clang-analyzer-core.*)
      }
      logits[r * stride + t] = sum;
    }
  }
}

template <typename Element>
void Accumulate(const float* weights, int64_t stride, int rows, int head_dim, const Element* values,
                int64_t row_stride, int count, float* acc, int64_t acc_stride) {
  for (int t = 0; t < count; ++t) {
    for (int r = 0; r < rows; ++r) {
      const float weight = weights[r * stride + t];
      for (int i = 0; i < head_dim; ++i) {
        const Element& value = values[t * row_stride + i];
        acc[r * acc_stride + i] += weight * ToFloat(value);  // NOLINT(clang-analyzer-core.*)
      }
    }
  }
}

void ScoreTiles(const Codec& codec, const std::byte* prepared, int rows, int head_dim,
                const std::byte* codes, const uint16_t* scales, int tokens, int64_t, float* logits,
                int64_t stride) {
  float key[kMaxHeadDim];
  for (int t = 0; t < tokens; ++t) {
    DecodeToken(codec, LaneOrder::kTokens, head_dim, codes, scales, tokens, t, key);
    Score(reinterpret_cast<const float*>(prepared), head_dim, rows, head_dim, key, head_dim, 1,
          logits + t, stride);
  }
}

void AccumulateTiles(const Codec& codec, const float* weights, int64_t stride, int rows,
                     int head_dim, const std::byte* codes, const uint16_t* scales, int tokens,
                     int64_t, float* acc, int64_t acc_stride) {
  float value[kMaxHeadDim];
  for (int t = 0; t < tokens; ++t) {
    DecodeToken(codec, LaneOrder::kChannels, head_dim, codes, scales, tokens, t, value);
    Accumulate(weights + t, stride, rows, head_dim, value, head_dim, 1, acc, acc_stride);
  }
}

void PrepareRows(const float* rows, int count, int head_dim, const float* mean,
                 const float* balance, float* prepared) {
  for (int r = 0; r < count; ++r, rows += head_dim, prepared += head_dim) {
    for (int i = 0; i < head_dim; ++i) {
      const float centred = Sanitise(rows[i]) - (mean != nullptr ? mean[i] : 0.0f);
      prepared[i] = balance != nullptr ? centred * balance[i] : centred;
    }
  }
}

void WriteRecords(const Codec& codec, const std::byte* records, size_t stride, int first, int count,
                  int tokens, int head_dim, bool lanes_are_tokens, std::byte* codes,
                  uint16_t* scales) {
  const int bits = codec.info.code_bits;
  const int num_scales = codec.scales_per_row(head_dim);
  const LaneOrder order = lanes_are_tokens ? LaneOrder::kTokens : LaneOrder::kChannels;
  uint8_t* bytes = reinterpret_cast<uint8_t*>(codes);
  uint8_t row[kMaxHeadDim];
  for (int t = first; t < first + count; ++t, records += stride) {
    for (int s = 0; s < num_scales; ++s) {
      std::memcpy(&scales[s * tokens + t], records + s * 2, sizeof(uint16_t));
    }
    UnpackCodes(records + num_scales * 2, head_dim, bits, row);
    for (int c = 0; c < head_dim; ++c) {
      const CodeAddress at = AddressOf(order, bits, head_dim, t, c);
      PutCode(bytes + at.segment_offset, bits, at.lane_blocks, at.depth, at.lane, at.step, row[c]);
    }
  }
}

void ReadRecords(const Codec& codec, const std::byte* codes, const uint16_t* scales, int tokens,
                 int head_dim, bool lanes_are_tokens, int first, int count, std::byte* records,
                 size_t stride) {
  const int bits = codec.info.code_bits;
  const int num_scales = codec.scales_per_row(head_dim);
  const LaneOrder order = lanes_are_tokens ? LaneOrder::kTokens : LaneOrder::kChannels;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(codes);
  uint8_t row[kMaxHeadDim];
  for (int t = first; t < first + count; ++t, records += stride) {
    for (int s = 0; s < num_scales; ++s) {
      std::memcpy(records + s * 2, &scales[s * tokens + t], sizeof(uint16_t));
    }
    for (int c = 0; c < head_dim; ++c) {
      const CodeAddress at = AddressOf(order, bits, head_dim, t, c);
      row[c] = static_cast<uint8_t>(
          GetCode(bytes + at.segment_offset, bits, at.lane_blocks, at.depth, at.lane, at.step));
    }
    PackCodes(row, head_dim, bits, records + num_scales * 2);
  }
}

// Row by row with the codec's own encoder.
void EncodeRows(const Codec& codec, const float* rows, int first, int count, int tokens,
                int head_dim, ScaleRule rule, bool lanes_are_tokens, std::byte* codes,
                uint16_t* scales) {
  std::byte record[kMaxHeadDim * 2];
  for (int t = first; t < first + count; ++t, rows += head_dim) {
    codec.encode(rows, head_dim, rule, record);
    WriteRecords(codec, record, sizeof record, t, 1, tokens, head_dim, lanes_are_tokens, codes,
                 scales);
  }
}

void DecodeTiles(const Codec& codec, const std::byte* codes, const uint16_t* scales, int tokens,
                 int head_dim, bool lanes_are_tokens, int count, float* rows) {
  const LaneOrder order = lanes_are_tokens ? LaneOrder::kTokens : LaneOrder::kChannels;
  for (int t = 0; t < count; ++t) {
    DecodeToken(codec, order, head_dim, codes, scales, tokens, t,
                rows + static_cast<int64_t>(t) * head_dim);
  }
}

// ---- ggml blocks

template <int kBlockBytes, typename Number>
void DecodeBlocks(const std::byte* records, int count, int head_dim, float* rows,
                  const Number& number) {
  const int64_t blocks = static_cast<int64_t>(count) * (head_dim / 32);
  for (int64_t b = 0; b < blocks; ++b, records += kBlockBytes, rows += 32) {
    uint16_t scale;
    std::memcpy(&scale, records, sizeof scale);
    for (int i = 0; i < 32; ++i) {
      rows[i] = HalfToFloat(scale) * static_cast<float>(number(records + 2, i));
    }
  }
}

void DecodeQ8(const std::byte* records, int count, int head_dim, float* rows) {
  DecodeBlocks<34>(records, count, head_dim, rows, [](const std::byte* bytes, int i) {
    return static_cast<int>(static_cast<int8_t>(bytes[i]));
  });
}

void DecodeQ4(const std::byte* records, int count, int head_dim, float* rows) {
  DecodeBlocks<18>(records, count, head_dim, rows, [](const std::byte* bytes, int i) {
    return (std::to_integer<int>(bytes[i % 16]) >> (i < 16 ? 0 : 4) & 15) - 8;
  });
}

// ---- softmax and conversions

float ShapeLogits(float* logits, int count, float scale, float softcap, float slope,
                  const uint16_t* mask) {
  float max = kHidden;
  for (int i = 0; i < count; ++i) {
    float x = scale * logits[i];
    if (softcap != 0.0f) x = softcap * std::tanh(x / softcap);
    if (mask != nullptr) {
      const float m = HalfToFloat(mask[i]);
      x = m > kHidden ? x + slope * m : kHidden;
    }
    logits[i] = x;
    max = std::max(max, x);
  }
  return max;
}

float ExpSum(float* logits, int count, float max) {
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) {
    logits[i] = logits[i] > kHidden ? std::exp(logits[i] - max) : 0.0f;
    sum += logits[i];
  }
  return sum;
}

void ScaleRow(float* row, int count, float factor) {
  for (int i = 0; i < count; ++i) row[i] *= factor;
}

void RotateRows(float* rows, int64_t row_stride, int count, int head_dim) {
  for (int r = 0; r < count; ++r) Rotate(rows + r * row_stride, head_dim);
}

void UnrotateRows(float* rows, int64_t row_stride, int count, int head_dim) {
  for (int r = 0; r < count; ++r) Unrotate(rows + r * row_stride, head_dim);
}

void HalvesToFloats(const uint16_t* halves, int64_t count, float* floats) {
  for (int64_t i = 0; i < count; ++i) floats[i] = HalfToFloat(halves[i]);
}

void FloatsToHalves(const float* floats, int64_t count, uint16_t* halves) {
  for (int64_t i = 0; i < count; ++i) halves[i] = FloatToHalf(Sanitise(floats[i]));
}

constexpr TileKernels kTiles = {&PreparedBytes, &Prepare, &ScoreTiles, &AccumulateTiles};

constexpr Kernels kTable = {
    .target = "scalar",
    .tile2 = kTiles,
    .tile3 = kTiles,
    .tile4 = kTiles,
    .score_f16 = &Score<uint16_t>,
    .accumulate_f16 = &Accumulate<uint16_t>,
    .score_f32 = &Score<float>,
    .accumulate_f32 = &Accumulate<float>,
    .decode_q8_0 = &DecodeQ8,
    .decode_q4_0 = &DecodeQ4,
    .shape_logits = &ShapeLogits,
    .exp_sum = &ExpSum,
    .scale_row = &ScaleRow,
    .rotate = &RotateRows,
    .unrotate = &UnrotateRows,
    .prepare_rows = &PrepareRows,
    .encode_rows = &EncodeRows,
    .read_records = &ReadRecords,
    .write_records = &WriteRecords,
    .decode_tiles = &DecodeTiles,
    .half_to_float = &HalvesToFloats,
    .float_to_half = &FloatsToHalves,
};

}  // namespace

const Kernels& ScalarKernels() { return kTable; }

}  // namespace polarquant
