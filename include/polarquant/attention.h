// SPDX-License-Identifier: Apache-2.0
// Stage 6 and 7, attend and un-rotate: softmax(q K^T) V over the cells of the keys and the values
// of a cell store or a sequence cache, computed on the compressed pages.
//
//   logit = softcap( scale * <q, k_cell> ) + slope(head) * mask[query][cell]
//   softcap(x) = c * tanh(x / c) if c != 0, else x;   mask of -inf hides the cell
//   slope(h) as ALiBi (Press et al. 2022) with max_bias, 1 if max_bias == 0
//   sinks: exp(sink[head]) is added to the softmax denominator (gpt-oss)
//
// A query that sees no cell gives zeros. Query head h reads kv_head h / (num_q_heads /
// num_kv_heads). Thread-safe: const rows may be read by several calls.
#pragma once

#include <cstdint>
#include <vector>

#include "polarquant/paged_rows.h"

namespace polarquant {

struct AttentionCall {
  const PagedRows* keys = nullptr;
  const PagedRows* values = nullptr;  // same num_cells, num_kv_heads, page_tokens; any head_dim
  int64_t first_cell = 0;             // cells [first_cell, num_cells) are looked at
  int64_t num_cells = 0;

  int num_q_heads = 0;  // a multiple of num_kv_heads
  int num_queries = 0;
  const float* queries = nullptr;  // f32 [head_dim_k] at h*query_head_stride + n*query_stride
  int64_t query_stride = 0;        // floats from one query (token) to the next
  int64_t query_head_stride = 0;   // floats from one head to the next

  // f16, [num_queries] rows mask_stride apart, whose first column is first_cell; null: all seen.
  const uint16_t* mask = nullptr;
  int64_t mask_stride = 0;  // f16 values
  // Query n does not see the last num_queries - 1 - n cells, whatever the mask says.
  bool causal = false;
  const float* sinks = nullptr;  // [num_q_heads] or null

  float scale = 1.0f;
  float softcap = 0.0f;
  float max_bias = 0.0f;

  float* output = nullptr;  // f32 [head_dim_v] at h*output_head_stride + n*output_stride
  int64_t output_stride = 0;
  int64_t output_head_stride = 0;
  float* lse = nullptr;  // natural log-sum-exp at [n * num_q_heads + h], or null
};

// Throws Error(kParameter) for shapes that do not fit together.
void Attend(const AttentionCall& call, int num_threads);

// The same in double precision over decoded rows, plain loops: the specification, for tests and
// self-checks.
void AttendReference(const AttentionCall& call);

// The cells named as attention sinks by a mask: all cells seen by a query that sees at most
// `sink_tokens` of the first num_cells cells. Sorted, distinct.
std::vector<int64_t> SinksOfMask(const uint16_t* mask, int64_t mask_stride, int num_queries,
                                 int64_t num_cells, int sink_tokens);

// Which kernels run: "avx512", "avx2" or "scalar". The environment variable POLARQUANT_ISA forces
// one; forcing what the CPU lacks, or an unknown word, throws Error(kParameter).
const char* ActiveTarget();
// Whether a scheme's codes are read by a fast kernel of the active target (else they are decoded).
bool HasFastPath(const Scheme& scheme, int head_dim);

}  // namespace polarquant
