// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. What the cell store knows of one page, and the queues that say which page may
// close next. Rows have no time stamps: a page remembers its newest write, 8 bytes a page.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache/page_bits.h"

namespace polarquant {

// A page restored row by row may hold rows encoded with other statistics than its own header. Row
// r's header is the page's own if index[r] is 0, else number index[r] - 1 of `headers`
// (num_kv_heads headers one after another).
struct MixedHeaders {
  std::array<uint8_t, kMaxPageTokens> index = {};
  std::vector<std::byte> headers;
};

// Positions of a page's rows, for the stepped centre. Almost every page holds consecutive ones.
struct RowPositions {
  int32_t first = 0;
  std::vector<int32_t> each;  // [page_tokens], or empty: slot s has position first + s

  int32_t At(int slot) const {
    return each.empty() ? Later(slot) : each[static_cast<size_t>(slot)];
  }
  // `fresh`: no other row of the page has a position yet.
  void Set(int slot, int32_t position, bool fresh, size_t page_tokens) {
    if (fresh) {
      first = position - slot;
      each.clear();
    }
    if (At(slot) == position) return;
    if (each.empty()) {
      each.resize(page_tokens);
      for (size_t s = 0; s < page_tokens; ++s) each[s] = Later(static_cast<int>(s));
    }
    each[static_cast<size_t>(slot)] = position;
  }
  // Wraps around for rows that were never written.
  int32_t Later(int slots) const {
    return static_cast<int32_t>(static_cast<uint32_t>(first) + static_cast<uint32_t>(slots));
  }
  // Forgets the list if it says nothing.
  void Compact() {
    for (size_t s = 0; s < each.size(); ++s) {
      if (each[s] != each[0] + static_cast<int32_t>(s)) return;
    }
    if (!each.empty()) first = each[0];
    each.clear();
  }
};

enum class Queue : uint8_t {
  kNone,
  kRecent,   // has rows to encode once its newest write has left the window
  kPartial,  // left the window, but not all its cells were written
};

struct PageState {
  // exact is within written, pinned within exact. A row that is written and not exact is a code.
  PageBits written, exact, pinned;
  uint64_t newest = 0;  // the store's write count after the page's newest write
  std::unique_ptr<MixedHeaders> mixed;
  std::unique_ptr<RowPositions> positions;  // with a stepped centre
  int32_t older = -1, newer = -1;           // neighbours in its queue
  Queue queue = Queue::kNone;
  bool has_codes = false;

  PageBits coded() const { return written.Without(exact); }
  // Exact rows that wait to be encoded.
  PageBits loose() const { return exact.Without(pinned); }
};

using PageTable = std::vector<std::unique_ptr<PageState>>;

// Pages in the order of their newest write, oldest first, linked through PageState.
class PageQueue {
 public:
  explicit PageQueue(Queue kind) : kind_(kind) {}
  int32_t oldest() const { return oldest_; }
  int64_t count() const { return count_; }

  void PushNewest(PageTable& pages, int32_t page) {
    PageState& state = *pages[static_cast<size_t>(page)];
    state.queue = kind_;
    state.older = newest_;
    state.newer = -1;
    if (newest_ >= 0) pages[static_cast<size_t>(newest_)]->newer = page;
    newest_ = page;
    if (oldest_ < 0) oldest_ = page;
    ++count_;
  }
  void Remove(PageTable& pages, int32_t page) {
    PageState& state = *pages[static_cast<size_t>(page)];
    (state.older >= 0 ? pages[static_cast<size_t>(state.older)]->newer : oldest_) = state.newer;
    (state.newer >= 0 ? pages[static_cast<size_t>(state.newer)]->older : newest_) = state.older;
    state.queue = Queue::kNone;
    state.older = state.newer = -1;
    --count_;
  }
  void Clear() {
    oldest_ = newest_ = -1;
    count_ = 0;
  }

 private:
  Queue kind_;
  int32_t oldest_ = -1, newest_ = -1;
  int64_t count_ = 0;
};

}  // namespace polarquant
