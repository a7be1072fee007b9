// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: codecs with statistics that the rows of a page share. Their rows wait exact until
// all that are loose in the page have left the window. Then it closes, all rows encoded together;
// or, if codes in it are still in force, those rows are patched in with the statistics it has.
#include <algorithm>
#include <vector>

#include "cache/half_rows.h"
#include "cache/page_store.h"
#include "util/parallel.h"

namespace polarquant {

void PageStore::CloseHead(const PageEntry& page, int64_t number, int kv_head, float* rows) const {
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const PageFormat& to = format(kv_head);
  std::byte* codes = Codes(page, kv_head);
  const PageBits staying = page.coded();
  if (!staying.Any()) {
    DecodePage(number, kv_head, rows);
    const int count = page.written.Last() + 1;
    const PageBits outside = PageBits::First(count).Without(page.written).Or(page.pinned);
    AddCentre(page, kv_head, 0, count, -1.0f, rows);
    to.EncodePage(rows, count, codes, outside.Any() ? outside.words : nullptr);
    return;
  }
  for (int first = 0; first < shape_.page_tokens; first += to.group_tokens()) {
    const PageBits group = PageBits::Range(first, first + to.group_tokens());
    const PageBits joining = page.loose().And(group);
    if (!joining.Any()) continue;
    size_t count = 0;
    joining.ForEach([&](int slot) {
      float* row = rows + dim * count++;
      HalvesToFloats(ExactRow(page, slot) + static_cast<size_t>(kv_head) * dim, dim, row);
      AddCentre(page, kv_head, slot, 1, -1.0f, row);
    });
    // A group none of whose codes stays gets statistics of its own rows.
    if (!staying.And(group).Any()) to.LearnGroup(codes, first, rows, static_cast<int>(count));
    count = 0;
    joining.ForEach([&](int slot) { to.EncodeRow(codes, slot, rows + dim * count++); });
  }
}

void PageStore::CloseRetired(int max_partial_pages, int num_threads) {
  if (exact_only_ || stands_alone() || !ready()) return;
  std::vector<int64_t> closing, partial;
  for (size_t p = 0; p < pages_.size(); ++p) {
    const PageEntry& page = pages_[p];
    if (!page.loose().Any() || page.loose().Without(page.retired).Any()) continue;
    const auto number = static_cast<int64_t>(p);
    const bool whole = page.coded().Any() || page.written == PageBits::First(CellsIn(number));
    (whole ? closing : partial).push_back(number);
  }
  if (partial.size() > static_cast<size_t>(max_partial_pages)) {
    const auto newest = [&](int64_t page) { return pages_[static_cast<size_t>(page)].newest; };
    std::ranges::sort(partial, {}, newest);
    closing.insert(closing.end(), partial.begin(), partial.end() - max_partial_pages);
  }
  for (const int64_t page : closing) OwnCodes(pages_[static_cast<size_t>(page)]);
  const int64_t heads = shape_.num_kv_heads, page_values = shape_.page_tokens * shape_.head_dim;
  const int64_t jobs = static_cast<int64_t>(closing.size()) * heads;
  Parallel(TeamFor(num_threads, jobs, jobs * page_values), [&](int thread, int team) {
    std::vector<float> rows(static_cast<size_t>(page_values));
    const Share share = ShareOf(jobs, thread, team);
    for (int64_t job = share.begin; job < share.end; ++job) {
      const int64_t page = closing[static_cast<size_t>(job / heads)];
      CloseHead(pages_[static_cast<size_t>(page)], page, static_cast<int>(job % heads),
                rows.data());
    }
  });
  for (const int64_t number : closing) {
    PageEntry& page = pages_[static_cast<size_t>(number)];
    const PageBits going = page.loose();
    page.exact = page.pinned;
    page.retired = {};
    num_exact_ -= going.Count();
    ReleaseExact(number, going);
  }
}

}  // namespace polarquant
