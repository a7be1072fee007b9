// SPDX-License-Identifier: Apache-2.0
// Stage 6, inner loops: what attention needs from an instruction set, as a table of functions. One
// table per target (polarquant/target.h).
// Every function works on one kv_head and a block of query rows (queries x heads of its group).
#pragma once

#include <cstddef>
#include <cstdint>

#include "polarquant/scheme.h"

namespace polarquant {

struct Codec;

// Integer kernels of a tile codec. Logits and accumulators are in the rotated space.
struct TileKernels {
  // Queries as the kernel wants them: `prepared` has prepared_bytes(rows, head_dim), 64-aligned.
  size_t (*prepared_bytes)(int rows, int head_dim);
  void (*prepare)(const Codec& codec, const float* queries_rot, int64_t query_stride, int rows,
                  int head_dim, std::byte* prepared);
  // logits[r * stride + t] = scale_t * unit * <query_r, centroids_t>, t in [0, tokens); tokens a
  // multiple of 64. `codes` and `scales` are those of the page, keys in LaneOrder::kTokens. Memory
  // `ahead` bytes beyond what is read is fetched into the cache meanwhile: the way to the page that
  // comes next, or 0.
  void (*score)(const Codec& codec, const std::byte* prepared, int rows, int head_dim,
                const std::byte* codes, const uint16_t* scales, int tokens, int64_t ahead,
                float* logits, int64_t stride);
  // acc[r * acc_stride + c] += sum_t weights[r * stride + t] * scale_t * unit * centroid_t[c];
  // weights are non-negative. Values in LaneOrder::kChannels.
  void (*accumulate)(const Codec& codec, const float* weights, int64_t stride, int rows,
                     int head_dim, const std::byte* codes, const uint16_t* scales, int tokens,
                     int64_t ahead, float* acc, int64_t acc_stride);
};

struct Kernels {
  const char* target;  // its name

  // Tile codecs by bits; null where the target has none (codes are then decoded to f32 rows).
  TileKernels tile2, tile3, tile4;

  // Exact rows: f16 rows `row_stride` halves apart.
  void (*score_f16)(const float* queries, int64_t query_stride, int rows, int head_dim,
                    const uint16_t* keys, int64_t row_stride, int count, float* logits,
                    int64_t stride);
  void (*accumulate_f16)(const float* weights, int64_t stride, int rows, int head_dim,
                         const uint16_t* values, int64_t row_stride, int count, float* acc,
                         int64_t acc_stride);
  // Decoded rows: f32 rows `row_stride` floats apart.
  void (*score_f32)(const float* queries, int64_t query_stride, int rows, int head_dim,
                    const float* keys, int64_t row_stride, int count, float* logits,
                    int64_t stride);
  void (*accumulate_f32)(const float* weights, int64_t stride, int rows, int head_dim,
                         const float* values, int64_t row_stride, int count, float* acc,
                         int64_t acc_stride);

  // Records of q8_0 and q4_0 (ggml blocks), `count` rows one after another, to f32 rows.
  void (*decode_q8_0)(const std::byte* records, int count, int head_dim, float* rows);
  void (*decode_q4_0)(const std::byte* records, int count, int head_dim, float* rows);

  // One step of online softmax over `count` logits, in place: x = softcap(scale * x) + slope *
  // mask; returns max(x) (-inf if all hidden). mask may be null. Natural units.
  float (*shape_logits)(float* logits, int count, float scale, float softcap, float slope,
                        const uint16_t* mask);
  // x = exp(x - max) in place, returns the sum; x = -inf gives exactly 0.
  float (*exp_sum)(float* logits, int count, float max);
  void (*scale_row)(float* row, int count, float factor);  // row *= factor

  // Stage 2, rotation of `rows` rows in place (math/rotation.h): the same bytes on every target.
  void (*rotate)(float* rows, int64_t row_stride, int count, int head_dim);
  void (*unrotate)(float* rows, int64_t row_stride, int count, int head_dim);

  // Stage 1 of `rows` [count][head_dim]: sanitised, minus `mean`, times `balance` ([head_dim],
  // either may be null). The same bits on every target. `prepared` may be `rows`.
  void (*prepare_rows)(const float* rows, int count, int head_dim, const float* mean,
                       const float* balance, float* prepared);

  // Stages 3 and 4 for tile codecs: `rows` [count][head_dim] f32, already normalised and rotated,
  // to tokens first, first + 1, ... of a page of `tokens` (a multiple of 64): its codes, and its
  // scales (scale_blocks arrays of `tokens` f16). All other tokens stay as they are. The same bytes
  // as the codec's own encode on every target.
  void (*encode_rows)(const Codec& codec, const float* rows, int first, int count, int tokens,
                      int head_dim, ScaleRule rule, bool lanes_are_tokens, std::byte* codes,
                      uint16_t* scales);
  // The records of these tokens (scales, then packed codes), `stride` bytes apart, and back.
  void (*read_records)(const Codec& codec, const std::byte* codes, const uint16_t* scales,
                       int tokens, int head_dim, bool lanes_are_tokens, int first, int count,
                       std::byte* records, size_t stride);
  void (*write_records)(const Codec& codec, const std::byte* records, size_t stride, int first,
                        int count, int tokens, int head_dim, bool lanes_are_tokens,
                        std::byte* codes, uint16_t* scales);

  // The first `count` of the page's `tokens` tokens, [count][head_dim] f32, still
  // rotated. The same bits as the codec's own decode on every target.
  void (*decode_tiles)(const Codec& codec, const std::byte* codes, const uint16_t* scales,
                       int tokens, int head_dim, bool lanes_are_tokens, int count, float* rows);

  void (*half_to_float)(const uint16_t* halves, int64_t count, float* floats);
  void (*float_to_half)(const float* floats, int64_t count, uint16_t* halves);  // sanitises
};

// Plain loops for everything, no intrinsics: the portable target and the ground of the others.
const Kernels& ScalarKernels();

}  // namespace polarquant
