// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: which memory the cell store holds, and handing it back.
#include <algorithm>
#include <cstring>

#include "cache/cell_store_impl.h"

namespace polarquant {
namespace {

// Calls release(first, end) for every maximal run of OS pages overlapping the bytes [begin, end)
// for which used(first_byte, end_byte) is false.
template <typename Used, typename Release>
void ForUnusedRuns(size_t begin, size_t end, const Used& used, const Release& release) {
  const size_t os = SparseRange::OsPageBytes();
  const size_t last = (end + os - 1) / os;
  size_t first = begin / os;
  for (size_t os_page = first; os_page < last; ++os_page) {
    if (!used(os_page * os, (os_page + 1) * os)) continue;
    release(first, os_page);
    first = os_page + 1;
  }
  release(first, last);
}

// Bytes of whole OS pages overlapped by ascending byte ranges.
class OsPageCount {
 public:
  void Add(size_t begin, size_t end) {
    const size_t os = SparseRange::OsPageBytes();
    const size_t first = std::max(begin / os, counted_up_to_);
    const size_t last = (end + os - 1) / os;
    if (last <= first) return;
    bytes_ += (last - first) * os;
    counted_up_to_ = last;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0, counted_up_to_ = 0;
};

}  // namespace

bool CellStore::Impl::AnyExact(int64_t first_cell, int64_t end_cell) const {
  end_cell = std::min(end_cell, config.num_cells);
  for (int64_t cell = first_cell; cell < end_cell;) {
    const int64_t page = PageOf(cell);
    const int64_t page_end = std::min(end_cell, CellOf(page + 1, 0));
    if (const PageState* state = Find(page)) {
      const PageBits range =
          PageBits::Range(SlotOf(cell), static_cast<int>(page_end - CellOf(page, 0)));
      if (state->exact.And(range).Any()) return true;
    }
    cell = page_end;
  }
  return false;
}

bool CellStore::Impl::AnyCodes(int64_t first_page, int64_t end_page) const {
  end_page = std::min(end_page, num_pages);
  for (int64_t page = first_page; page < end_page; ++page) {
    const PageState* state = Find(page);
    if (state != nullptr && state->has_codes) return true;
  }
  return false;
}

void CellStore::Impl::ReleaseExact(int64_t page) {
  const size_t begin = static_cast<size_t>(CellOf(page, 0)) * row_bytes;
  const size_t end = begin + static_cast<size_t>(CellsIn(page)) * row_bytes;
  ForUnusedRuns(
      begin, end,
      [&](size_t first_byte, size_t end_byte) {
        return AnyExact(static_cast<int64_t>(first_byte / row_bytes),
                        static_cast<int64_t>((end_byte + row_bytes - 1) / row_bytes));
      },
      [&](size_t first, size_t last) { exact_range.Release(first, last); });
}

void CellStore::Impl::DropCodes(int64_t page) {
  PageState& state = *pages[static_cast<size_t>(page)];
  state.mixed.reset();
  if (!state.has_codes) return;
  state.has_codes = false;
  const size_t begin = static_cast<size_t>(page) * slot_bytes;
  ForUnusedRuns(
      begin, begin + slot_bytes,
      [&](size_t first_byte, size_t end_byte) {
        return AnyCodes(static_cast<int64_t>(first_byte / slot_bytes),
                        static_cast<int64_t>((end_byte + slot_bytes - 1) / slot_bytes));
      },
      [&](size_t first, size_t last) { codes->Release(first, last); });
}

void CellStore::Impl::Forget(int64_t page, const PageBits& slots) {
  PageState* state = pages[static_cast<size_t>(page)].get();
  if (state == nullptr) return;
  // A host that reads the range itself finds zeros where nothing is written.
  const PageBits gone = state->exact.And(slots);
  gone.ForEachRun([&](int begin, int end) {
    std::memset(ExactRow(CellOf(page, begin)), 0, static_cast<size_t>(end - begin) * row_bytes);
  });
  state->written = state->written.Without(slots);
  state->exact = state->exact.Without(slots);
  state->pinned = state->pinned.Without(slots);
  if (gone.Any()) ReleaseExact(page);
  if (!state->coded().Any()) DropCodes(page);
  TidyMixed(*state);
  UnqueueIfDone(page);
  if (!state->written.Any()) pages[static_cast<size_t>(page)].reset();
}

void CellStore::Impl::ForgetAll() {
  const bool any =
      std::any_of(pages.begin(), pages.end(), [](const auto& p) { return p != nullptr; });
  if (!any) return;
  for (auto& page : pages) page.reset();
  recent.Clear();
  partial.Clear();
  writes = 0;
  exact_range.ReleaseAll();
  if (codes) codes->ReleaseAll();
}

MemoryUse CellStore::Impl::Memory() const {
  // What malloc adds to a block: its size field, rounded to 16 bytes.
  constexpr size_t kBlock = 16;
  MemoryUse use;
  use.bookkeeping_bytes = sizeof(Impl) + pages.capacity() * sizeof(pages[0]);
  for (const SteppedCentre& centre : centres) use.bookkeeping_bytes += centre.bytes();
  for (const PageFormat& one : formats) {
    use.bookkeeping_bytes += one.map_bytes();
  }
  OsPageCount exact_pages, code_pages;
  size_t own_headers = 0;  // lie among the codes; counted once, as headers
  for (int64_t page = 0; page < num_pages; ++page) {
    const PageState* state = Find(page);
    if (state == nullptr) continue;
    use.bookkeeping_bytes += sizeof(PageState) + kBlock;
    if (state->positions) {
      use.bookkeeping_bytes +=
          sizeof(RowPositions) + kBlock + state->positions->each.capacity() * sizeof(int32_t);
    }
    use.filled_cells += state->written.Count();
    use.exact_cells += state->exact.Count();
    const size_t first_row = static_cast<size_t>(CellOf(page, 0));
    state->exact.ForEachRun([&](int begin, int end) {
      exact_pages.Add((first_row + static_cast<size_t>(begin)) * row_bytes,
                      (first_row + static_cast<size_t>(end)) * row_bytes);
    });
    if (!state->has_codes) continue;
    const size_t slot = static_cast<size_t>(page) * slot_bytes;
    code_pages.Add(slot, slot + slot_bytes);
    own_headers += num_kv_heads * format.headers_bytes();
    if (state->mixed) {
      use.bookkeeping_bytes += sizeof(MixedHeaders) + 2 * kBlock;
      use.header_bytes += state->mixed->headers.capacity();
    }
  }
  use.exact_bytes = exact_pages.bytes();
  use.header_bytes += own_headers;
  use.code_bytes = code_pages.bytes() - own_headers;
  use.f16_bytes = static_cast<size_t>(use.filled_cells) * row_bytes;
  return use;
}

}  // namespace polarquant
