// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, planning: what there is to do, and who does it.
//
// The queries of each sequence are cut into blocks; a *unit* is one block and one kv_head, with one
// online softmax. The work of a unit is the pages its mask shows. All pages of all units form one
// line, unit after unit, that is cut into equal shares, one a thread: a long context with one query
// is split over the context, a long prompt over its blocks and heads, by the same rule. A unit that
// a cut goes through is merged exactly from its parts (max, sum, accumulators).
#pragma once

#include <cstdint>
#include <vector>

#include "attention/checks.h"
#include "polarquant/attention.h"

namespace polarquant {

// Slots [begin, end) of a page, those that some query of the block sees.
struct PageWork {
  int64_t page;
  int begin, end;
  bool masked;  // whether the mask says more than "seen"
  bool edged;   // whether some query of the block sees a part only, by causality or the window
};

struct QueryBlock {
  int sequence = 0;
  int first = 0, count = 0;  // queries
  std::vector<PageWork> pages;
};

class Plan {
 public:
  // Forgets the last plan, keeps its memory, and takes what the new one can need: ReadMask and
  // CountItems do not throw, so that a team may wait for each other between them.
  void Reset(const AttentionBatch& batch);
  int num_blocks() const { return num_blocks_; }
  int64_t mask_values() const { return mask_values_; }  // that there are to read
  // Finds the pages of a block. Different blocks may be read by different threads.
  void ReadMask(const AttentionBatch& batch, int block);
  // After all masks are read.
  void CountItems();
  // Throws Error(kParameter) if it was made for a batch of other lengths.
  void CheckFor(const AttentionBatch& batch) const;

  int group() const { return group_; }        // query heads of a kv_head
  int max_rows() const { return max_rows_; }  // of a unit
  int64_t num_items() const { return first_item_.back(); }
  int num_units() const { return num_blocks_ * num_kv_heads_; }
  int KvHeadOf(int unit) const {
    const Blocks& blocks = BlocksOf(unit);
    return (unit - blocks.first * num_kv_heads_) / blocks.count;
  }
  const QueryBlock& BlockOf(int unit) const {
    const Blocks& blocks = BlocksOf(unit);
    const int index = blocks.first + (unit - blocks.first * num_kv_heads_) % blocks.count;
    return blocks_[static_cast<size_t>(index)];
  }
  int64_t FirstItem(int unit) const { return first_item_[static_cast<size_t>(unit)]; }
  int64_t EndItem(int unit) const { return first_item_[static_cast<size_t>(unit) + 1]; }
  int UnitOf(int64_t item) const;

 private:
  struct Lengths {
    int64_t first_cell, num_cells;
    int num_queries;
    bool masked;
    bool operator==(const Lengths&) const = default;
  };
  struct Blocks {
    int first, count;
  };
  // Of the unit's sequence, whose units lie together: all blocks of its first kv_head, and so on.
  const Blocks& BlocksOf(int unit) const {
    const QueryBlock& near = blocks_[static_cast<size_t>(unit / num_kv_heads_)];
    return blocks_of_[static_cast<size_t>(near.sequence)];
  }
  static Lengths LengthsOf(const SequenceCall& call);
  bool Unhide(const AttentionBatch& batch, const SequenceCall& call, const QueryBlock& block,
              PageWork* work) const;

  int page_tokens_ = 0, num_kv_heads_ = 0, group_ = 0, max_rows_ = 0, num_blocks_ = 0;
  bool causal_ = false;
  int64_t window_ = 0, mask_values_ = 0;
  std::vector<Lengths> lengths_;  // of each sequence
  std::vector<Blocks> blocks_of_;
  std::vector<QueryBlock> blocks_;   // may be more than num_blocks_, from larger calls
  std::vector<int64_t> first_item_;  // of each unit, and the end
};

}  // namespace polarquant
