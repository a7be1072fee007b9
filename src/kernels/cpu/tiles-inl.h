// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: integer kernels of tile codecs, written in the words of `Simd` and compiled
// once for every instruction set.
//
// Codes become unsigned bytes 128 + centroid by one table look-up that serves a whole block of
// rows; queries and softmax weights are integers of 16 bits with one float factor a row. The
// sums of products are exact (modulo 2^32, and the true sums fit: see kTop), the 128 is taken out
// by starting from -128 * (sum of the row's integers).
#pragma once

#include "codecs/codec.h"
#include "format/tile_layout.h"
#include "kernels/kernels.h"
#include "math/rotation.h"

namespace polarquant {
namespace {

constexpr int kMaxTileTokens = 256;
constexpr int kMaxBlocks = 8;  // rotation blocks of a head_dim
// Below this a row of weights counts as zero: the softmax denominator is at least about 1.
constexpr float kTinyWeight = 1e-30f;

// Rows are worked on in blocks of at most kRowsAtOnce, as even as can be.
struct RowBlocks {
  int rows, count;
  explicit RowBlocks(int num_rows)
      : rows(num_rows), count((num_rows + Simd::kRowsAtOnce - 1) / Simd::kRowsAtOnce) {}
  int begin(int block) const { return rows * block / count; }
  int size(int block) const { return begin(block + 1) - begin(block); }
};

// ---- the inner product over one segment

struct SegmentJob {
  const uint8_t* codes;  // of the segment in the first tile
  size_t tile_bytes;     // to the same segment of the next tile
  int tiles;
  int groups;                   // of four fields in a segment: how far its second half lies
  int first_group, last_group;  // those worked on; even numbers
  int64_t ahead;                // to what is fetched meanwhile, 0 for nothing
  const uint8_t* weights;       // [tile][depth quad from first_group on][row][8]
  const int32_t* offsets;       // [row]
};

// One line is fetched ahead for each that is read: bursts would fill the CPU's queue of misses.
template <int kBits>
inline Simd::Codes PairOfGroup(const uint8_t* codes, int groups, int group, int pair,
                               int64_t ahead) {
  if constexpr (kBits == 4) {
    const uint8_t* place = codes + static_cast<size_t>(pair * groups + group) * 64;
    Simd::Prefetch(place + ahead);
    return Simd::LoadCodes(place);
  } else if constexpr (kBits == 2) {
    const uint8_t* place = codes + static_cast<size_t>(group) * 64;
    if (pair == 0) Simd::Prefetch(place + ahead);
    return Simd::LoadCodes(place);
  } else {
    const uint8_t* base = codes + static_cast<size_t>(group / 2) * 192;
    if (group % 2 == 0) {
      Simd::Prefetch(base + pair * 64 + ahead);
      return Simd::LoadCodes(base + pair * 64);
    }
    if (pair == 0) {
      Simd::Prefetch(base + 128 + ahead);
      return Simd::LoadCodes(base + 128);
    }
    return Simd::TopFields(Simd::LoadCodes(base), Simd::LoadCodes(base + 64),
                           Simd::LoadCodes(base + 128));
  }
}

// For every row and lane: sink(row, lane, floats) with the kWidth sums of lanes lane, lane + 1, ...
template <int kBits, int kLaneBlocks, int kRows, typename Sink>
inline void DotSegment(const SegmentJob& job, const Simd::Table& lookup, const Sink& sink) {
  // A pair of fields holds two lane blocks of one quad, or (one lane block) two quads.
  constexpr int kPasses = kLaneBlocks == 4 ? 2 : 1;
  constexpr int kPairs = 3 - kPasses;
  constexpr int kQuads = 4 / kLaneBlocks;
  const Simd::Table table = lookup;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (int part = 0; part < Simd::kParts; ++part) {
      Simd::Sums sums[kRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sums[r][0] = Simd::StartSums(job.offsets[r]);
        sums[r][1] = Simd::StartSums(kLaneBlocks == 1 ? 0 : job.offsets[r]);
      }
      const uint8_t* codes = job.codes + part * Simd::kPartBytes;
      const uint8_t* weights = job.weights;
      for (int tile = 0; tile < job.tiles; ++tile, codes += job.tile_bytes) {
        for (int group = job.first_group; group < job.last_group; group += 2) {
#pragma GCC unroll 2
          for (int step = 0; step < 2; ++step) {
#pragma GCC unroll 2
            for (int p = 0; p < kPairs; ++p) {
              const int pair = kPasses == 2 ? pass : p;
              Simd::Centroids even, odd;
              Simd::LookUp<kBits>(
                  PairOfGroup<kBits>(codes, job.groups, group + step, pair, job.ahead), pair, table,
                  even, odd);
              constexpr size_t kQuad = static_cast<size_t>(kRows) * 8;
#pragma GCC unroll 8
              for (int r = 0; r < kRows; ++r) {
                const Simd::Weights w = Simd::LoadWeights(weights + r * 8);
                Simd::AddDot(sums[r][0], even, w);
                if constexpr (kLaneBlocks == 1) {
                  Simd::AddDot(sums[r][1], odd, Simd::LoadWeights(weights + kQuad + r * 8));
                } else {
                  Simd::AddDot(sums[r][1], odd, w);
                }
              }
              weights += (kQuads / kPairs) * kQuad;
            }
          }
        }
      }
      const int lane = pass * 32 + part * Simd::kWidth;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kLaneBlocks == 1) {
          Simd::AddSums(sums[r][0], sums[r][1]);
          sink(r, lane, Simd::ToFloats(sums[r][0]));
        } else {
          sink(r, lane, Simd::ToFloats(sums[r][0]));
          sink(r, lane + 16, Simd::ToFloats(sums[r][1]));
        }
      }
    }
  }
}

// Calls body.template operator()<kRows>() for 1 <= rows <= kRowsAtOnce.
template <typename Body>
inline void ForRows(int rows, const Body& body) {
  static_assert(Simd::kRowsAtOnce <= 6);
  switch (rows) {
    case 1:
      return body.template operator()<1>();
    case 2:
      return body.template operator()<2>();
    case 3:
      return body.template operator()<3>();
    case 4:
      return body.template operator()<4>();
    case 5:
      if constexpr (Simd::kRowsAtOnce >= 5) body.template operator()<5>();
      return;
    default:
      if constexpr (Simd::kRowsAtOnce >= 6) body.template operator()<6>();
      return;
  }
}

// ---- rows as integers

inline float MaxAbs(const float* x, int count) {
  Simd::F max = Simd::Zero();
  for (int i = 0; i < count; i += Simd::kWidth) max = Simd::Max(max, Simd::Abs(Simd::Load(x + i)));
  return Simd::MaxOf(max);
}

// Stores round(x * factor), four numbers every `stride` bytes; returns -128 * their sum mod 2^32.
inline int32_t StoreRow(const float* x, int count, float factor, uint8_t* out, size_t stride) {
  Simd::I total = Simd::ZeroInt();
  const Simd::F f = Simd::Set(factor);
  for (int i = 0; i < count; i += Simd::kWidth) {
    Simd::StoreWeights(Simd::Mul(Simd::Load(x + i), f), out + static_cast<size_t>(i / 4) * stride,
                       stride, total);
  }
  return static_cast<int32_t>(0u - 128u * static_cast<uint32_t>(Simd::SumInt(total)));
}

// ---- queries: [rows] factors, [rows][blocks] offsets, then the integers of each block of rows
// [quad][row][8]

struct Prepared {
  float* factors;
  int32_t* offsets;   // [block of rows][rotation block][row]: begin * blocks + block * size + row
  uint8_t* integers;  // 2 bytes a channel
};
inline size_t FactorBytes(int rows) { return (static_cast<size_t>(rows) * 4 + 63) / 64 * 64; }
inline size_t OffsetBytes(int rows) {
  return (static_cast<size_t>(rows) * kMaxBlocks * 4 + 63) / 64 * 64;
}
inline Prepared PreparedParts(const std::byte* prepared, int rows) {
  std::byte* p = const_cast<std::byte*>(prepared);
  return {reinterpret_cast<float*>(p), reinterpret_cast<int32_t*>(p + FactorBytes(rows)),
          reinterpret_cast<uint8_t*>(p + FactorBytes(rows) + OffsetBytes(rows))};
}

size_t PreparedBytes(int rows, int head_dim) {
  return FactorBytes(rows) + OffsetBytes(rows) + static_cast<size_t>(rows) * head_dim * 2;
}

void Prepare(const Codec&, const float* queries, int64_t query_stride, int rows, int head_dim,
             std::byte* prepared) {
  const auto blocks = RotationBlocks(head_dim);
  const int num_blocks = static_cast<int>(blocks.size());
  const Prepared parts = PreparedParts(prepared, rows);
  const RowBlocks row_blocks(rows);
  for (int rb = 0; rb < row_blocks.count; ++rb) {
    const int begin = row_blocks.begin(rb), size = row_blocks.size(rb);
    for (int r = 0; r < size; ++r) {
      const float* query = queries + (begin + r) * query_stride;
      // A NaN or an infinity must reach the logits: times 0 both are NaN.
      Simd::F zeros = Simd::Zero();
      for (int i = 0; i < head_dim; i += Simd::kWidth) {
        zeros = Simd::Fma(Simd::Load(query + i), Simd::Zero(), zeros);
      }
      const float poison = Simd::Sum(zeros);
      const float max = MaxAbs(query, head_dim);
      const bool zero = !(max > kTinyWeight) || poison != 0.0f;
      const float inverse = zero ? 0.0f : Simd::kTop / max;
      parts.factors[begin + r] = (zero ? 0.0f : max / Simd::kTop) + poison;
      for (int b = 0; b < num_blocks; ++b) {
        const size_t stride = static_cast<size_t>(size) * 8;
        uint8_t* out = parts.integers + static_cast<size_t>(begin) * head_dim * 2 +
                       static_cast<size_t>(blocks[b].offset / 4) * stride + r * 8;
        parts.offsets[begin * num_blocks + b * size + r] =
            StoreRow(query + blocks[b].offset, blocks[b].size, inverse, out, stride);
      }
    }
  }
}

// scale := scales * unit
inline void LoadScales(const uint16_t* scales, int count, float unit, int64_t ahead, float* scale) {
  constexpr int kLine = 32;  // halves of a cache line
  for (int i = 0; i < count; i += kLine) {
    Simd::Prefetch(reinterpret_cast<const std::byte*>(scales + i) + ahead);
    for (int k = i; k < i + kLine; k += Simd::kWidth) {
      Simd::Store(scale + k, Simd::Mul(Simd::LoadHalf(scales + k), Simd::Set(unit)));
    }
  }
}

template <int kBits>
void Score(const Codec& codec, const std::byte* prepared, int rows, int head_dim,
           const std::byte* codes, const uint16_t* scales, int tokens, int64_t ahead, float* logits,
           int64_t stride) {
  const Simd::Table table = Simd::MakeTable<kBits>(codec.centroids);
  const auto blocks = RotationBlocks(head_dim);
  const int num_blocks = static_cast<int>(blocks.size());
  const Prepared parts = PreparedParts(prepared, rows);
  const RowBlocks row_blocks(rows);
  for (int token = 0; token < tokens; token += kTileTokens) {
    const uint8_t* tile = reinterpret_cast<const uint8_t*>(codes) +
                          static_cast<size_t>(token / kTileTokens) * TileBytes(kBits, head_dim);
    for (int b = 0; b < num_blocks; ++b) {
      float scale[kTileTokens];
      LoadScales(scales + static_cast<size_t>(b) * tokens + token, kTileTokens, codec.unit, ahead,
                 scale);
      for (int rb = 0; rb < row_blocks.count; ++rb) {
        const int begin = row_blocks.begin(rb), size = row_blocks.size(rb);
        const SegmentJob job = {.codes = tile,
                                .tile_bytes = 0,
                                .tiles = 1,
                                .groups = head_dim / 4,
                                .first_group = blocks[b].offset / 4,
                                .last_group = (blocks[b].offset + blocks[b].size) / 4,
                                .ahead = rb == 0 ? ahead : 0,
                                .weights = parts.integers +
                                           static_cast<size_t>(begin) * head_dim * 2 +
                                           static_cast<size_t>(blocks[b].offset / 4) * size * 8,
                                .offsets = parts.offsets + begin * num_blocks + b * size};
        float* out = logits + begin * stride + token;
        const float* factors = parts.factors + begin;
        ForRows(size, [&]<int kRows>() {
          DotSegment<kBits, 4, kRows>(job, table, [&](int r, int lane, Simd::F sums) {
            const Simd::F logit =
                Simd::Mul(Simd::Mul(sums, Simd::Set(factors[r])), Simd::Load(scale + lane));
            float* to = out + r * stride + lane;
            Simd::Store(to, b == 0 ? logit : Simd::Add(Simd::Load(to), logit));
          });
        });
      }
    }
  }
}

template <int kBits>
void Accumulate(const Codec& codec, const float* weights, int64_t stride, int rows, int head_dim,
                const std::byte* codes, const uint16_t* scales, int tokens, int64_t ahead,
                float* acc, int64_t acc_stride) {
  const Simd::Table table = Simd::MakeTable<kBits>(codec.centroids);
  const RowBlocks row_blocks(rows);
  int block_index = 0;
  for (const RotationBlock& block : RotationBlocks(head_dim)) {
    float scale[kMaxTileTokens];
    LoadScales(scales + static_cast<size_t>(block_index) * tokens, tokens, 1.0f, ahead, scale);
    ++block_index;
    for (int rb = 0; rb < row_blocks.count; ++rb) {
      const int begin = row_blocks.begin(rb), size = row_blocks.size(rb);
      alignas(64) uint8_t integers[Simd::kRowsAtOnce * kMaxTileTokens * 2];
      float factors[Simd::kRowsAtOnce];
      int32_t offsets[Simd::kRowsAtOnce];
      bool any = false;
      for (int r = 0; r < size; ++r) {
        float scaled[kMaxTileTokens];
        const float* row = weights + (begin + r) * stride;
        Simd::F max = Simd::Zero();
        for (int t = 0; t < tokens; t += Simd::kWidth) {
          const Simd::F x = Simd::Mul(Simd::Load(row + t), Simd::Load(scale + t));
          Simd::Store(scaled + t, x);
          max = Simd::Max(max, Simd::Abs(x));
        }
        const float top = Simd::MaxOf(max);
        const bool zero = !(top > kTinyWeight);
        any = any || !zero;
        factors[r] = zero ? 0.0f : top / Simd::kTop * codec.unit;
        offsets[r] = StoreRow(scaled, tokens, zero ? 0.0f : Simd::kTop / top, integers + r * 8,
                              static_cast<size_t>(size) * 8);
      }
      if (!any) continue;
      for (int channel = block.offset; channel < block.offset + block.size;) {
        const Segment segment = ChannelSegment(channel / 16, head_dim / 16);
        const int groups = kTileTokens / 16 * segment.lane_blocks;
        const SegmentJob job = {.codes = reinterpret_cast<const uint8_t*>(codes) +
                                         SegmentBytes(kBits, segment.first_block, kTileTokens),
                                .tile_bytes = TileBytes(kBits, head_dim),
                                .tiles = tokens / kTileTokens,
                                .groups = groups,
                                .first_group = 0,
                                .last_group = groups,
                                .ahead = rb == 0 ? ahead : 0,
                                .weights = integers,
                                .offsets = offsets};
        float* out = acc + begin * acc_stride + channel;
        ForRows(size, [&]<int kRows>() {
          const auto sink = [&](int r, int lane, Simd::F sums) {
            float* to = out + r * acc_stride + lane;
            Simd::Store(to, Simd::Fma(sums, Simd::Set(factors[r]), Simd::Load(to)));
          };
          switch (segment.lane_blocks) {
            case 4:
              return DotSegment<kBits, 4, kRows>(job, table, sink);
            case 2:
              return DotSegment<kBits, 2, kRows>(job, table, sink);
            default:
              return DotSegment<kBits, 1, kRows>(job, table, sink);
          }
        });
        channel += 16 * segment.lane_blocks;
      }
    }
  }
}

template <int kBits>
constexpr TileKernels TileTable() {
  return {&PreparedBytes, &Prepare, &Score<kBits>, &Accumulate<kBits>};
}

}  // namespace
}  // namespace polarquant
