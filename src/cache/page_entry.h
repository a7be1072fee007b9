// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page. One line of a page table: which slots of the pools hold a page, and what is known
// of its rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cache/page_bits.h"

namespace polarquant {

// Positions of a page's rows, for a centre that depends on them. Almost every page holds
// consecutive ones.
struct RowPositions {
  int32_t first = 0;
  std::vector<int32_t> each;  // [page_tokens], or empty: slot s has position first + s

  int32_t At(int slot) const {
    return each.empty() ? first + slot : each[static_cast<size_t>(slot)];
  }
  // `fresh`: no other row of the page has a position that matters.
  void Set(int slot, int32_t position, bool fresh, int page_tokens) {
    if (fresh) {
      first = position - slot;
      each.clear();
    }
    if (At(slot) == position) return;
    if (each.empty()) {
      each.resize(static_cast<size_t>(page_tokens));
      for (int s = 0; s < page_tokens; ++s) each[static_cast<size_t>(s)] = first + s;
    }
    each[static_cast<size_t>(slot)] = position;
  }
  // Forgets the list if it says nothing of the slots that count.
  void Compact(const PageBits& slots) {
    int32_t base = 0;
    bool any = false, consecutive = true;
    slots.ForEach([&](int slot) {
      if (!any) base = At(slot) - slot;
      any = true;
      consecutive = consecutive && At(slot) - slot == base;
    });
    if (!consecutive) return;
    first = base;
    each = std::vector<int32_t>();  // = {} would keep its memory
  }
};

struct PageEntry {
  int32_t codes = -1;  // slot of its codes, -1 without any
  int32_t exact_slot = -1;
  PageBits written;
  PageBits exact;       // within written: rows with an exact copy, which wins over codes
  PageBits pinned;      // within exact: sinks, by their position
  PageBits retired;     // within loose: have left the window, and wait for their page to close
  uint64_t newest = 0;  // the store's clock after the newest write
  RowPositions positions;

  PageBits loose() const { return exact.Without(pinned); }
  PageBits coded() const { return written.Without(exact); }
};

}  // namespace polarquant
