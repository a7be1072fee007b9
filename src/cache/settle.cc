// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: what happens to a page when its newest write leaves the window. It closes (all
// rows encoded with statistics of their own), or, if it has codes that are still in force, its
// rewritten rows are patched in. Costs nothing while no page leaves the window.
#include <algorithm>
#include <vector>

#include "cache/cell_store_impl.h"
#include "cache/half_rows.h"
#include "util/parallel.h"

namespace polarquant {

void CellStore::Impl::EncodeHead(int64_t page, size_t head, float* rows) const {
  const PageState& state = *Find(page);
  const int count = state.written.Last() + 1;
  const PageBits outside = PageBits::First(count).Without(state.written).Or(state.pinned);
  AddCentre(page, head, 0, count, -1.0f, rows);
  FormatOf(head).EncodePage(rows, count, Codes(page, head),
                            outside.Any() ? outside.words : nullptr);
}

void CellStore::Impl::EncodeSlot(int64_t page, size_t head, int slot, float* row) const {
  AddCentre(page, head, slot, 1, -1.0f, row);
  FormatOf(head).EncodeRow(Codes(page, head), slot, row);
}

void CellStore::Impl::Settle(int num_threads) {
  std::vector<int64_t> closing, patching;
  const auto window = static_cast<uint64_t>(config.window_tokens);
  while (recent.oldest() >= 0) {
    const int64_t page = recent.oldest();
    PageState& state = *pages[static_cast<size_t>(page)];
    if (state.newest + window > writes) break;
    Unqueue(page);
    if (state.coded().Any()) {
      patching.push_back(page);
      continue;
    }
    if (state.written == PageBits::First(CellsIn(page))) {
      closing.push_back(page);
      continue;
    }
    // Codes nobody reads any more, of rows all rewritten or forgotten.
    DropCodes(page);
    partial.PushNewest(pages, static_cast<int32_t>(page));
  }
  while (partial.count() > config.max_partial_pages) {
    const int64_t page = partial.oldest();
    Unqueue(page);
    closing.push_back(page);
  }

  const size_t jobs = (closing.size() + patching.size()) * num_kv_heads;
  if (jobs == 0) return;
  const int team = static_cast<int>(std::min<size_t>(jobs, std::max(num_threads, 1)));
  Parallel(team, [&](int thread, int threads) {
    std::vector<float> rows(page_tokens * head_dim);
    const Share share = ShareOf(static_cast<int64_t>(jobs), thread, threads);
    for (int64_t job = share.begin; job < share.end; ++job) {
      const size_t which = static_cast<size_t>(job) / num_kv_heads;
      const size_t head = static_cast<size_t>(job) % num_kv_heads;
      if (which < closing.size()) {
        const int64_t page = closing[which];  // nothing in it is a code: all rows come exact
        DecodeCells(page, head, rows.data());
        EncodeHead(page, head, rows.data());
        continue;
      }
      const int64_t page = patching[which - closing.size()];
      Find(page)->loose().ForEach([&](int slot) {
        HalvesToFloats(ExactRow(CellOf(page, slot)) + head * head_dim, head_dim, rows.data());
        EncodeSlot(page, head, slot, rows.data());
      });
    }
  });

  for (const int64_t page : closing) {
    PageState& state = *pages[static_cast<size_t>(page)];
    state.has_codes = true;
    state.mixed.reset();
    state.exact = state.pinned;
    ReleaseExact(page);
  }
  for (const int64_t page : patching) {
    PageState& state = *pages[static_cast<size_t>(page)];
    if (state.mixed) {
      state.loose().ForEach([&](int slot) { state.mixed->index[static_cast<size_t>(slot)] = 0; });
    }
    state.exact = state.pinned;
    TidyMixed(state);
    ReleaseExact(page);
  }
}

}  // namespace polarquant
