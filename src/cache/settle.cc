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

void CellStore::Impl::PatchHead(int64_t page, size_t head, const PageBits& slots,
                                float* rows) const {
  const PageState& state = *Find(page);
  const PageFormat& to = FormatOf(head);
  const auto row = [&](int slot) { return rows + static_cast<size_t>(slot) * head_dim; };
  slots.ForEach([&](int slot) { AddCentre(page, head, slot, 1, -1.0f, row(slot)); });
  const PageBits staying = state.coded().Without(slots);
  const int tokens = format.group_tokens();
  for (int first = 0; first < config.page_tokens; first += tokens) {
    const PageBits group = PageBits::Range(first, first + tokens);
    const PageBits joining = slots.And(group);
    bool in_force = false;
    staying.And(group).ForEach([&](int slot) {
      in_force |= !state.mixed || state.mixed->index[static_cast<size_t>(slot)] == 0;
    });
    if (joining.Any() && !in_force && tokens < config.page_tokens) {
      std::vector<float> together;
      joining.ForEach(
          [&](int slot) { together.insert(together.end(), row(slot), row(slot) + head_dim); });
      to.LearnGroup(Codes(page, head), first, together.data(), joining.Count());
    }
    joining.ForEach([&](int slot) { to.EncodeRow(Codes(page, head), slot, row(slot)); });
  }
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
      const PageBits loose = Find(page)->loose();
      loose.ForEach([&](int slot) {
        HalvesToFloats(ExactRow(CellOf(page, slot)) + head * head_dim, head_dim,
                       rows.data() + static_cast<size_t>(slot) * head_dim);
      });
      PatchHead(page, head, loose, rows.data());
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
