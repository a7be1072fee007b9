// SPDX-License-Identifier: Apache-2.0
// Stage 6 and 7, attend and un-rotate: softmax(q K^T) V over the cells of the keys and the values
// of a cell store or a sequence cache, computed on the compressed pages.
//
//   logit = softcap( scale * <q, k_cell> ) + slope(head) * mask[query][cell]
//   softcap(x) = c * tanh(x / c) if c != 0, else x;   mask of -inf or NaN hides the cell
//   slope(h) as ALiBi (Press et al. 2022) with max_bias, 1 if max_bias == 0
//   sinks: exp(sink[head]) is added to the softmax denominator (gpt-oss)
//
// What a query sees is said in up to three ways, and all of them hold: by causality, by a sliding
// window, by a mask. A query that sees no cell gives zeros. Query head h reads kv_head h /
// (num_q_heads / num_kv_heads). Thread-safe: const rows may be read by several calls.
//
// The verb takes a batch of sequences of any lengths. What there is to do for one, its plan,
// depends on lengths and masks only: a host makes it once a step and attends with it in every
// layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "polarquant/paged_rows.h"
#include "polarquant/target.h"

namespace polarquant {

// Who does it.
struct Executor {
  int num_threads = 1;
  const Target* target = nullptr;  // null: DefaultTarget()
};

struct SequenceCall {
  const PagedRows* keys = nullptr;
  const PagedRows* values = nullptr;  // same num_cells, num_kv_heads, page_tokens; any head_dim
  int64_t first_cell = 0;             // cells [first_cell, num_cells) are looked at; may be none
  int64_t num_cells = 0;

  int num_queries = 0;
  const float* queries = nullptr;  // f32 [head_dim_k] at h*query_head_stride + n*query_stride
  int64_t query_stride = 0;        // floats from one query (token) to the next
  int64_t query_head_stride = 0;   // floats from one head to the next

  // f16, [num_queries] rows mask_stride apart, whose first column is first_cell; null: all seen.
  const uint16_t* mask = nullptr;
  int64_t mask_stride = 0;  // f16 values

  float* output = nullptr;  // f32 [head_dim_v] at h*output_head_stride + n*output_stride
  int64_t output_stride = 0;
  int64_t output_head_stride = 0;
  float* lse = nullptr;  // natural log-sum-exp at [n * num_q_heads + h], or null
};

struct AttentionTerms {
  int num_q_heads = 0;  // a multiple of num_kv_heads
  // The cell of query n is the last but num_queries - 1 - n. With `causal` it sees none after that
  // one; with a window, of those up to it only the newest `window`.
  bool causal = false;
  int64_t window = 0;            // 0: all
  const float* sinks = nullptr;  // [num_q_heads] or null
  float scale = 1.0f;
  float softcap = 0.0f;
  float max_bias = 0.0f;
};

struct AttentionBatch : AttentionTerms {
  // All of one num_kv_heads and page_tokens; schemes and head_dims may differ.
  std::span<const SequenceCall> sequences;
};

// One sequence.
struct AttentionCall : SequenceCall, AttentionTerms {};

// The pages that each block of queries sees. Good for every batch with the same lengths
// (first_cell, num_cells, num_queries), num_q_heads, num_kv_heads, page_tokens, causal, window and
// contents of the masks, whatever its rows and queries. Thread-safe.
class AttentionPlan {
 public:
  AttentionPlan(const AttentionBatch& batch, const Executor& executor);
  ~AttentionPlan();
  AttentionPlan(AttentionPlan&&) noexcept;
  AttentionPlan& operator=(AttentionPlan&&) noexcept;

 private:
  friend void Attend(const AttentionPlan&, const AttentionBatch&, const Executor&);
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

// These throw Error(kParameter) for shapes that do not fit together, and for a plan that was made
// for other lengths.
void Attend(const AttentionPlan& plan, const AttentionBatch& batch, const Executor& executor);
void Attend(const AttentionBatch& batch, const Executor& executor);  // plans for itself
void Attend(const AttentionCall& call, int num_threads);

// The same in double precision over decoded rows, plain loops: the specification, for tests and
// self-checks.
void AttendReference(const AttentionBatch& batch);
void AttendReference(const AttentionCall& call);

// Whether a scheme's codes are read by a fast kernel of the default target (else they are decoded).
bool HasFastPath(const Scheme& scheme, int head_dim);

}  // namespace polarquant
