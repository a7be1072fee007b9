// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, planning: what there is to do, and who does it.
//
// Queries are cut into blocks; a *unit* is one block and one kv_head, with one online softmax. The
// work of a unit is the pages its mask shows. All pages of all units form one line, unit after
// unit, that is cut into equal shares, one a thread: a long context with one query is split over
// the context, a long prompt over its blocks and heads, by the same rule. A unit that a cut goes
// through is merged exactly from its parts (max, sum, accumulators).
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "polarquant/attention.h"

namespace polarquant {

// Slots [begin, end) of a page; begin is a multiple of 64 except where a call begins.
struct PageWork {
  int64_t page;
  int begin, end;
  bool masked;  // whether the mask says more than "seen"
};

struct QueryBlock {
  int first = 0, count = 0;  // queries
  std::vector<PageWork> pages;
};

class Plan {
 public:
  // Forgets the last plan, keeps its memory, and takes what the new one can need: the other
  // functions do not throw, so that a team may wait for each other between them.
  void Reset(const AttentionCall& call, int page_tokens, int num_kv_heads, int queries_per_block);
  int num_blocks() const { return num_blocks_; }
  // Reads the mask of a block. Different blocks may be read by different threads.
  void ReadMask(const AttentionCall& call, int block);
  // After all masks are read.
  void CountItems();

  int64_t num_items() const { return items_per_head_ * num_kv_heads_; }
  int num_units() const { return num_blocks_ * num_kv_heads_; }
  int KvHeadOf(int unit) const { return unit / num_blocks_; }
  const QueryBlock& BlockOf(int unit) const {
    return blocks_[static_cast<size_t>(unit % num_blocks_)];
  }
  int64_t FirstItem(int unit) const {
    return KvHeadOf(unit) * items_per_head_ + first_item_[static_cast<size_t>(unit % num_blocks_)];
  }
  int64_t EndItem(int unit) const {
    return KvHeadOf(unit) * items_per_head_ +
           first_item_[static_cast<size_t>(unit % num_blocks_) + 1];
  }
  int UnitOf(int64_t item) const;
  // Counts a part of a unit as done, what was stored for it visible to whoever counts the last;
  // returns the count.
  int CountPart(int unit) {
    return std::atomic_ref(parts_done_[static_cast<size_t>(unit)])
               .fetch_add(1, std::memory_order_acq_rel) +
           1;
  }

 private:
  int page_tokens_ = 0, num_kv_heads_ = 0, num_blocks_ = 0;
  std::vector<QueryBlock> blocks_;   // may be more than num_blocks_, from larger calls
  std::vector<int64_t> first_item_;  // of each block within a kv_head, and the end
  int64_t items_per_head_ = 0;
  std::vector<int> parts_done_;  // of each unit
};

}  // namespace polarquant
