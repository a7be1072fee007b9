// SPDX-License-Identifier: Apache-2.0
// Stages 3/7 and 4/7, quantise and pack: whole tiles, bit-identical to the codec's own encoder on
// every target (codecs/turbo-inl.h has the order kept).
#pragma once

#include "codecs/codec.h"
#include "codecs/turbo-inl.h"
#include "format/tile_layout.h"
#include "kernels/kernels.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

// Sixteen lanes of four depth steps, a code a byte.
struct Field {
  uint32_t lanes[16];
};

// `codes` [lane][lane_stride]: the field of lane block `block` and depth quad `quad`.
inline Field GatherField(const uint8_t* codes, int64_t lane_stride, int block, int quad) {
  Field field;
  for (int i = 0; i < 16; ++i) {
    __builtin_memcpy(&field.lanes[i], codes + (16 * block + i) * lane_stride + 4 * quad, 4);
  }
  return field;
}

inline void StoreField(uint8_t* out, const Field& field) {
  __builtin_memcpy(out, field.lanes, sizeof field.lanes);
}

// Packs the codes of one segment, [16 * lane_blocks][lane_stride], into its bytes.
inline void PackSegment(const uint8_t* codes, int64_t lane_stride, int bits, int lane_blocks,
                        int depth, uint8_t* segment) {
  const int per_group = 4 / lane_blocks;
  const int groups = depth / 4 / per_group;
  Field odd[2] = {};
  for (int group = groups - 1; group >= 0; --group) {  // odd before even: 3 bits need both
    Field fields[4];
    for (int f = 0; f < 4; ++f) {
      fields[f] =
          GatherField(codes, lane_stride, f % lane_blocks, group * per_group + f / lane_blocks);
    }
    Field pairs[2];
    const int shift = bits == 2 ? 2 : bits;
    for (int p = 0; p < 2; ++p) {
      for (int i = 0; i < 16; ++i) {
        pairs[p].lanes[i] = fields[2 * p].lanes[i] | fields[2 * p + 1].lanes[i] << shift;
      }
    }
    if (bits == 4) {
      StoreField(segment + static_cast<size_t>(group) * 64, pairs[0]);
      StoreField(segment + static_cast<size_t>(groups + group) * 64, pairs[1]);
    } else if (bits == 2) {
      for (int i = 0; i < 16; ++i) pairs[0].lanes[i] |= pairs[1].lanes[i] << 4;
      StoreField(segment + static_cast<size_t>(group) * 64, pairs[0]);
    } else if (group % 2 == 1) {
      odd[0] = pairs[0];
      odd[1] = pairs[1];
    } else {
      for (int i = 0; i < 16; ++i) {
        const uint32_t top = odd[1].lanes[i];
        pairs[0].lanes[i] |= (top & 0x03030303u) << 6;
        pairs[1].lanes[i] |= (top >> 2 & 0x03030303u) << 6;
        odd[0].lanes[i] |= (top >> 4 & 0x03030303u) << 6;
      }
      uint8_t* base = segment + static_cast<size_t>(group / 2) * 192;
      StoreField(base, pairs[0]);
      StoreField(base + 64, pairs[1]);
      StoreField(base + 128, odd[0]);
    }
  }
}

void EncodeTiles(const Codec& codec, const float* rows, int tokens, int head_dim, ScaleRule rule,
                 bool lanes_are_tokens, std::byte* codes, uint16_t* scales) {
  const TurboBook& book = TurboBookOf(codec.info.code_bits);
  const int bits = book.bits;
  const auto blocks = RotationBlocks(head_dim);
  const int num_blocks = static_cast<int>(blocks.size());
  alignas(64) uint8_t matrix[kTileTokens * kMaxHeadDim];  // [token][channel]
  alignas(64) uint8_t transposed[64 * kTileTokens];       // [channel of a segment][token]
  for (int first = 0; first < tokens; first += kTileTokens) {
    uint8_t* tile = reinterpret_cast<uint8_t*>(codes) +
                    static_cast<size_t>(first / kTileTokens) * TileBytes(bits, head_dim);
    for (int t = 0; t < kTileTokens; ++t) {
      const float* row = rows + static_cast<int64_t>(first + t) * head_dim;
      for (int b = 0; b < num_blocks; ++b) {
        scales[static_cast<int64_t>(b) * tokens + first + t] =
            EncodeTurboBlock(book, row + blocks[b].offset, blocks[b].size, rule,
                             matrix + t * head_dim + blocks[b].offset);
      }
    }
    if (lanes_are_tokens) {
      PackSegment(matrix, head_dim, bits, 4, head_dim, tile);
      continue;
    }
    for (int channel = 0; channel < head_dim;) {
      const Segment segment = ChannelSegment(channel / 16, head_dim / 16);
      const int lanes = 16 * segment.lane_blocks;
      for (int t = 0; t < kTileTokens; ++t) {
        for (int c = 0; c < lanes; ++c) {
          transposed[c * kTileTokens + t] = matrix[t * head_dim + channel + c];
        }
      }
      PackSegment(transposed, kTileTokens, bits, segment.lane_blocks, kTileTokens,
                  tile + SegmentBytes(bits, segment.first_block, kTileTokens));
      channel += lanes;
    }
  }
}

}  // namespace
}  // namespace polarquant
