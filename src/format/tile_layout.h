// SPDX-License-Identifier: Apache-2.0
// Stage 4, pack: where the code of (token, channel) lies inside a page of a tile codec.
//
// Codes are unpacked by kernels into vectors of 64 bytes, 16 lanes x 4 depth steps: what one byte
// shuffle looks up and one integer dot-product instruction consumes. Lanes never need to be summed
// with each other. For keys a lane is a token and depth runs over channels; for values a lane is a
// channel and depth runs over tokens.
//
// A page is a sequence of tiles of 64 tokens. A tile is a sequence of segments. A segment packs
// four fields (vectors of 64 codes) into 16*bits bytes a field:
//
//   L lane blocks of 16 lanes (L = 4, 2 or 1) and depth quads: field f of group q holds lane block
//   f % L and depth quad q * (4 / L) + f / L.
//
//   4 bits: group = two vectors of 64 bytes, vector p = field 2p in the low nibbles, field 2p+1 in
//           the high ones. All groups' vectors 0 first, then all vectors 1.
//   2 bits: group = one vector, field f in bits 2f, 2f+1.
//   3 bits: two groups (even and odd) = three vectors A, B, C; low six bits: A = fields 0, 1 of the
//           even group, B = fields 2, 3 of the even group, C = fields 0, 1 of the odd group; the
//           top two bits of A, B, C = fields 2, 3 of the odd group, low bits first.
//
// Keys: one segment with L = 4 (64 tokens), depth head_dim. Values: the channels are cut into
// segments of 64 (L = 4), then 32 (L = 2), then 16 (L = 1), each of depth 64 tokens.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polarquant {

inline constexpr int kTileTokens = 64;

// Whether tiles or rows lie in this order: keys have tokens as lanes, values channels.
enum class LaneOrder { kTokens, kChannels };

constexpr size_t SegmentBytes(int bits, int lane_blocks, int depth) {
  return static_cast<size_t>(lane_blocks) * 16 * static_cast<size_t>(depth) *
         static_cast<size_t>(bits) / 8;
}
constexpr size_t TileBytes(int bits, int head_dim) {
  return static_cast<size_t>(kTileTokens) * static_cast<size_t>(head_dim) *
         static_cast<size_t>(bits) / 8;
}

// The lane blocks of the segment that channel block `block` (of 16 channels) belongs to, and the
// segment's first block: 80 channels = blocks 0-3 in a segment of four, block 4 in one of one.
struct Segment {
  int first_block, lane_blocks;
};
constexpr Segment ChannelSegment(int block, int num_blocks) {
  const int whole = num_blocks / 4 * 4;
  if (block < whole) return {block / 4 * 4, 4};
  if ((num_blocks & 2) != 0 && block < whole + 2) return {whole, 2};
  return {num_blocks - 1, 1};
}

// Where the code of (lane, step) lies in its segment. The codes of a lane's depth quad are
// neighbours: same shift, one byte after another.
struct CodePlace {
  size_t byte;
  int shift;
  bool split;  // 3 bits only: the odd group's fields 2, 3 lie in three bytes, 64 apart
};

constexpr CodePlace PlaceOf(int bits, int lane_blocks, int depth, int lane, int step) {
  const int per_group = 4 / lane_blocks;  // depth quads in a group
  const int quad = step / 4;
  const int group = quad / per_group;
  const int field = (quad % per_group) * lane_blocks + lane / 16;
  const int offset = (lane % 16) * 4 + step % 4;
  const int groups = depth / 4 / per_group;
  if (bits == 4) {
    const int vector = (field / 2) * groups + group;
    return {static_cast<size_t>(vector) * 64 + static_cast<size_t>(offset), 4 * (field % 2), false};
  }
  if (bits == 2) {
    return {static_cast<size_t>(group) * 64 + static_cast<size_t>(offset), 2 * field, false};
  }
  const size_t base = static_cast<size_t>(group / 2) * 192 + static_cast<size_t>(offset);
  const int shift = 3 * (field % 2);
  if (group % 2 == 0) return {base + static_cast<size_t>(field / 2) * 64, shift, false};
  if (field < 2) return {base + 128, shift, false};
  return {base, shift, true};
}

// Sets the code of (lane, step) in a zeroed segment. lane < 16 * lane_blocks, step < depth.
inline void PutCode(uint8_t* segment, int bits, int lane_blocks, int depth, int lane, int step,
                    unsigned code) {
  const CodePlace place = PlaceOf(bits, lane_blocks, depth, lane, step);
  if (!place.split) {
    const unsigned mask = ((1u << bits) - 1u) << place.shift;
    segment[place.byte] =
        static_cast<uint8_t>((segment[place.byte] & ~mask) | (code << place.shift));
    return;
  }
  const unsigned value = code << place.shift;  // six bits in three pairs
  const unsigned mask = 7u << place.shift;
  for (int part = 0; part < 3; ++part) {
    uint8_t& byte = segment[place.byte + static_cast<size_t>(part) * 64];
    const unsigned old_pair = byte >> 6;
    const unsigned pair_mask = (mask >> (2 * part)) & 3u;
    const unsigned pair = (old_pair & ~pair_mask) | ((value >> (2 * part)) & 3u & pair_mask);
    byte = static_cast<uint8_t>((byte & 63u) | (pair << 6));
  }
}

inline unsigned GetCode(const uint8_t* segment, int bits, int lane_blocks, int depth, int lane,
                        int step) {
  const CodePlace place = PlaceOf(bits, lane_blocks, depth, lane, step);
  if (!place.split) return (segment[place.byte] >> place.shift) & ((1u << bits) - 1u);
  unsigned value = 0;
  for (int part = 0; part < 3; ++part) {
    value |= static_cast<unsigned>(segment[place.byte + static_cast<size_t>(part) * 64] >> 6)
             << (2 * part);
  }
  return (value >> place.shift) & 7u;
}

// The code of (token, channel) of a page: `codes` is the start of the page's codes.
struct CodeAddress {
  size_t segment_offset;
  int lane_blocks, depth, lane, step;
};
constexpr CodeAddress AddressOf(LaneOrder order, int bits, int head_dim, int token, int channel) {
  const size_t tile = static_cast<size_t>(token / kTileTokens) * TileBytes(bits, head_dim);
  const int in_tile = token % kTileTokens;
  if (order == LaneOrder::kTokens) return {tile, 4, head_dim, in_tile, channel};
  const Segment segment = ChannelSegment(channel / 16, head_dim / 16);
  return {tile + SegmentBytes(bits, segment.first_block, kTileTokens), segment.lane_blocks,
          kTileTokens, channel - segment.first_block * 16, in_tile};
}

}  // namespace polarquant
