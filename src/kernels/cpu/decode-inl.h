// SPDX-License-Identifier: Apache-2.0
// Stages 4/7 and 3/7 backwards, unpack and look up: whole tiles to f32 rows, bit-identical to the
// codec's own decoder on every target. Attention never does this; whoever wants rows does.
#pragma once

#include "codecs/codec.h"
#include "format/tile_layout.h"
#include "kernels/cpu/tiles-inl.h"
#include "kernels/kernels.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kFieldBytes = 64;  // 16 lanes of four depth steps

// The centroids of the four fields of a group, as signed bytes.
template <int kBits>
inline void LookUpGroup(const uint8_t* segment, int groups, int group, Simd::Codes table,
                        uint8_t* fields) {
  for (int part = 0; part < Simd::kParts; ++part) {
    const int at = part * Simd::kPartBytes;
#pragma GCC unroll 2
    for (int pair = 0; pair < 2; ++pair) {
      const Simd::Codes codes = PairOfGroup<kBits>(segment + at, groups, group, pair, 0);
      const int shift = kBits == 2 ? 4 * pair : 0;
      uint8_t* even = fields + 2 * pair * kFieldBytes + at;
      Simd::StoreCodes(even, Simd::PickBytes(table, Simd::FieldAt<kBits>(codes, shift)));
      Simd::StoreCodes(even + kFieldBytes,
                       Simd::PickBytes(table, Simd::FieldAt<kBits>(codes, shift + kBits)));
    }
  }
}

// Lanes are tokens: each takes four channels of a field.
inline void PutTokens(const uint8_t* field, uint8_t* to, int head_dim) {
  for (int lane = 0; lane < 16; ++lane) {
    __builtin_memcpy(to + lane * head_dim, field + 4 * lane, 4);
  }
}

// Lanes are channels: a field is four tokens of sixteen channels, channel after channel.
inline void PutChannels(const uint8_t* field, uint8_t* to, int head_dim) {
  using Bytes = uint8_t __attribute__((vector_size(16)));
  using Words = uint32_t __attribute__((vector_size(16)));
  Words words[4];  // of channels 4 i .. 4 i + 3: a word a token
  for (int i = 0; i < 4; ++i) {
    Bytes bytes;
    __builtin_memcpy(&bytes, field + 16 * i, sizeof bytes);
    bytes =
        __builtin_shufflevector(bytes, bytes, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __builtin_memcpy(&words[i], &bytes, sizeof bytes);
  }
  const Words first = __builtin_shufflevector(words[0], words[1], 0, 4, 1, 5);
  const Words second = __builtin_shufflevector(words[0], words[1], 2, 6, 3, 7);
  const Words third = __builtin_shufflevector(words[2], words[3], 0, 4, 1, 5);
  const Words fourth = __builtin_shufflevector(words[2], words[3], 2, 6, 3, 7);
  const Words tokens[4] = {__builtin_shufflevector(first, third, 0, 1, 4, 5),
                           __builtin_shufflevector(first, third, 2, 3, 6, 7),
                           __builtin_shufflevector(second, fourth, 0, 1, 4, 5),
                           __builtin_shufflevector(second, fourth, 2, 3, 6, 7)};
  for (int token = 0; token < 4; ++token) {
    __builtin_memcpy(to + token * head_dim, &tokens[token], sizeof tokens[token]);
  }
}

// Channels of a tile that are worked on at once: a multiple of the channels of a segment, few
// enough for the stack of any thread.
constexpr int kChannelsAtOnce = 256;

// The centroids of channels begin..end-1 of one tile, [token][end - begin], as signed bytes.
template <int kBits>
inline void LookUpTile(const uint8_t* tile, int head_dim, bool lanes_are_tokens, int begin, int end,
                       Simd::Codes table, uint8_t* matrix) {
  alignas(64) uint8_t fields[4 * kFieldBytes];
  const int width = end - begin;
  if (lanes_are_tokens) {
    for (int group = begin / 4; group < end / 4; ++group) {
      LookUpGroup<kBits>(tile, head_dim / 4, group, table, fields);
      for (int f = 0; f < 4; ++f) {
        PutTokens(fields + f * kFieldBytes, matrix + 16 * f * width + 4 * group - begin, width);
      }
    }
    return;
  }
  for (int block = begin / 16; block < end / 16;) {
    const Segment segment = ChannelSegment(block, head_dim / 16);
    const uint8_t* codes = tile + SegmentBytes(kBits, segment.first_block, kTileTokens);
    const int quads = 4 / segment.lane_blocks;  // of a group
    const int groups = kTileTokens / 4 / quads;
    for (int group = 0; group < groups; ++group) {
      LookUpGroup<kBits>(codes, groups, group, table, fields);
      for (int f = 0; f < 4; ++f) {
        const int token = 4 * (group * quads + f / segment.lane_blocks);
        const int channel = 16 * (block + f % segment.lane_blocks);
        PutChannels(fields + f * kFieldBytes, matrix + token * width + channel - begin, width);
      }
    }
    block += segment.lane_blocks;
  }
}

template <int kBits>
inline void DecodeTilesOf(const Codec& codec, const std::byte* codes, const uint16_t* scales,
                          int tokens, int head_dim, bool lanes_are_tokens, int count, float* rows) {
  uint8_t entries[16] = {};
  for (int i = 0; i < 1 << kBits; ++i) entries[i] = static_cast<uint8_t>(codec.centroids[i]);
  const Simd::Codes table = Simd::RepeatBytes(entries);
  const auto blocks = RotationBlocks(head_dim);
  alignas(64) uint8_t matrix[kTileTokens * kChannelsAtOnce];
  for (int first = 0; first < count; first += kTileTokens) {
    const size_t tile = static_cast<size_t>(first / kTileTokens) * TileBytes(kBits, head_dim);
    const int here = count - first < kTileTokens ? count - first : kTileTokens;
    for (int begin = 0; begin < head_dim; begin += kChannelsAtOnce) {
      const int width =
          head_dim - begin < kChannelsAtOnce ? head_dim - begin : int{kChannelsAtOnce};
      LookUpTile<kBits>(reinterpret_cast<const uint8_t*>(codes) + tile, head_dim, lanes_are_tokens,
                        begin, begin + width, table, matrix);
      for (size_t b = 0; b < blocks.size(); ++b) {
        const int from = blocks[b].offset > begin ? blocks[b].offset : begin;
        const int block_end = blocks[b].offset + blocks[b].size;
        const int to = block_end < begin + width ? block_end : begin + width;
        if (from >= to) continue;
        float scale[kTileTokens];
        LoadScales(scales + static_cast<int64_t>(b) * tokens + first, kTileTokens, codec.unit, 0,
                   scale);
        for (int t = 0; t < here; ++t) {
          const auto* bytes = reinterpret_cast<const int8_t*>(matrix + t * width - begin);
          float* row = rows + static_cast<int64_t>(first + t) * head_dim;
          const Simd::F step = Simd::Set(scale[t]);
          for (int c = from; c < to; c += Simd::kWidth) {
            Simd::Store(row + c, Simd::Mul(step, Simd::LoadBytes(bytes + c)));
          }
        }
      }
    }
  }
}

void DecodeTiles(const Codec& codec, const std::byte* codes, const uint16_t* scales, int tokens,
                 int head_dim, bool lanes_are_tokens, int count, float* rows) {
  const auto decode = codec.info.code_bits == 2   ? &DecodeTilesOf<2>
                      : codec.info.code_bits == 3 ? &DecodeTilesOf<3>
                                                  : &DecodeTilesOf<4>;
  decode(codec, codes, scales, tokens, head_dim, lanes_are_tokens, count, rows);
}

}  // namespace
}  // namespace polarquant
