// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, planning: which pages the mask shows to a block of queries.
#include "attention/plan.h"

#include <algorithm>
#include <cstring>

#include "format/tile_layout.h"

namespace polarquant {
namespace {

constexpr uint64_t kFourHidden = 0xfc00fc00fc00fc00u;  // -inf as f16, four times

struct Seen {
  bool any = false;     // some query sees some cell
  bool masked = false;  // some value is not zero
};

// One row of the mask over up to 64 cells.
void LookAt(const uint16_t* mask, int count, Seen* seen) {
  uint64_t not_hidden = 0, not_zero = 0;
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    uint64_t four;
    std::memcpy(&four, mask + i, sizeof four);
    not_hidden |= four ^ kFourHidden;
    not_zero |= four;
  }
  for (; i < count; ++i) {
    not_hidden |= mask[i] ^ (kFourHidden & 0xffffu);
    not_zero |= mask[i];
  }
  seen->any = seen->any || not_hidden != 0;
  seen->masked = seen->masked || not_zero != 0;
}

}  // namespace

void Plan::Reset(const AttentionCall& call, int page_tokens, int num_kv_heads,
                 int queries_per_block) {
  page_tokens_ = page_tokens;
  num_kv_heads_ = num_kv_heads;
  num_blocks_ = (call.num_queries + queries_per_block - 1) / queries_per_block;
  if (blocks_.size() < static_cast<size_t>(num_blocks_)) {
    blocks_.resize(static_cast<size_t>(num_blocks_));
  }
  for (int b = 0; b < num_blocks_; ++b) {  // as even as can be
    QueryBlock& block = blocks_[static_cast<size_t>(b)];
    const int64_t queries = call.num_queries;
    block.first = static_cast<int>(queries * b / num_blocks_);
    block.count = static_cast<int>(queries * (b + 1) / num_blocks_) - block.first;
    block.pages.clear();
    block.pages.reserve(static_cast<size_t>((call.num_cells + page_tokens - 1) / page_tokens -
                                            call.first_cell / page_tokens));
  }
  first_item_.reserve(static_cast<size_t>(num_blocks_) + 1);
  parts_done_.assign(static_cast<size_t>(num_units()), 0);
}

void Plan::ReadMask(const AttentionCall& call, int index) {
  QueryBlock& block = blocks_[static_cast<size_t>(index)];
  const int64_t num_pages = (call.num_cells + page_tokens_ - 1) / page_tokens_;
  for (int64_t page = call.first_cell / page_tokens_; page < num_pages; ++page) {
    const int64_t before = page * page_tokens_ - call.first_cell;  // columns of the mask
    const int first = static_cast<int>(std::max<int64_t>(-before, 0));
    const int count =
        static_cast<int>(std::min<int64_t>(page_tokens_, call.num_cells - page * page_tokens_));
    PageWork work = {page, first, count, false};
    if (call.mask != nullptr) {
      int begin = -1, end = 0;
      for (int slot = first; slot < count;) {
        Seen seen;
        const int next = std::min((slot / kTileTokens + 1) * kTileTokens, count);
        for (int n = block.first; n < block.first + block.count; ++n) {
          LookAt(call.mask + n * call.mask_stride + before + slot, next - slot, &seen);
        }
        if (seen.any) {
          if (begin < 0) begin = slot;
          work.masked = work.masked || seen.masked || (end > 0 && end != slot);
          end = next;
        }
        slot = next;
      }
      if (begin < 0) continue;
      work.begin = begin;
      work.end = end;
    }
    block.pages.push_back(work);
  }
}

void Plan::CountItems() {
  first_item_.assign(1, 0);
  for (int b = 0; b < num_blocks_; ++b) {
    // A block that sees nothing still has an output to write.
    const size_t pages = std::max<size_t>(blocks_[static_cast<size_t>(b)].pages.size(), 1);
    first_item_.push_back(first_item_.back() + static_cast<int64_t>(pages));
  }
  items_per_head_ = first_item_.back();
}

int Plan::UnitOf(int64_t item) const {
  const int64_t kv_head = item / items_per_head_, within = item % items_per_head_;
  const auto after = std::upper_bound(first_item_.begin(), first_item_.end(), within);
  return static_cast<int>(kv_head) * num_blocks_ + static_cast<int>(after - first_item_.begin()) -
         1;
}

}  // namespace polarquant
