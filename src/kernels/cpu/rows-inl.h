// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: float kernels over exact (f16) and decoded (f32) rows, written in the words of
// `Simd`. Few rows read the keys in place, two products a load; many rows work on a transposed f32
// copy of a few keys, so that nothing is summed across a register.
#pragma once

#include "kernels/kernels.h"

namespace polarquant {
namespace {

struct HalfRows {
  using Element = uint16_t;
  static Simd::F Load(const uint16_t* p) { return Simd::LoadHalf(p); }
};
struct FloatRows {
  using Element = float;
  static Simd::F Load(const float* p) { return Simd::Load(p); }
};

constexpr int kFewRows = 7;  // up to here keys are read in place
constexpr int kTransposedTokens = Simd::kColumnsAtOnce * Simd::kWidth;
// Channels that are transposed at once: what fits the stack of any thread.
constexpr int kTransposedChannels = 24 * 1024 / (4 * kTransposedTokens);
// Rows of one kv_head lie far apart for the CPU's own prefetching: so many ahead are fetched.
constexpr int kRowsAhead = 16;

template <typename Element>
inline void PrefetchRow(const Element* row, int count) {
  constexpr int kLine = static_cast<int>(64 / sizeof(Element));
  for (int i = 0; i < count; i += kLine) Simd::Prefetch(row + i);
}

// Logits of kRows queries and kTokens keys.
template <typename Rows, int kRows, int kTokens>
inline void DotRows(const float* queries, int64_t query_stride, int head_dim,
                    const typename Rows::Element* keys, int64_t row_stride, float* logits,
                    int64_t stride) {
  Simd::F sums[kRows][kTokens];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) sums[r][t] = Simd::Zero();
  }
  for (int i = 0; i < head_dim; i += Simd::kWidth) {
    Simd::F key[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) key[t] = Rows::Load(keys + t * row_stride + i);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Simd::F query = Simd::Load(queries + r * query_stride + i);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) sums[r][t] = Simd::Fma(query, key[t], sums[r][t]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kTokens == 4) {
      Simd::StoreSums(logits + r * stride, sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
    } else {
      logits[r * stride] = Simd::Sum(sums[r][0]);
    }
  }
}

template <typename Rows, int kRows>
inline void ScoreFew(const float* queries, int64_t query_stride, int head_dim,
                     const typename Rows::Element* keys, int64_t row_stride, int count,
                     float* logits, int64_t stride) {
  int t = 0;
  for (; t + 4 <= count; t += 4) {
    for (int k = 0; k < 4; ++k) PrefetchRow(keys + (t + k + kRowsAhead) * row_stride, head_dim);
    DotRows<Rows, kRows, 4>(queries, query_stride, head_dim, keys + t * row_stride, row_stride,
                            logits + t, stride);
  }
  for (; t < count; ++t) {
    DotRows<Rows, kRows, 1>(queries, query_stride, head_dim, keys + t * row_stride, row_stride,
                            logits + t, stride);
  }
}

// Logits of kRows queries and kColumns * kWidth keys given as [channel][kTransposedTokens]; added
// to what is there if `add`.
template <int kRows, int kColumns>
inline void DotTransposed(const float* queries, int64_t query_stride, int channels,
                          const float* keys, bool add, float* logits, int64_t stride) {
  Simd::F sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kColumns; ++v) {
      sums[r][v] = add ? Simd::Load(logits + r * stride + v * Simd::kWidth) : Simd::Zero();
    }
  }
  for (int i = 0; i < channels; ++i, keys += kTransposedTokens) {
    Simd::F key[kColumns];
#pragma GCC unroll 4
    for (int v = 0; v < kColumns; ++v) key[v] = Simd::Load(keys + v * Simd::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Simd::F query = Simd::Set(queries[r * query_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kColumns; ++v) sums[r][v] = Simd::Fma(query, key[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kColumns; ++v) {
      Simd::Store(logits + r * stride + v * Simd::kWidth, sums[r][v]);
    }
  }
}

template <typename Rows>
void ScoreRows(const float* queries, int64_t query_stride, int rows, int head_dim,
               const typename Rows::Element* keys, int64_t row_stride, int count, float* logits,
               int64_t stride) {
  int done = 0;
  if (rows > kFewRows) {
    alignas(64) float block[kTransposedChannels * kTransposedTokens];
    constexpr int kColumns = Simd::kColumnsAtOnce;
    const RowBlocks row_blocks(rows);
    for (; done + kTransposedTokens <= count; done += kTransposedTokens) {
      for (int begin = 0; begin < head_dim; begin += kTransposedChannels) {
        const int channels =
            head_dim - begin < kTransposedChannels ? head_dim - begin : int{kTransposedChannels};
        for (int t = 0; t < kTransposedTokens; t += Simd::kWidth) {
          for (int i = 0; i < channels; i += Simd::kWidth) {
            Simd::F square[Simd::kWidth];
            for (int k = 0; k < Simd::kWidth; ++k) {
              square[k] = Rows::Load(keys + (done + t + k) * row_stride + begin + i);
            }
            Simd::Transpose(square);
            for (int k = 0; k < Simd::kWidth; ++k) {
              Simd::Store(block + (i + k) * kTransposedTokens + t, square[k]);
            }
          }
        }
        for (int rb = 0; rb < row_blocks.count; ++rb) {
          const int row = row_blocks.begin(rb);
          ForRows(row_blocks.size(rb), [&]<int kRows>() {
            DotTransposed<kRows, kColumns>(queries + row * query_stride + begin, query_stride,
                                           channels, block, begin > 0, logits + row * stride + done,
                                           stride);
          });
        }
      }
    }
  }
  if (done == count) return;
  for (int begin = 0; begin < rows;) {
    // Four rows by four keys fill the registers of a block.
    const int size = rows - begin < Simd::kFewAtOnce ? rows - begin : Simd::kFewAtOnce;
    ForRows(size, [&]<int kRows>() {
      if constexpr (kRows <= Simd::kFewAtOnce) {
        ScoreFew<Rows, kRows>(queries + begin * query_stride, query_stride, head_dim,
                              keys + done * row_stride, row_stride, count - done,
                              logits + begin * stride + done, stride);
      }
    });
    begin += size;
  }
}

// Accumulators of kRows rows and kColumns * kWidth channels over all `count` rows of values.
template <typename Rows, int kRows, int kColumns>
inline void AddProducts(const float* weights, int64_t stride, const typename Rows::Element* values,
                        int64_t row_stride, int count, float* acc, int64_t acc_stride) {
  Simd::F sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kColumns; ++v) {
      sums[r][v] = Simd::Load(acc + r * acc_stride + v * Simd::kWidth);
    }
  }
  for (int t = 0; t < count; ++t, values += row_stride) {
    PrefetchRow(values + kRowsAhead * row_stride, kColumns * Simd::kWidth);
    Simd::F value[kColumns];
#pragma GCC unroll 4
    for (int v = 0; v < kColumns; ++v) value[v] = Rows::Load(values + v * Simd::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Simd::F weight = Simd::Set(weights[r * stride + t]);
#pragma GCC unroll 4
      for (int v = 0; v < kColumns; ++v) sums[r][v] = Simd::Fma(weight, value[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kColumns; ++v) {
      Simd::Store(acc + r * acc_stride + v * Simd::kWidth, sums[r][v]);
    }
  }
}

template <typename Rows>
void AccumulateRows(const float* weights, int64_t stride, int rows, int head_dim,
                    const typename Rows::Element* values, int64_t row_stride, int count, float* acc,
                    int64_t acc_stride) {
  constexpr int kWide = Simd::kColumnsAtOnce * Simd::kWidth;
  const RowBlocks row_blocks(rows);
  for (int channel = 0; channel < head_dim;) {
    const bool wide = channel + kWide <= head_dim;
    for (int rb = 0; rb < row_blocks.count; ++rb) {
      const int begin = row_blocks.begin(rb);
      const float* w = weights + begin * stride;
      float* out = acc + begin * acc_stride + channel;
      ForRows(row_blocks.size(rb), [&]<int kRows>() {
        if (wide) {
          AddProducts<Rows, kRows, Simd::kColumnsAtOnce>(w, stride, values + channel, row_stride,
                                                         count, out, acc_stride);
        } else {
          AddProducts<Rows, kRows, 1>(w, stride, values + channel, row_stride, count, out,
                                      acc_stride);
        }
      });
    }
    channel += wide ? kWide : Simd::kWidth;
  }
}

// ---- ggml's blocks of 32: an f16 scale, then signed bytes (q8_0) or nibbles with the value 8
// as zero, the low ones the first sixteen (q4_0)

inline Simd::F ScaleOf(const std::byte* block) {
  uint16_t half;
  __builtin_memcpy(&half, block, sizeof half);
  return Simd::Set(_cvtsh_ss(half));
}

void DecodeQ8(const std::byte* records, int count, int head_dim, float* rows) {
  const int64_t blocks = static_cast<int64_t>(count) * (head_dim / 32);
  for (int64_t b = 0; b < blocks; ++b, records += 34, rows += 32) {
    const Simd::F scale = ScaleOf(records);
    const int8_t* bytes = reinterpret_cast<const int8_t*>(records) + 2;
    for (int i = 0; i < 32; i += Simd::kWidth) {
      Simd::Store(rows + i, Simd::Mul(Simd::LoadBytes(bytes + i), scale));
    }
  }
}

void DecodeQ4(const std::byte* records, int count, int head_dim, float* rows) {
  const int64_t blocks = static_cast<int64_t>(count) * (head_dim / 32);
  for (int64_t b = 0; b < blocks; ++b, records += 18, rows += 32) {
    const Simd::F scale = ScaleOf(records);
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(records) + 2;
    int8_t numbers[32];
    for (int i = 0; i < 16; ++i) {
      numbers[i] = static_cast<int8_t>((bytes[i] & 15) - 8);
      numbers[16 + i] = static_cast<int8_t>((bytes[i] >> 4) - 8);
    }
    for (int i = 0; i < 32; i += Simd::kWidth) {
      Simd::Store(rows + i, Simd::Mul(Simd::LoadBytes(numbers + i), scale));
    }
  }
}

}  // namespace
}  // namespace polarquant
