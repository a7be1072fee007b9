// SPDX-License-Identifier: Apache-2.0
// Stage 4/7, pack: the codes of one row, a byte each, to and from their places in a tile and in a
// record. Words of 32 bits instead of single codes: of a key's field a word is four channels of one
// token, of a value's field four tokens of one channel. Eight codes of a record are packed at once,
// by moving halves of ever larger words together.
#pragma once

#include "codecs/codec.h"
#include "format/tile_layout.h"
#include "kernels/kernels.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

inline uint32_t LoadWord(const uint8_t* at) {
  uint32_t word;
  __builtin_memcpy(&word, at, sizeof word);
  return word;
}
inline void StoreWord(uint8_t* at, uint32_t word) { __builtin_memcpy(at, &word, sizeof word); }

template <int kBits>
inline constexpr uint32_t kCodeBytes = 0x01010101u * ((1u << kBits) - 1u);

// The four codes of the word at `at`, whose first is at `place`.
template <int kBits>
inline uint32_t GetWord(const uint8_t* at, const CodePlace& place) {
  if (kBits != 3 || !place.split) return LoadWord(at) >> place.shift & kCodeBytes<kBits>;
  const uint32_t six = (LoadWord(at) >> 6 & 0x03030303u) | (LoadWord(at + 64) >> 4 & 0x0c0c0c0cu) |
                       (LoadWord(at + 128) >> 2 & 0x30303030u);
  return six >> place.shift & kCodeBytes<kBits>;
}

// And back, those in the bytes `where`; the others of `codes` are zero.
template <int kBits>
inline void PutWord(uint8_t* at, const CodePlace& place, uint32_t codes, uint32_t where) {
  const uint32_t mask = (kCodeBytes<kBits> & where) << place.shift;
  const uint32_t bits = codes << place.shift;
  if (kBits != 3 || !place.split) {
    StoreWord(at, (LoadWord(at) & ~mask) | bits);
    return;
  }
#pragma GCC unroll 3
  for (int part = 0; part < 3; ++part) {
    const uint32_t pair_mask = (mask >> (2 * part) & 0x03030303u) << 6;
    const uint32_t pair = (bits >> (2 * part) & 0x03030303u) << 6;
    StoreWord(at + 64 * part, (LoadWord(at + 64 * part) & ~pair_mask) | pair);
  }
}

// Calls visit(place, block) for each block of sixteen channels of a row of values: the place of its
// first channel in the tile, of the first token of the row's quad.
template <int kBits, typename Visit>
inline void VisitChannels(int head_dim, int in_tile, const Visit& visit) {
  for (int block = 0; block < head_dim / 16; ++block) {
    const Segment segment = ChannelSegment(block, head_dim / 16);
    CodePlace place = PlaceOf(kBits, segment.lane_blocks, kTileTokens,
                              16 * (block - segment.first_block), in_tile / 4 * 4);
    place.byte += SegmentBytes(kBits, segment.first_block, kTileTokens);
    visit(place, block);
  }
}

template <int kBits>
inline void GetRow(const uint8_t* tile, int head_dim, bool lanes_are_tokens, int in_tile,
                   uint8_t* codes) {
  if (lanes_are_tokens) {
    for (int c = 0; c < head_dim; c += 4) {
      const CodePlace place = PlaceOf(kBits, 4, head_dim, in_tile, c);
      StoreWord(codes + c, GetWord<kBits>(tile + place.byte, place));
    }
    return;
  }
  constexpr uint32_t kCode = (1u << kBits) - 1u;
  const int shift = in_tile % 4 * 8;
  VisitChannels<kBits>(head_dim, in_tile, [&](const CodePlace& place, int block) {
    uint32_t words[16];
    for (int lane = 0; lane < 16; ++lane) {
      words[lane] = GetWord<kBits>(tile + place.byte + 4 * lane, place) >> shift & kCode;
    }
    for (int lane = 0; lane < 16; ++lane) {
      codes[16 * block + lane] = static_cast<uint8_t>(words[lane]);
    }
  });
}

template <int kBits>
inline void PutRow(const uint8_t* codes, int head_dim, bool lanes_are_tokens, int in_tile,
                   uint8_t* tile) {
  if (lanes_are_tokens) {
    for (int c = 0; c < head_dim; c += 4) {
      const CodePlace place = PlaceOf(kBits, 4, head_dim, in_tile, c);
      PutWord<kBits>(tile + place.byte, place, LoadWord(codes + c), ~0u);
    }
    return;
  }
  const int shift = in_tile % 4 * 8;
  VisitChannels<kBits>(head_dim, in_tile, [&](const CodePlace& place, int block) {
    for (int lane = 0; lane < 16; ++lane) {
      PutWord<kBits>(tile + place.byte + 4 * lane, place,
                     static_cast<uint32_t>(codes[16 * block + lane]) << shift, 255u << shift);
    }
  });
}

// The lower `used` bits of each of the parts of `width` bits.
constexpr uint64_t Parts(int width, int used) {
  const uint64_t part = (uint64_t{1} << used) - 1u;
  return width == 64 ? part : width == 32 ? part * 0x100000001u : part * 0x1000100010001u;
}

template <int kBits>
inline uint64_t PackEight(const uint8_t* codes) {
  uint64_t x;
  __builtin_memcpy(&x, codes, sizeof x);
  x = (x | x >> (8 - kBits)) & Parts(16, 2 * kBits);
  x = (x | x >> (16 - 2 * kBits)) & Parts(32, 4 * kBits);
  return (x | x >> (32 - 4 * kBits)) & Parts(64, 8 * kBits);
}

template <int kBits>
inline void UnpackEight(uint64_t x, uint8_t* codes) {
  x = (x | x << (32 - 4 * kBits)) & Parts(32, 4 * kBits);
  x = (x | x << (16 - 2 * kBits)) & Parts(16, 2 * kBits);
  x = (x | x << (8 - kBits)) & (uint64_t{kCodeBytes<kBits>} * 0x100000001u);
  __builtin_memcpy(codes, &x, sizeof x);
}

// Sixteen codes are 4, 6 or 8 bytes: six are moved as four and two.
template <int kBits>
inline void PackRow(const uint8_t* codes, int head_dim, uint8_t* packed) {
  for (int c = 0; c < head_dim; c += 16, packed += 2 * kBits) {
    const uint64_t x = PackEight<kBits>(codes + c) | PackEight<kBits>(codes + c + 8) << 8 * kBits;
    __builtin_memcpy(packed, &x, kBits == 3 ? 4 : 2 * kBits);
    const auto rest = static_cast<uint16_t>(x >> 32);
    if constexpr (kBits == 3) __builtin_memcpy(packed + 4, &rest, sizeof rest);
  }
}

template <int kBits>
inline void UnpackRow(const uint8_t* packed, int head_dim, uint8_t* codes) {
  for (int c = 0; c < head_dim; c += 16, packed += 2 * kBits) {
    uint64_t x = LoadWord(packed);
    if constexpr (kBits == 3) {
      uint16_t rest;
      __builtin_memcpy(&rest, packed + 4, sizeof rest);
      x |= uint64_t{rest} << 32;
    } else if constexpr (kBits == 4) {
      x |= uint64_t{LoadWord(packed + 4)} << 32;
    }
    UnpackEight<kBits>(x & Parts(64, 8 * kBits), codes + c);
    UnpackEight<kBits>(x >> 8 * kBits, codes + c + 8);
  }
}

template <int kBits>
inline void ReadRecordsOf(const std::byte* codes, const uint16_t* scales, int tokens, int head_dim,
                          bool lanes_are_tokens, int first, int count, std::byte* records,
                          size_t stride) {
  const auto num_scales = static_cast<int>(RotationBlocks(head_dim).size());
  alignas(64) uint8_t row[kMaxHeadDim];
  for (int t = first; t < first + count; ++t, records += stride) {
    uint8_t* record = reinterpret_cast<uint8_t*>(records);
    for (int s = 0; s < num_scales; ++s) {
      __builtin_memcpy(record + 2 * s, scales + static_cast<int64_t>(s) * tokens + t, 2);
    }
    const uint8_t* tile = reinterpret_cast<const uint8_t*>(codes) +
                          static_cast<size_t>(t / kTileTokens) * TileBytes(kBits, head_dim);
    GetRow<kBits>(tile, head_dim, lanes_are_tokens, t % kTileTokens, row);
    PackRow<kBits>(row, head_dim, record + 2 * num_scales);
  }
}

template <int kBits>
inline void WriteRecordsOf(const std::byte* records, size_t stride, int first, int count,
                           int tokens, int head_dim, bool lanes_are_tokens, std::byte* codes,
                           uint16_t* scales) {
  const auto num_scales = static_cast<int>(RotationBlocks(head_dim).size());
  alignas(64) uint8_t row[kMaxHeadDim];
  for (int t = first; t < first + count; ++t, records += stride) {
    const uint8_t* record = reinterpret_cast<const uint8_t*>(records);
    for (int s = 0; s < num_scales; ++s) {
      __builtin_memcpy(scales + static_cast<int64_t>(s) * tokens + t, record + 2 * s, 2);
    }
    UnpackRow<kBits>(record + 2 * num_scales, head_dim, row);
    uint8_t* tile = reinterpret_cast<uint8_t*>(codes) +
                    static_cast<size_t>(t / kTileTokens) * TileBytes(kBits, head_dim);
    PutRow<kBits>(row, head_dim, lanes_are_tokens, t % kTileTokens, tile);
  }
}

void ReadRecords(const Codec& codec, const std::byte* codes, const uint16_t* scales, int tokens,
                 int head_dim, bool lanes_are_tokens, int first, int count, std::byte* records,
                 size_t stride) {
  const int bits = codec.info.code_bits;
  const auto read = bits == 2   ? &ReadRecordsOf<2>
                    : bits == 3 ? &ReadRecordsOf<3>
                                : &ReadRecordsOf<4>;
  read(codes, scales, tokens, head_dim, lanes_are_tokens, first, count, records, stride);
}

void WriteRecords(const Codec& codec, const std::byte* records, size_t stride, int first, int count,
                  int tokens, int head_dim, bool lanes_are_tokens, std::byte* codes,
                  uint16_t* scales) {
  const int bits = codec.info.code_bits;
  const auto write = bits == 2   ? &WriteRecordsOf<2>
                     : bits == 3 ? &WriteRecordsOf<3>
                                 : &WriteRecordsOf<4>;
  write(records, stride, first, count, tokens, head_dim, lanes_are_tokens, codes, scales);
}

}  // namespace
}  // namespace polarquant
