// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise. The stepped centre of one kv_head. Positions are cut into aligned steps of
// n; the centre of step j is the mean of RoPE_t(mean) over t in [jn, jn + n). By linearity that is,
// for a pair of frequency w,
//
//   the pair's mean turned by w (jn + (n - 1) / 2) and multiplied by D(w) = sin(n w / 2) / (n sin(w
//   / 2))
//
// so fast pairs vanish by themselves, and channels that do not turn keep their mean. For a pair
// with mean (m, n), query (x, y) and phase p in the middle of the step,
//
//   <q, m_j> = D (x m + y n) cos p + D (y m - x n) sin p
//
// the product of a query's weights, found once, with a row of cosines and sines that is the same
// for every head and layer: one number for each query and step.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "polarquant/key_profile.h"

namespace polarquant {

// D of a frequency: 1 for one that does not turn, or turns by whole turns.
double StepShare(double frequency, int step);

// For each step: cosine and sine of every pair in its middle, then 1 for the channels that do not
// turn, then zeros up to a multiple of 16, as kernels like it. Grows on demand, in chunks that
// never move. Thread-safe.
class StepTable {
 public:
  // Rows of steps in one aligned chunk of so many lie side by side.
  static constexpr int64_t kChunkRows = 128;

  StepTable(const Rope& rope, int step);
  ~StepTable();
  StepTable(const StepTable&) = delete;
  StepTable& operator=(const StepTable&) = delete;
  // The table there is, if somebody still holds it, else a new one.
  static std::shared_ptr<StepTable> Share(const Rope& rope, int step);

  const Rope& rope() const { return rope_; }
  int step() const { return step_; }
  int num_terms() const { return (rope_.dims + 1 + 15) / 16 * 16; }
  // [num_terms]; `index` in [0, 2^31 / step).
  const float* Row(int64_t index) {
    const int64_t chunk = index / kChunkRows;
    const Block* block = blocks_[static_cast<size_t>(chunk / kBlockChunks)].load();
    const float* rows =
        block == nullptr ? nullptr : (*block)[static_cast<size_t>(chunk % kBlockChunks)].load();
    if (rows == nullptr) rows = Grow(chunk);
    return rows + index % kChunkRows * num_terms();
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kBlockChunks = 1024;
  static constexpr int64_t kBlocks = 1024;  // with kBlockChunks and kChunkRows, 2^31 / 16 steps
  using Block = std::array<std::atomic<const float*>, kBlockChunks>;

  const float* Grow(int64_t chunk);

  const Rope rope_;
  const int step_;
  std::mutex growing_;
  std::array<std::atomic<Block*>, kBlocks> blocks_ = {};
  std::atomic<size_t> bytes_ = sizeof(StepTable);
};

class SteppedCentre {
 public:
  // `mean` [head_dim] is that of the keys before RoPE.
  SteppedCentre(std::shared_ptr<StepTable> table, std::span<const float> mean);

  StepTable& table() const { return *table_; }
  // Whether the centre depends on the position at all.
  bool turns() const { return table_->rope().dims > 0; }
  // Throws Error(kParameter) for a position that no step has: a negative one.
  static void CheckPosition(int64_t position);
  // The step of a position. Those of rows that were never written may be anything: they are taken
  // into the range of positions.
  int64_t StepAt(int64_t position) const {
    if (position <= 0) return 0;
    return std::min<int64_t>(position, std::numeric_limits<int32_t>::max()) / table_->step();
  }

  // The centre of a step: [head_dim].
  void At(int64_t step_index, float* centre) const;
  // rows[i] += sign * the centre of position + i, for `count` rows of head_dim floats. What is
  // added depends on the position alone, to the last bit: what one call subtracts another adds
  // back.
  void AddTo(int32_t position, int count, float sign, float* rows) const;
  // weights [num_queries][num_terms] of `queries` [num_queries][head_dim]: the centre's share of a
  // logit, <q, m_j>, is <weights, table().Row(j)>.
  void Weigh(const float* queries, int num_queries, float* weights) const;

  size_t bytes() const;  // that it holds, with its share of the table

 private:
  std::shared_ptr<StepTable> table_;
  int head_dim_;
  // [dims / 2][2], pair by pair, multiplied by D and RoPE's magnitude; then the channels that do
  // not turn.
  std::vector<float> means_;
};

}  // namespace polarquant
