// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, planning: which pages a block of queries sees.
#include "attention/plan.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "format/tile_layout.h"

namespace polarquant {
namespace {

// Rows of a unit: enough to pay for unpacking a page, few enough that logits and accumulators stay
// in the second-level cache.
constexpr int kRowsPerUnit = 48;

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

// What the first to the last query of a block see together.
CellRange SeenByBlock(const AttentionTerms& terms, const SequenceCall& call,
                      const QueryBlock& block) {
  return {SeenBy(terms, call, block.first).begin,
          SeenBy(terms, call, block.first + block.count - 1).end};
}

}  // namespace

Plan::Lengths Plan::LengthsOf(const SequenceCall& call) {
  return {call.first_cell, call.num_cells, call.num_queries, call.mask != nullptr};
}

void Plan::Reset(const AttentionBatch& batch) {
  lengths_.clear();
  lengths_.reserve(batch.sequences.size());
  blocks_of_.clear();
  blocks_of_.reserve(batch.sequences.size());
  causal_ = batch.causal;
  window_ = batch.window;
  page_tokens_ = num_kv_heads_ = group_ = 1;
  if (!batch.sequences.empty()) {
    const PagedRows::Shape& shape = batch.sequences[0].keys->shape();
    page_tokens_ = shape.page_tokens;
    num_kv_heads_ = shape.num_kv_heads;
    group_ = batch.num_q_heads / num_kv_heads_;
  }
  const int queries_per_block = std::max(1, kRowsPerUnit / group_);
  num_blocks_ = max_rows_ = 0;
  mask_values_ = 0;
  for (const SequenceCall& call : batch.sequences) {
    const int64_t queries = call.num_queries;
    const auto blocks = static_cast<int>((queries + queries_per_block - 1) / queries_per_block);
    if (call.mask != nullptr) mask_values_ += queries * (call.num_cells - call.first_cell);
    const int end = num_blocks_ + blocks;
    if (blocks_.size() < static_cast<size_t>(end)) blocks_.resize(static_cast<size_t>(end));
    for (int b = 0; b < blocks; ++b) {  // as even as can be
      const int index = num_blocks_ + b;
      QueryBlock& block = blocks_[static_cast<size_t>(index)];
      block.sequence = static_cast<int>(lengths_.size());
      block.first = static_cast<int>(queries * b / blocks);
      block.count = static_cast<int>(queries * (b + 1) / blocks) - block.first;
      max_rows_ = std::max(max_rows_, block.count * group_);
      const CellRange seen = SeenByBlock(batch, call, block);
      block.pages.clear();
      block.pages.reserve(static_cast<size_t>((seen.end + page_tokens_ - 1) / page_tokens_ -
                                              seen.begin / page_tokens_));
    }
    blocks_of_.push_back({num_blocks_, blocks});
    num_blocks_ += blocks;
    lengths_.push_back(LengthsOf(call));
  }
  first_item_.reserve(static_cast<size_t>(num_units()) + 1);
}

void Plan::ReadMask(const AttentionBatch& batch, int index) {
  QueryBlock& block = blocks_[static_cast<size_t>(index)];
  const SequenceCall& call = batch.sequences[static_cast<size_t>(block.sequence)];
  const CellRange seen = SeenByBlock(batch, call, block);
  // What all queries of the block see.
  const int64_t all_begin = SeenBy(batch, call, block.first + block.count - 1).begin;
  const int64_t all_end = SeenBy(batch, call, block.first).end;
  for (int64_t page = seen.begin / page_tokens_; page * page_tokens_ < seen.end; ++page) {
    const int64_t first_cell = page * page_tokens_;
    const auto slot_of = [&](int64_t cell) {
      return static_cast<int>(std::clamp<int64_t>(cell - first_cell, 0, page_tokens_));
    };
    PageWork work = {page, slot_of(seen.begin), slot_of(seen.end), false, false};
    if (call.mask != nullptr && !Unhide(batch, call, block, &work)) continue;
    work.edged = all_begin > first_cell + work.begin || all_end < first_cell + work.end;
    block.pages.push_back(work);
  }
}

// Cuts the work down to the tiles of which the mask shows something. False: it shows nothing.
bool Plan::Unhide(const AttentionBatch& batch, const SequenceCall& call, const QueryBlock& block,
                  PageWork* work) const {
  const int64_t before = work->page * page_tokens_;
  int begin = -1, end = 0;
  for (int slot = work->begin; slot < work->end;) {
    Seen seen;
    const int next = std::min((slot / kTileTokens + 1) * kTileTokens, work->end);
    for (int n = block.first; n < block.first + block.count; ++n) {
      const CellRange range = SeenBy(batch, call, n);
      const int64_t from = std::max(range.begin, before + slot);
      const int64_t to = std::min(range.end, before + next);
      if (from < to) {
        LookAt(call.mask + n * call.mask_stride + from - call.first_cell,
               static_cast<int>(to - from), &seen);
      }
    }
    if (seen.any) {
      if (begin < 0) begin = slot;
      work->masked = work->masked || seen.masked || (end > 0 && end != slot);
      end = next;
    }
    slot = next;
  }
  if (begin < 0) return false;
  work->begin = begin;
  work->end = end;
  return true;
}

void Plan::CheckFor(const AttentionBatch& batch) const {
  const auto fail = [](const std::string& what) {
    throw Error(ErrorCode::kParameter,
                "the plan of attention was made for " + what + "; make one for this batch");
  };
  const auto same = [&](int64_t made_for, int64_t given, const char* what) {
    if (made_for == given) return;
    fail(std::string(what) + " " + std::to_string(made_for) + ", and is given " +
         std::to_string(given));
  };
  same(static_cast<int64_t>(lengths_.size()), static_cast<int64_t>(batch.sequences.size()),
       "a number of sequences of");
  if (lengths_.empty()) return;
  const PagedRows::Shape& shape = batch.sequences[0].keys->shape();
  same(num_kv_heads_, shape.num_kv_heads, "num_kv_heads");
  same(page_tokens_, shape.page_tokens, "page_tokens");
  same(int64_t{group_} * num_kv_heads_, batch.num_q_heads, "num_q_heads");
  same(static_cast<int64_t>(causal_), static_cast<int64_t>(batch.causal), "causal");
  same(window_, batch.window, "a window of");
  for (size_t i = 0; i < lengths_.size(); ++i) {
    if (lengths_[i] == LengthsOf(batch.sequences[i])) continue;
    fail("other cells, queries or another mask of sequence " + std::to_string(i) + ": cells " +
         std::to_string(lengths_[i].first_cell) + " to " + std::to_string(lengths_[i].num_cells) +
         " and " + std::to_string(lengths_[i].num_queries) + " queries, " +
         (lengths_[i].masked ? "masked" : "not masked"));
  }
}

void Plan::CountItems() {
  first_item_.assign(1, 0);
  for (int unit = 0; unit < num_units(); ++unit) {
    // A unit that sees nothing still has an output to write.
    const size_t pages = std::max<size_t>(BlockOf(unit).pages.size(), 1);
    first_item_.push_back(first_item_.back() + static_cast<int64_t>(pages));
  }
}

int Plan::UnitOf(int64_t item) const {
  const auto after = std::upper_bound(first_item_.begin(), first_item_.end(), item);
  return static_cast<int>(after - first_item_.begin()) - 1;
}

}  // namespace polarquant
