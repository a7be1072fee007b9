// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: the rows of a sequence in pages that forks share.
#include "cache/sequence_rows.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "cache/half_rows.h"
#include "cache/row_formats.h"
#include "math/rotation.h"
#include "polarquant/error.h"
#include "util/parallel.h"

namespace polarquant {
namespace {

// A row of one kv_head as f16, whatever the host has.
void StoreHead(const HostRows& from, int64_t row, int64_t kv_head, int head_dim, uint16_t* to) {
  const int64_t at = row * from.row_stride + kv_head * from.head_stride;
  const auto count = static_cast<size_t>(head_dim);
  if (from.type == NumberType::kF32) {
    return FloatsToHalves(static_cast<const float*>(from.data) + at, count, to);
  }
  float floats[kMaxHeadDim];
  const uint16_t* halves = static_cast<const uint16_t*>(from.data) + at;
  if (from.type == NumberType::kF16) {
    HalvesToFloats(halves, count, floats);
  } else {
    for (size_t i = 0; i < count; ++i) {
      floats[i] = std::bit_cast<float>(static_cast<uint32_t>(halves[i]) << 16);
    }
  }
  FloatsToHalves(floats, count, to);
}

int Team(int num_threads, int64_t jobs, int64_t values) {
  const int64_t useful = 1 + values / static_cast<int64_t>(kValuesPerThread);
  return static_cast<int>(std::clamp<int64_t>(std::min(jobs, useful), 1, std::max(num_threads, 1)));
}

// The OS pages that hold the rows of `slots`.
size_t ResidentBytes(const PageBits& slots, size_t row_bytes) {
  const size_t os = SparseRange::OsPageBytes();
  size_t count = 0, next = 0;  // OS pages before `next` are counted
  slots.ForEachRun([&](int begin, int end) {
    const size_t first = std::max(next, static_cast<size_t>(begin) * row_bytes / os);
    const size_t last = (static_cast<size_t>(end) * row_bytes + os - 1) / os;
    if (last > first) count += last - first;
    next = std::max(next, last);
  });
  return count * os;
}

KeyProfile Neutral(const PagedRows::Shape& shape) {
  KeyProfile profile;
  const auto heads = static_cast<size_t>(shape.num_kv_heads),
             dim = static_cast<size_t>(shape.head_dim);
  if (shape.scheme.normalisation.balance) profile.balance.assign(heads * dim, 1.0f);
  if (shape.scheme.normalisation.step != 0) profile.mean.assign(heads * dim, 0.0f);
  if (shape.scheme.normalisation.dense) {
    profile.dense.assign(heads * dim * dim, 0.0f);
    for (size_t i = 0; i < heads * dim; ++i) profile.dense[i * dim + i % dim] = 1.0f;
    profile.dense_inverse = profile.dense;
  }
  return profile;
}

}  // namespace

void SequencePage::Free::operator()(std::byte* bytes) const { std::free(bytes); }

SequenceRows::SequenceRows(const Shape& shape, int sink_tokens, const KeyProfile* profile)
    : shape_(shape), sink_tokens_(sink_tokens), exact_only_(KeepsExactRows(shape.scheme)) {
  auto formats = std::make_shared<PageFormats>();
  // Without the profile no page can close yet. Attention maps queries even so, which then must
  // change nothing: the rows it reads are exact.
  const KeyProfile neutral = Neutral(shape);
  *formats = FormatsOf(shape, profile != nullptr ? profile : &neutral);
  formats_ = std::move(formats);
  centres_ = std::make_shared<const std::vector<SteppedCentre>>(CentresOf(shape, profile));
}

void SequenceRows::SetProfile(const KeyProfile& profile) {
  auto formats = std::make_shared<const PageFormats>(FormatsOf(shape_, &profile));
  centres_ = std::make_shared<const std::vector<SteppedCentre>>(CentresOf(shape_, &profile));
  formats_ = std::move(formats);
}

PageBits SequenceRows::SinksOf(int64_t page) const {
  const int64_t first = (first_page_ + page) * shape_.page_tokens;
  return PageBits::First(
      static_cast<int>(std::clamp<int64_t>(sink_tokens_ - first, 0, shape_.page_tokens)));
}

std::unique_ptr<std::byte[], SequencePage::Free> SequenceRows::NewCodes() const {
  // Pages take a multiple of 64 bytes.
  auto* codes = static_cast<std::byte*>(std::aligned_alloc(64, codes_bytes()));
  if (codes == nullptr) throw std::bad_alloc();
  return std::unique_ptr<std::byte[], SequencePage::Free>(codes);
}

std::unique_ptr<SparseRange> SequenceRows::NewRows(const PageBits& slots,
                                                   const SequencePage& from) const {
  const size_t row_bytes = row_values() * sizeof(uint16_t);
  auto rows =
      std::make_unique<SparseRange>(static_cast<size_t>(slots.Last() + 1) * row_bytes, nullptr);
  slots.And(from.exact).ForEachRun([&](int begin, int end) {
    const size_t offset = static_cast<size_t>(begin) * row_bytes;
    std::memcpy(rows->data() + offset, from.rows->data() + offset,
                static_cast<size_t>(end - begin) * row_bytes);
  });
  return rows;
}

SequencePage& SequenceRows::Own(int64_t page) {
  std::shared_ptr<SequencePage>& shared = pages_[static_cast<size_t>(page)];
  if (shared.use_count() == 1) {
    // use_count() orders nothing. Giving a reference back does: what the last other owner, perhaps
    // on another thread, read of the page comes before what is written to it now.
    std::shared_ptr<SequencePage> reference = shared;
    reference.reset();
    shared->closed.reset();
    return *shared;
  }
  auto own = std::make_shared<SequencePage>();
  own->exact = shared->exact;
  own->rows = NewRows(PageBits::First(shape_.page_tokens), *shared);
  if (shared->codes) {
    own->codes = NewCodes();
    own->formats = shared->formats;
    std::memcpy(own->codes.get(), shared->codes.get(), codes_bytes());
  }
  shared = std::move(own);
  return *shared;
}

void SequenceRows::Append(const HostRows& rows, int64_t count, int num_threads) {
  const int tokens = shape_.page_tokens;
  const int64_t first = num_cells(), end = first + count;
  for (int64_t cell = first; cell < end;) {  // memory first: nothing below throws
    const int64_t page = cell / tokens;
    const int slot = static_cast<int>(cell % tokens);
    const int slots_end = static_cast<int>(std::min<int64_t>(tokens, end - page * tokens));
    if (page == static_cast<int64_t>(pages_.size())) {
      pages_.push_back(std::make_shared<SequencePage>());
    }
    SequencePage& own = Own(page);
    const size_t whole = static_cast<size_t>(tokens) * row_values() * sizeof(uint16_t);
    if (own.rows == nullptr || own.rows->bytes() < whole) {  // new, or only its sinks
      own.rows = NewRows(PageBits::First(tokens), own);
    }
    own.exact = own.exact.Or(PageBits::Range(slot, slots_end));
    cell += slots_end - slot;
  }
  const int64_t values = count * exact_row_stride();
  Parallel(Team(num_threads, count, values), [&](int thread, int team) {
    const Share share = ShareOf(count, thread, team);
    for (int64_t n = share.begin; n < share.end; ++n) {
      const int64_t cell = first + n;
      uint16_t* to =
          ExactRow(*pages_[static_cast<size_t>(cell / tokens)], static_cast<int>(cell % tokens));
      for (int h = 0; h < shape_.num_kv_heads; ++h) {
        StoreHead(rows, n, h, shape_.head_dim, to + static_cast<int64_t>(h) * shape_.head_dim);
      }
    }
  });
  end_ += count;
}

bool SequenceRows::HasUnsettled(int64_t boundary) const {
  return !exact_only_ && (first_page_ + settled_ + 1) * shape_.page_tokens <= boundary;
}

void SequenceRows::AddCentre(int64_t page, int kv_head, int slot, int count, float sign,
                             float* rows) const {
  const int64_t token = (first_page_ + page) * shape_.page_tokens + slot;
  if (const SteppedCentre* of = centre(kv_head)) {
    of->AddTo(of->turns() ? static_cast<int32_t>(token) : 0, count, sign, rows);
  }
}

void SequenceRows::EncodeHead(int64_t page, const PageBits& sinks, int kv_head, SequencePage* to,
                              float* scratch) const {
  DecodePage(page, kv_head, scratch);  // every row is exact
  AddCentre(page, kv_head, 0, shape_.page_tokens, -1.0f, scratch);
  format(kv_head).EncodePage(scratch, shape_.page_tokens, Codes(*to, kv_head),
                             sinks.Any() ? sinks.words : nullptr);
}

void SequenceRows::PatchHead(int64_t page, const PageBits& loose, int kv_head, SequencePage* to,
                             float* scratch) const {
  const SequencePage& from = *pages_[static_cast<size_t>(page)];
  const PageFormat& format_of = format(kv_head);
  const auto dim = static_cast<size_t>(shape_.head_dim);
  std::byte* codes = Codes(*to, kv_head);
  for (int first = 0; first < shape_.page_tokens; first += format_of.group_tokens()) {
    const PageBits group = PageBits::Range(first, first + format_of.group_tokens());
    const PageBits joining = loose.And(group);
    if (!joining.Any()) continue;
    size_t count = 0;
    joining.ForEach([&](int slot) {
      float* row = scratch + dim * count++;
      HalvesToFloats(ExactRow(from, slot) + static_cast<size_t>(kv_head) * dim, dim, row);
      AddCentre(page, kv_head, slot, 1, -1.0f, row);
    });
    // A group none of whose codes stays gets statistics of its own rows.
    if (!group.Without(from.exact).Any()) {
      format_of.LearnGroup(codes, first, scratch, static_cast<int>(count));
    }
    count = 0;
    joining.ForEach([&](int slot) { format_of.EncodeRow(codes, slot, scratch + dim * count++); });
  }
}

void SequenceRows::Settle(int64_t boundary, int num_threads) {
  if (exact_only_) return;
  const int tokens = shape_.page_tokens;
  struct Job {
    int64_t page;
    PageBits sinks, loose;
    std::shared_ptr<SequencePage> closed;
    bool afresh;
  };
  std::vector<Job> jobs;
  int64_t end = settled_;
  for (; (first_page_ + end + 1) * tokens <= boundary; ++end) {
    std::shared_ptr<SequencePage>& page = pages_[static_cast<size_t>(end)];
    const PageBits sinks = SinksOf(end), loose = page->exact.Without(sinks);
    if (page->codes && !loose.Any()) continue;
    if (std::shared_ptr<SequencePage> made = ClosedByOther(*page)) {
      page = std::move(made);
      continue;
    }
    const bool afresh = !PageBits::First(tokens).Without(page->exact).Any();
    jobs.push_back({end, sinks, loose, std::make_shared<SequencePage>(), afresh});
    SequencePage& closed = *jobs.back().closed;
    closed.formats = formats_;
    closed.codes = NewCodes();
    if (!afresh) std::memcpy(closed.codes.get(), page->codes.get(), codes_bytes());
    closed.exact = sinks.And(page->exact);
    if (closed.exact.Any()) closed.rows = NewRows(closed.exact, *page);
  }
  const int64_t heads = shape_.num_kv_heads;
  const int64_t work = static_cast<int64_t>(jobs.size()) * heads;
  if (work > 0) {
    Parallel(Team(num_threads, work, work * tokens * shape_.head_dim), [&](int thread, int team) {
      std::vector<float> scratch(static_cast<size_t>(tokens * shape_.head_dim));
      const Share share = ShareOf(work, thread, team);
      for (int64_t i = share.begin; i < share.end; ++i) {
        const Job& job = jobs[static_cast<size_t>(i / heads)];
        const int head = static_cast<int>(i % heads);
        if (job.afresh) {
          EncodeHead(job.page, job.sinks, head, job.closed.get(), scratch.data());
        } else {
          PatchHead(job.page, job.loose, head, job.closed.get(), scratch.data());
        }
      }
    });
  }
  for (Job& job : jobs) {
    std::shared_ptr<SequencePage>& page = pages_[static_cast<size_t>(job.page)];
    if (page.use_count() > 1) {
      const std::scoped_lock lock(page->closing);
      if (page->closed && page->closed->formats == formats_) {
        job.closed = page->closed;
      } else {
        page->closed = job.closed;
      }
    }
    page = job.closed;  // may free the open page: not under its lock
  }
  settled_ = end;
}

std::shared_ptr<SequencePage> SequenceRows::ClosedByOther(SequencePage& page) const {
  const std::scoped_lock lock(page.closing);
  return page.closed && page.closed->formats == formats_ ? page.closed : nullptr;
}

void SequenceRows::Truncate(int64_t length) {
  const int64_t tokens = shape_.page_tokens, cells = length - FirstCell();
  pages_.resize(static_cast<size_t>((cells + tokens - 1) / tokens));
  end_ = length;
  settled_ = std::min(settled_, cells / tokens);
}

void SequenceRows::DropBefore(int64_t token) {
  const int64_t pages = token / shape_.page_tokens - first_page_;
  if (pages <= 0) return;
  pages_.erase(pages_.begin(), pages_.begin() + pages);
  first_page_ += pages;
  settled_ = std::max<int64_t>(settled_ - pages, 0);
}

void SequenceRows::Clear() {
  pages_.clear();
  first_page_ = end_ = settled_ = 0;
}

void SequenceRows::DecodePage(int64_t page, int kv_head, float* rows) const {
  const SequencePage& from = *pages_[static_cast<size_t>(page)];
  if (from.codes) {
    format(kv_head).DecodePage(Codes(from, kv_head), shape_.page_tokens, rows);
    AddCentre(page, kv_head, 0, shape_.page_tokens, 1.0f, rows);
  }
  const auto dim = static_cast<size_t>(shape_.head_dim);
  from.exact.ForEach([&](int slot) {
    HalvesToFloats(ExactRow(from, slot) + static_cast<size_t>(kv_head) * dim, dim,
                   rows + static_cast<size_t>(slot) * dim);
  });
}

PageView SequenceRows::View(int64_t page, int kv_head) const {
  const SequencePage& from = *pages_[static_cast<size_t>(page)];
  PageView view;
  if (from.codes) view.page = Codes(from, kv_head);
  if (from.rows) {
    view.exact_rows = ExactRow(from, 0) + static_cast<int64_t>(kv_head) * shape_.head_dim;
  }
  std::copy(std::begin(from.exact.words), std::end(from.exact.words), view.exact);
  view.first_position = static_cast<int32_t>((first_page_ + page) * shape_.page_tokens);
  return view;
}

void SequenceRows::DecodeCells(int64_t page, int kv_head, float* rows) const {
  std::fill_n(rows, static_cast<int64_t>(shape_.page_tokens) * shape_.head_dim, 0.0f);
  DecodePage(page, kv_head, rows);
}

void SequenceRows::ReadRow(int64_t cell, float* row) const {
  const SequencePage& page = *pages_[static_cast<size_t>(cell / shape_.page_tokens)];
  const int slot = static_cast<int>(cell % shape_.page_tokens);
  const auto dim = static_cast<size_t>(shape_.head_dim);
  for (int h = 0; h < shape_.num_kv_heads; ++h, row += dim) {
    if (page.exact.Test(slot)) {
      HalvesToFloats(ExactRow(page, slot) + static_cast<size_t>(h) * dim, dim, row);
    } else {
      format(h).DecodeRow(Codes(page, h), slot, row);
      AddCentre(cell / shape_.page_tokens, h, slot, 1, 1.0f, row);
    }
  }
}

void SequenceRows::Read(int64_t first, int64_t count, float* rows, int64_t row_stride,
                        int64_t head_stride, int num_threads) const {
  const int64_t tokens = shape_.page_tokens, heads = shape_.num_kv_heads, dim = shape_.head_dim;
  const int64_t begin = first - FirstCell(), end = begin + count;
  if (count == 0) return;
  const int64_t first_page = begin / tokens, pages = (end - 1) / tokens + 1 - first_page;
  const int64_t work = pages * heads;
  Parallel(Team(num_threads, work, count * heads * dim), [&](int thread, int team) {
    std::vector<float> decoded(static_cast<size_t>(tokens * dim));
    const Share share = ShareOf(work, thread, team);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const int64_t page = first_page + i / heads, head = i % heads;
      DecodePage(page, static_cast<int>(head), decoded.data());
      const int64_t from = std::max(begin, page * tokens), to = std::min(end, (page + 1) * tokens);
      for (int64_t cell = from; cell < to; ++cell) {
        std::copy_n(decoded.data() + (cell - page * tokens) * dim, dim,
                    rows + (cell - begin) * row_stride + head * head_stride);
      }
    }
  });
}

MemoryUse SequenceRows::Memory(int64_t first_token, std::set<const void*>* seen) const {
  constexpr size_t kBlock = 16;  // what malloc adds to a block
  MemoryUse use;
  use.bookkeeping_bytes = sizeof(*this) + pages_.capacity() * sizeof(pages_[0]);
  const size_t headers = format(0).headers_bytes() * static_cast<size_t>(shape_.num_kv_heads);
  const auto add = [&](const SequencePage& page) {
    if (!seen->insert(&page).second) return;
    use.bookkeeping_bytes += sizeof(SequencePage) + 2 * kBlock;
    if (page.rows) {
      use.exact_bytes += ResidentBytes(page.exact, row_values() * sizeof(uint16_t));
      use.bookkeeping_bytes += sizeof(SparseRange) + kBlock;
    }
    if (page.codes) {
      use.code_bytes += codes_bytes() - headers;
      use.header_bytes += headers;
      use.bookkeeping_bytes += kBlock;
    }
  };
  for (size_t p = 0; p < pages_.size(); ++p) {
    SequencePage& page = *pages_[p];
    add(page);
    {
      const std::scoped_lock lock(page.closing);
      if (page.closed) add(*page.closed);
    }
    const int64_t first = static_cast<int64_t>(p) * shape_.page_tokens;
    use.exact_cells +=
        page.exact
            .And(PageBits::Range(
                static_cast<int>(std::max<int64_t>(first_token - FirstCell() - first, 0)),
                static_cast<int>(std::min<int64_t>(num_cells() - first, shape_.page_tokens))))
            .Count();
  }
  if (seen->insert(formats_.get()).second) {
    for (const PageFormat& each : *formats_) use.bookkeeping_bytes += each.map_bytes();
    for (const SteppedCentre& each : *centres_) use.bookkeeping_bytes += each.bytes();
  }
  use.filled_cells = end_ - first_token;
  use.f16_bytes = static_cast<size_t>(use.filled_cells) * row_values() * sizeof(uint16_t);
  return use;
}

}  // namespace polarquant
