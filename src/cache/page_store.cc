// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: the page table, rows written into it, and reading them back.
#include "cache/page_store.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cache/half_rows.h"
#include "polarquant/error.h"
#include "util/parallel.h"

namespace polarquant {

PageStore::PageStore(const Shape& shape, int sink_tokens, std::shared_ptr<const KeyProfile> profile)
    : shape_(shape),
      sink_tokens_(sink_tokens),
      exact_only_(KeepsExactRows(shape.scheme)),
      needs_positions_(shape.scheme.normalisation.step > 0),
      identity_(false),
      num_cells_(0),
      formats_(std::make_shared<const RowFormats>(shape, std::move(profile))),
      code_pool_(std::make_shared<PagePool>(codes_bytes(), false)),
      exact_pool_(
          std::make_shared<PagePool>(static_cast<size_t>(shape.page_tokens) * row_bytes(), true)) {}

PageStore::PageStore(const Shape& shape, int sink_tokens, std::shared_ptr<const KeyProfile> profile,
                     int64_t num_cells, std::byte* exact_memory)
    : shape_(shape),
      sink_tokens_(sink_tokens),
      exact_only_(KeepsExactRows(shape.scheme)),
      needs_positions_(shape.scheme.normalisation.step > 0),
      identity_(true),
      num_cells_(num_cells),
      formats_(std::make_shared<const RowFormats>(shape, std::move(profile))) {
  const int64_t num_pages = (num_cells + shape.page_tokens - 1) / shape.page_tokens;
  if (!exact_only_) {
    const size_t bytes = static_cast<size_t>(num_pages) * codes_bytes();
    code_pool_ = std::make_shared<PagePool>(codes_bytes(), num_pages, bytes, nullptr);
  }
  exact_pool_ =
      std::make_shared<PagePool>(static_cast<size_t>(shape.page_tokens) * row_bytes(), num_pages,
                                 static_cast<size_t>(num_cells) * row_bytes(), exact_memory);
}

PageStore::PageStore(const PageStore& other)
    : PagedRows(other),
      shape_(other.shape_),
      sink_tokens_(other.sink_tokens_),
      exact_only_(other.exact_only_),
      needs_positions_(other.needs_positions_),
      identity_(other.identity_),
      num_cells_(other.num_cells_),
      formats_(other.formats_),
      code_pool_(other.code_pool_),
      exact_pool_(other.exact_pool_),
      pages_(other.pages_),
      num_exact_(other.num_exact_),
      clock_(other.clock_) {
  for (const PageEntry& page : pages_) {
    if (page.codes >= 0) code_pool_->Share(page.codes);
    if (page.exact_slot >= 0) exact_pool_->Share(page.exact_slot);
  }
}

PageStore::~PageStore() {
  if (identity_) return;  // the pools are its own
  for (PageEntry& page : pages_) GiveSlots(page);
}

// ---- The table.

const PageEntry* PageStore::Find(int64_t page) const {
  return page < static_cast<int64_t>(pages_.size()) ? &pages_[static_cast<size_t>(page)] : nullptr;
}

PageEntry& PageStore::Need(int64_t page) {
  if (page >= static_cast<int64_t>(pages_.size())) pages_.resize(static_cast<size_t>(page) + 1);
  return pages_[static_cast<size_t>(page)];
}

int PageStore::CellsIn(int64_t page) const {
  if (!identity_) return shape_.page_tokens;
  return static_cast<int>(std::min<int64_t>(shape_.page_tokens, num_cells_ - CellOf(page, 0)));
}

void PageStore::OwnCodes(PageEntry& page) {
  const int32_t before = page.codes;
  if (before >= 0 && !code_pool_->IsShared(before)) return;
  if (identity_) {
    page.codes = static_cast<int32_t>(&page - pages_.data());
    code_pool_->Claim(page.codes);
  } else {
    page.codes = code_pool_->Take();
  }
  std::byte* codes = code_pool_->At(page.codes);
  if (before < 0) {  // rows never written read as zeros
    std::memset(codes, 0, codes_bytes());
    return;
  }
  std::memcpy(codes, code_pool_->At(before), codes_bytes());
  code_pool_->Give(before);
}

void PageStore::OwnExact(PageEntry& page) {
  const int32_t before = page.exact_slot;
  if (before >= 0 && !exact_pool_->IsShared(before)) return;
  if (identity_) {
    page.exact_slot = static_cast<int32_t>(&page - pages_.data());
    exact_pool_->Claim(page.exact_slot);
    return;
  }
  page.exact_slot = exact_pool_->Take();
  if (before < 0) return;
  const std::byte* from = exact_pool_->At(before);
  page.exact.ForEachRun([&](int begin, int end) {
    std::memcpy(ExactRow(page, begin), from + static_cast<size_t>(begin) * row_bytes(),
                static_cast<size_t>(end - begin) * row_bytes());
  });
  exact_pool_->Give(before);
}

void PageStore::GiveSlots(PageEntry& page) {
  if (page.codes >= 0) code_pool_->Give(page.codes);
  if (page.exact_slot >= 0) exact_pool_->Give(page.exact_slot);
  page.codes = page.exact_slot = -1;
}

// The OS pages that retired rows lay on go back unless a row there is still exact. Side by side,
// pages may share one at their seam.
void PageStore::ReleaseExact(int64_t page, const PageBits& slots) {
  PageEntry& entry = pages_[static_cast<size_t>(page)];
  if (entry.exact_slot < 0) return;
  if (!identity_ && !entry.exact.Any()) {
    exact_pool_->Give(entry.exact_slot);
    entry.exact_slot = -1;
    return;
  }
  if (exact_pool_->IsShared(entry.exact_slot)) return;
  const auto os = static_cast<int64_t>(SparseRange::OsPageBytes());
  const auto bytes = static_cast<int64_t>(row_bytes());
  const int64_t origin = identity_ ? CellOf(page, 0) : 0;  // the row where byte 0 is
  const auto needed = [&](int64_t os_page) {
    const int64_t first = os_page * os / bytes, end = ((os_page + 1) * os + bytes - 1) / bytes;
    for (int64_t row = first; row < end; ++row) {
      const int64_t cell = row - origin + CellOf(page, 0);
      if (!identity_ && (cell < CellOf(page, 0) || cell >= CellOf(page + 1, 0))) continue;
      const PageEntry* of = Find(PageOf(cell));
      if (of != nullptr && of->exact.Test(SlotOf(cell))) return true;
    }
    return false;
  };
  int64_t done = -1;  // OS pages up to here are dealt with
  slots.ForEachRun([&](int begin, int end) {
    const int64_t last = ((origin + end) * bytes + os - 1) / os;
    for (int64_t os_page = std::max(done, (origin + begin) * bytes / os); os_page < last;) {
      int64_t stop = os_page;
      while (stop < last && !needed(stop)) ++stop;
      exact_pool_->Release(entry.exact_slot, (os_page * os) - origin * bytes,
                           (stop * os) - origin * bytes);
      os_page = stop + 1;
    }
    done = last;
  });
}

// ---- Writing.

void PageStore::Write(std::span<const Run> runs, const HostRows& rows, const int32_t* positions,
                      int num_threads) {
  const bool coding = stands_alone() && ready();
  for (const Run& run : runs) {
    for (int i = 0; i < run.count && !exact_only_; ++i) {
      CheckValue("position", positions[run.row + i], 0, kMaxPosition);
    }
  }
  for (const Run& run : runs) {  // memory first: nothing below throws
    PageEntry& page = Need(run.page);
    OwnExact(page);
    if (coding) OwnCodes(page);
    if (needs_positions_) page.positions.each.reserve(static_cast<size_t>(shape_.page_tokens));
  }
  for (const Run& run : runs) {
    PageEntry& page = pages_[static_cast<size_t>(run.page)];
    const PageBits slots = PageBits::Range(run.slot, run.slot + run.count);
    num_exact_ += slots.Without(page.exact).Count();
    page.written = page.written.Or(slots);
    page.exact = page.exact.Or(slots);
    page.pinned = page.pinned.Without(slots);
    page.retired = page.retired.Without(slots);
    clock_ += static_cast<uint64_t>(run.count);
    page.newest = clock_;
    if (exact_only_) continue;
    for (int i = 0; i < run.count; ++i) NotePosition(page, run.slot + i, positions[run.row + i]);
    if (needs_positions_) page.positions.Compact(page.written);
  }
  if (!identity_) {
    for (const Run& run : runs) {
      num_cells_ = std::max(num_cells_, CellOf(run.page, run.slot + run.count));
    }
  }
  ForEachHead(runs, num_threads, [&](const Run& run, int head, std::vector<float>* scratch) {
    const PageEntry& page = pages_[static_cast<size_t>(run.page)];
    for (int i = 0; i < run.count; ++i) {
      StoreExact(rows, run.row + i, head, shape_.head_dim, exact_row_stride(),
                 exact_only_ ? -1 : positions[run.row + i],
                 ExactRow(page, run.slot + i) + static_cast<int64_t>(head) * shape_.head_dim);
    }
    if (coding) EncodeExact(page, head, run.slot, run.count, scratch);
  });
}

void PageStore::ForEachHead(
    std::span<const Run> runs, int num_threads,
    const std::function<void(const Run&, int kv_head, std::vector<float>* scratch)>& visit) const {
  std::vector<size_t> pages;  // where their runs begin
  int64_t rows = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i == 0 || runs[i].page != runs[i - 1].page) pages.push_back(i);
    rows += runs[i].count;
  }
  const int64_t jobs = static_cast<int64_t>(pages.size()) * shape_.num_kv_heads;
  pages.push_back(runs.size());
  Parallel(TeamFor(num_threads, jobs, rows * exact_row_stride()), [&](int thread, int team) {
    std::vector<float> scratch;
    const Share share = ShareOf(jobs, thread, team);
    for (int64_t job = share.begin; job < share.end; ++job) {
      const auto page = static_cast<size_t>(job / shape_.num_kv_heads);
      for (size_t i = pages[page]; i < pages[page + 1]; ++i) {
        visit(runs[i], static_cast<int>(job % shape_.num_kv_heads), &scratch);
      }
    }
  });
}

void PageStore::NotePosition(PageEntry& page, int slot, int32_t position) {
  page.pinned.Reset(slot);
  if (position < sink_tokens_ && page.exact.Test(slot)) {
    page.pinned.Set(slot);
    page.retired.Reset(slot);  // it leaves the window anew should it be shifted out
  }
  if (!needs_positions_) return;
  PageBits others = page.written;
  others.Reset(slot);
  page.positions.Set(slot, position, !others.Any(), shape_.page_tokens);
}

void PageStore::EncodeExact(const PageEntry& page, int kv_head, int slot, int count,
                            std::vector<float>* scratch) const {
  const auto dim = static_cast<size_t>(shape_.head_dim);
  scratch->resize(static_cast<size_t>(count) * dim);
  for (int i = 0; i < count; ++i) {
    HalvesToFloats(ExactRow(page, slot + i) + static_cast<size_t>(kv_head) * dim, dim,
                   scratch->data() + static_cast<size_t>(i) * dim);
  }
  AddCentre(page, kv_head, slot, count, -1.0f, scratch->data());
  format(kv_head).EncodeRows(Codes(page, kv_head), slot, count, scratch->data());
}

void PageStore::AddCentre(const PageEntry& page, int kv_head, int slot, int count, float sign,
                          float* rows) const {
  const SteppedCentre* centre = this->centre(kv_head);
  if (centre == nullptr) return;
  int i = 0;
  for (; i < count && page.positions.At(slot + i) < 0; ++i)
    rows += shape_.head_dim;  // no row there
  if (page.positions.each.empty()) {
    return centre->AddTo(page.positions.At(slot + i), count - i, sign, rows);
  }
  for (; i < count; ++i, rows += shape_.head_dim) {
    centre->AddTo(std::max(page.positions.At(slot + i), 0), 1, sign, rows);
  }
}

void PageStore::Retire(int64_t page, const PageBits& slots) {
  if (exact_only_ || Find(page) == nullptr) return;
  PageEntry& entry = pages_[static_cast<size_t>(page)];
  const PageBits going = entry.loose().And(slots);
  if (!going.Any()) return;
  if (!stands_alone() || !ready()) {
    entry.retired = entry.retired.Or(going);
    return;
  }
  entry.exact = entry.exact.Without(going);
  entry.retired = entry.retired.Without(going);
  num_exact_ -= going.Count();
  ReleaseExact(page, going);
}

void PageStore::Forget(int64_t page, const PageBits& slots) {
  if (Find(page) == nullptr) return;
  PageEntry& entry = pages_[static_cast<size_t>(page)];
  const PageBits gone = entry.exact.And(slots);
  if (identity_) {  // a host that reads the range itself finds zeros where nothing is written
    gone.ForEachRun([&](int begin, int end) {
      std::memset(ExactRow(entry, begin), 0, static_cast<size_t>(end - begin) * row_bytes());
    });
  }
  num_exact_ -= gone.Count();
  entry.written = entry.written.Without(slots);
  entry.exact = entry.exact.Without(slots);
  entry.pinned = entry.pinned.Without(slots);
  entry.retired = entry.retired.Without(slots);
  ReleaseExact(page, gone);
  if (entry.written.Any()) return;
  GiveSlots(entry);
  entry = PageEntry{};
}

void PageStore::Clear() {
  for (size_t page = 0; page < pages_.size(); ++page) {
    Forget(static_cast<int64_t>(page), PageBits::First(shape_.page_tokens));
  }
  pages_ = std::vector<PageEntry>();  // = {} would keep its memory
  clock_ = 0;
  if (!identity_) num_cells_ = 0;
}

void PageStore::SetProfile(std::shared_ptr<const KeyProfile> profile, int num_threads) {
  auto formats = std::make_shared<const RowFormats>(shape_, std::move(profile));
  std::vector<int64_t> waiting;
  for (size_t p = 0; p < pages_.size() && stands_alone(); ++p) {
    if (!pages_[p].written.Any()) continue;
    OwnCodes(pages_[p]);
    waiting.push_back(static_cast<int64_t>(p));
  }
  formats_ = std::move(formats);
  const int64_t jobs = static_cast<int64_t>(waiting.size()) * shape_.num_kv_heads;
  Parallel(TeamFor(num_threads, jobs, jobs * shape_.page_tokens * shape_.head_dim), [&](int thread,
                                                                                        int team) {
    std::vector<float> scratch;
    const Share share = ShareOf(jobs, thread, team);
    for (int64_t job = share.begin; job < share.end; ++job) {
      const PageEntry& page =
          pages_[static_cast<size_t>(waiting[static_cast<size_t>(job / shape_.num_kv_heads)])];
      page.exact.ForEachRun([&](int begin, int end) {
        EncodeExact(page, static_cast<int>(job % shape_.num_kv_heads), begin, end - begin,
                    &scratch);
      });
    }
  });
  for (const int64_t page : waiting) {
    const PageBits retired = pages_[static_cast<size_t>(page)].retired;
    Retire(page, retired);
  }
}

// ---- Reading.

PageView PageStore::View(int64_t page, int kv_head) const {
  PageView view;
  const int64_t offset = static_cast<int64_t>(kv_head) * shape_.head_dim;
  const PageEntry* entry = Find(page);
  if (entry == nullptr || entry->exact_slot < 0) {
    if (identity_) {  // zeros
      view.exact_rows =
          reinterpret_cast<const uint16_t*>(exact_pool_->At(static_cast<int32_t>(page))) + offset;
    }
  } else {
    view.exact_rows = ExactRow(*entry, 0) + offset;
  }
  if (entry == nullptr) return view;
  if (entry->codes >= 0) view.page = Codes(*entry, kv_head);
  std::ranges::copy(entry->exact.words, view.exact);
  if (needs_positions_) {
    view.first_position = entry->positions.first;
    if (!entry->positions.each.empty()) view.positions = entry->positions.each.data();
  }
  return view;
}

void PageStore::DecodePage(int64_t page, int kv_head, float* rows) const {
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const PageEntry* entry = Find(page);
  const PageBits coded = entry != nullptr ? entry->coded() : PageBits();
  if (coded.Any()) {
    const int count = coded.Last() + 1;
    format(kv_head).DecodePage(Codes(*entry, kv_head), count, rows);
    AddCentre(*entry, kv_head, 0, count, 1.0f, rows);
  }
  for (int slot = 0; slot < shape_.page_tokens; ++slot, rows += dim) {
    if (coded.Test(slot)) continue;
    if (entry != nullptr && entry->exact.Test(slot)) {
      HalvesToFloats(ExactRow(*entry, slot) + static_cast<size_t>(kv_head) * dim, dim, rows);
    } else {
      std::fill_n(rows, dim, 0.0f);
    }
  }
}

void PageStore::ReadRow(int64_t cell, float* row) const {
  const PageEntry* entry = Find(PageOf(cell));
  const int slot = SlotOf(cell);
  if (entry == nullptr || !entry->written.Test(slot)) {
    std::fill_n(row, row_values(), 0.0f);
  } else if (entry->exact.Test(slot)) {
    HalvesToFloats(ExactRow(*entry, slot), row_values(), row);
  } else {
    for (int h = 0; h < shape_.num_kv_heads; ++h, row += shape_.head_dim) {
      format(h).DecodeRow(Codes(*entry, h), slot, row);
      AddCentre(*entry, h, slot, 1, 1.0f, row);
    }
  }
}

void PageStore::Read(int64_t first, int64_t count, float* rows, int64_t row_stride,
                     int64_t head_stride, int num_threads) const {
  if (count == 0) return;
  const int64_t tokens = shape_.page_tokens, heads = shape_.num_kv_heads, dim = shape_.head_dim;
  const int64_t end = first + count, first_page = first / tokens;
  const int64_t work = ((end - 1) / tokens + 1 - first_page) * heads;
  Parallel(TeamFor(num_threads, work, count * heads * dim), [&](int thread, int team) {
    std::vector<float> decoded(static_cast<size_t>(tokens * dim));
    const Share share = ShareOf(work, thread, team);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const int64_t page = first_page + i / heads, head = i % heads;
      DecodePage(page, static_cast<int>(head), decoded.data());
      const int64_t from = std::max(first, page * tokens), to = std::min(end, (page + 1) * tokens);
      for (int64_t cell = from; cell < to; ++cell) {
        std::copy_n(decoded.data() + (cell - page * tokens) * dim, dim,
                    rows + (cell - first) * row_stride + head * head_stride);
      }
    }
  });
}

int32_t PageStore::PositionOf(int64_t cell) const {
  const int32_t spelt =
      SpeltPosition(ExactRow(*Find(PageOf(cell)), SlotOf(cell)), exact_row_stride());
  return spelt >= 0 ? spelt : static_cast<int32_t>(std::min<int64_t>(cell, kMaxPosition));
}

// ---- Sequences.

void PageStore::SetEnd(int64_t num_cells) {
  const int64_t tokens = shape_.page_tokens;
  for (int64_t page = static_cast<int64_t>(pages_.size()) - 1; page >= num_cells / tokens; --page) {
    const int kept = static_cast<int>(std::clamp<int64_t>(num_cells - page * tokens, 0, tokens));
    Forget(page, PageBits::Range(kept, shape_.page_tokens));
  }
  pages_.resize(static_cast<size_t>((num_cells + tokens - 1) / tokens));
  num_cells_ = num_cells;
}

void PageStore::DropPages(int64_t count) {
  for (int64_t page = 0; page < count; ++page) {
    Forget(page, PageBits::First(shape_.page_tokens));
  }
  pages_.erase(pages_.begin(), pages_.begin() + count);
  num_cells_ -= count * shape_.page_tokens;
}

const PageEntry& PageStore::Restore(int64_t page, const PageBits& written, const PageBits& exact,
                                    bool coded) {
  PageEntry& entry = Need(page);
  entry.written = written;
  entry.exact = exact;
  num_exact_ += exact.Count();
  if (coded) OwnCodes(entry);
  if (exact.Any()) OwnExact(entry);
  return entry;
}

bool PageStore::SharePage(const PageStore& other, int64_t page, const PageBits& written,
                          int32_t first) {
  PageEntry entry = *other.Find(page);
  if (entry.codes < 0 && written.Without(entry.exact).Any()) return false;
  if (stands_alone() && ready() != (entry.codes >= 0)) return false;  // every row is coded, or none
  entry.written = written;
  entry.exact = entry.exact.And(written);
  entry.positions = {first, {}};
  PageBits sinks;
  entry.exact.ForEach([&](int slot) {
    if (first + slot < sink_tokens_) sinks.Set(slot);
  });
  entry.pinned = sinks;
  if (!entry.exact.Any()) entry.exact_slot = -1;
  pages_.push_back(entry);
  if (entry.codes >= 0) code_pool_->Share(entry.codes);
  if (entry.exact_slot >= 0) exact_pool_->Share(entry.exact_slot);
  num_exact_ += entry.exact.Count();
  return true;
}

void PageStore::AddMemory(MemoryUse* use, OsPages* exact, OsPages* codes,
                          std::set<const void*>* seen) const {
  constexpr size_t kBlock = 16;  // what malloc adds to a block
  use->bookkeeping_bytes += sizeof(*this) + pages_.capacity() * sizeof(PageEntry);
  if (seen->insert(formats_.get()).second) use->bookkeeping_bytes += formats_->bytes();
  const size_t headers = format(0).headers_bytes() * static_cast<size_t>(shape_.num_kv_heads);
  for (const PageEntry& page : pages_) {
    use->filled_cells += page.written.Count();
    use->exact_cells += page.exact.Count();
    if (page.positions.each.capacity() > 0) {
      use->bookkeeping_bytes += page.positions.each.capacity() * sizeof(int32_t) + kBlock;
    }
    if (page.exact_slot >= 0) {
      page.exact.ForEachRun([&](int begin, int end) {
        exact->Add(ExactRow(page, begin), static_cast<size_t>(end - begin) * row_bytes());
      });
    }
    if (page.codes >= 0) {
      codes->Add(Codes(page, 0), codes_bytes());
      if (seen->insert(Codes(page, 0)).second) use->header_bytes += headers;
    }
  }
}

}  // namespace polarquant
