// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend and 7/7 un-rotate, one unit: the query rows of one kv_head and one block of
// queries, with their online softmax (Milakov and Gimelshein 2018): a running maximum m, the sum
// of exp(logit - m), and the sums of exp(logit - m) * value in the plain and the rotated space.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/checks.h"
#include "attention/pages.h"
#include "attention/plan.h"

namespace polarquant {

// What is the same for all units of a sequence.
struct Setup {
  const AttentionTerms& terms;
  const SequenceCall& call;
  Side keys, values;
  int group;                      // query heads of a kv_head
  int max_rows;                   // of a unit
  std::span<const float> slopes;  // [num_q_heads]

  const Kernels& kernels() const { return *keys.kernels; }
  // A part of a unit: for each row m, the sum, and the accumulator in the plain space.
  int64_t partial_floats() const { return static_cast<int64_t>(max_rows) * (values.head_dim + 2); }
};

// Memory of one thread, reused from unit to unit.
class HeadBlock {
 public:
  void Start(const Setup& setup, int kv_head, const QueryBlock& block);
  // Pages of the block, in any order and any number of calls.
  void Attend(std::span<const PageWork> pages);
  // One of the two ends a unit: all of it here, or a part to be merged.
  void Finish();
  void StorePartial(float* partial);

  // Merges one row of a unit out of its parts and writes the output.
  static void MergeRow(const Setup& setup, int kv_head, const QueryBlock& block, int row,
                       std::span<const float* const> partials);

 private:
  // `following` is the page after the chunk, or null.
  void AttendChunk(std::span<const PageWork> pages, const PageWork* following);
  float SoftmaxRow(int row, std::span<const PageWork> pages);
  void Unrotate();  // the rotated accumulators, into the plain ones

  const Setup* setup_ = nullptr;
  const QueryBlock* block_ = nullptr;
  int kv_head_ = 0, rows_ = 0;
  int chunk_pages_ = 1;  // scored before one softmax step
  bool used_rotated_ = false;
  std::vector<std::byte> memory_;
  // Parts of memory_.
  float *queries_ = nullptr, *queries_mapped_ = nullptr, *queries_centre_ = nullptr;
  float *logits_ = nullptr, *scratch_ = nullptr;
  float *plain_ = nullptr, *rotated_ = nullptr;
  float* centre_weights_ = nullptr;
  float *max_ = nullptr, *sum_ = nullptr, *page_sums_ = nullptr;
  std::byte* prepared_ = nullptr;
};

}  // namespace polarquant
