// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: rows addressed by cell number. A page store, and who may go when.
#include "polarquant/cell_store.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string>

#include "cache/page_store.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "util/parallel.h"

namespace polarquant {
namespace {

const CellStore::Config& Checked(const CellStore::Config& config) {
  CheckLimits(config.num_kv_heads, config.window_tokens, config.sink_tokens);
  CheckValue("num_cells", config.num_cells, 1, int64_t{1} << 32);
  CheckValue("max_partial_pages", config.max_partial_pages, 0, std::numeric_limits<int>::max());
  CheckValue("max_windows", config.max_windows, 1, 1 << 20);
  return config;
}

PagedRows::Shape ShapeOf(const CellStore::Config& config) {
  return {config.scheme,       config.role,        config.head_dim,
          config.num_kv_heads, config.page_tokens, config.target};
}

// An exact row that may be retired.
struct LooseRow {
  int32_t position;
  int64_t cell;
};

}  // namespace

struct CellStore::Impl {
  Impl(const Config& checked, std::byte* exact_memory)
      : config(checked),
        rows(ShapeOf(checked), checked.sink_tokens, checked.profile, checked.num_cells,
             exact_memory) {}

  // Cells in groups by page, pages ascending.
  struct PageCells {
    int64_t page;
    PageBits slots;
  };
  std::vector<PageCells> ByPage(std::span<const int64_t> cells) const {
    std::vector<int64_t> sorted(cells.begin(), cells.end());
    std::ranges::sort(sorted);
    std::vector<PageCells> groups;
    for (const int64_t cell : sorted) {
      const int64_t page = rows.PageOf(cell);
      if (groups.empty() || groups.back().page != page) groups.push_back({page, {}});
      groups.back().slots.Set(rows.SlotOf(cell));
    }
    return groups;
  }

  void CheckCells(std::span<const int64_t> cells) const {  // in range and distinct
    bool ascending = true;
    for (size_t i = 0; i < cells.size(); ++i) {
      CheckValue("cell", cells[i], 0, config.num_cells - 1);
      ascending = ascending && (i == 0 || cells[i] > cells[i - 1]);
    }
    if (ascending) return;
    std::vector<int64_t> sorted(cells.begin(), cells.end());
    std::ranges::sort(sorted);
    const auto twice = std::ranges::adjacent_find(sorted);
    if (twice == sorted.end()) return;
    throw Error(ErrorCode::kParameter, "cell " + std::to_string(*twice) +
                                           " is named twice in one call; name each cell once");
  }

  void CheckRange(int64_t first, int64_t count) const {
    CheckValue("first cell", first, 0, config.num_cells);
    CheckValue("count of cells", count, 0, config.num_cells - first);
  }

  // Newest first.
  std::vector<LooseRow> LooseRows() const {
    std::vector<LooseRow> loose;
    if (rows.exact_only()) return loose;
    for (size_t p = 0; p < rows.pages().size(); ++p) {
      const PageEntry& page = rows.pages()[p];
      page.loose().Without(page.retired).ForEach([&](int slot) {
        const int64_t cell = rows.CellOf(static_cast<int64_t>(p), slot);
        loose.push_back({rows.PositionOf(cell), cell});
      });
    }
    std::ranges::sort(loose, std::greater<>(), &LooseRow::position);
    return loose;
  }

  // Windows of sequences that nobody sees any more are only found out by their age.
  void LimitExactRows() {
    if (rows.exact_only() || !rows.stands_alone() || !rows.ready()) return;
    const int64_t limit = int64_t{config.max_windows} * (config.window_tokens + config.sink_tokens);
    if (rows.exact_rows() <= limit) return;
    std::vector<std::pair<uint64_t, int64_t>> pages;
    for (size_t p = 0; p < rows.pages().size(); ++p) {
      if (rows.pages()[p].loose().Any()) {
        pages.emplace_back(rows.pages()[p].newest, static_cast<int64_t>(p));
      }
    }
    std::ranges::sort(pages);
    for (const auto& [newest, page] : pages) {
      if (rows.exact_rows() <= limit) return;
      rows.Retire(page, PageBits::First(config.page_tokens));
    }
  }

  const Config config;
  PageStore rows;
  int32_t written = 0;  // rows, for hosts without positions
};

CellStore::CellStore(const Config& config, std::byte* exact_range)
    : impl_(std::make_unique<Impl>(Checked(config), exact_range)) {}

CellStore::~CellStore() = default;

size_t CellStore::exact_range_bytes(const Config& config) {
  Checked(config);
  CheckHeadDim(config.head_dim);
  return SparseRange::RoundUp(static_cast<size_t>(config.num_cells) *
                              static_cast<size_t>(config.num_kv_heads) *
                              static_cast<size_t>(config.head_dim) * sizeof(uint16_t));
}

const CellStore::Config& CellStore::config() const { return impl_->config; }
const PagedRows::Shape& CellStore::shape() const { return impl_->rows.shape(); }
int64_t CellStore::num_cells() const { return impl_->rows.num_cells(); }
const PageFormat& CellStore::format(int kv_head) const { return impl_->rows.format(kv_head); }
const SteppedCentre* CellStore::centre(int kv_head) const { return impl_->rows.centre(kv_head); }
bool CellStore::exact_only() const { return impl_->rows.exact_only(); }
PageView CellStore::View(int64_t page, int kv_head) const {
  return impl_->rows.View(page, kv_head);
}
int64_t CellStore::num_pages() const {
  return (impl_->config.num_cells + impl_->config.page_tokens - 1) / impl_->config.page_tokens;
}
bool CellStore::needs_profile() const { return !impl_->rows.ready(); }
size_t CellStore::saved_row_bytes() const { return impl_->rows.row_bytes(); }
bool CellStore::can_save() const { return impl_->rows.can_save(); }

void CellStore::ReadRow(int64_t cell, float* row) const {
  CheckValue("cell", cell, 0, impl_->config.num_cells - 1);
  impl_->rows.ReadRow(cell, row);
}

void CellStore::Write(std::span<const int64_t> cells, const float* rows, int64_t row_stride,
                      int num_threads, const int32_t* positions) {
  Impl& impl = *impl_;
  impl.CheckCells(cells);
  std::vector<int32_t> numbers;
  if (positions == nullptr) {
    if (impl.rows.needs_positions()) {
      throw Error(ErrorCode::kParameter, "scheme " + impl.config.scheme.ToString() +
                                             " needs the position of every row written");
    }
    for (size_t i = 0; i < cells.size(); ++i) {
      numbers.push_back(std::min(impl.written + static_cast<int32_t>(i), kMaxPosition));
    }
    positions = numbers.data();
  }
  std::vector<PageStore::Run> runs;
  for (size_t i = 0; i < cells.size(); ++i) {
    const bool joins = i > 0 && cells[i] == cells[i - 1] + 1 && impl.rows.SlotOf(cells[i]) != 0;
    if (joins) {
      ++runs.back().count;
    } else {
      runs.push_back(
          {impl.rows.PageOf(cells[i]), impl.rows.SlotOf(cells[i]), 1, static_cast<int64_t>(i)});
    }
  }
  std::ranges::stable_sort(runs, {}, &PageStore::Run::page);
  const HostRows from = {rows, NumberType::kF32, row_stride, impl.config.head_dim};
  impl.rows.Write(runs, from, positions, num_threads);
  impl.written = static_cast<int32_t>(
      std::min<int64_t>(int64_t{impl.written} + static_cast<int64_t>(cells.size()), kMaxPosition));
}

void CellStore::Settle(int num_threads) {
  const std::vector<LooseRow> loose = impl_->LooseRows();
  std::vector<int64_t> leaving;
  for (const LooseRow& row : loose) {
    if (loose.front().position - row.position >= impl_->config.window_tokens) {
      leaving.push_back(row.cell);
    }
  }
  Retire(leaving, num_threads);
}

std::vector<int64_t> CellStore::LeavingWindow(const uint16_t* mask, int64_t mask_stride,
                                              int num_queries, int64_t num_cells) const {
  constexpr uint16_t kHidden = 0xfc00;
  std::vector<LooseRow> loose = impl_->LooseRows();
  std::erase_if(loose, [&](const LooseRow& row) { return row.cell >= num_cells; });
  std::vector<int64_t> leaving;
  std::vector<char> gone(loose.size());
  for (int n = num_queries - 1; n >= 0; --n) {  // the last one sees most
    const uint16_t* row = mask + n * mask_stride;
    const auto seen = [&](const LooseRow& of) { return row[of.cell] != kHidden; };
    const auto newest = std::ranges::find_if(loose, seen);
    if (newest == loose.end()) continue;
    const auto old = std::ranges::partition_point(loose, [&](const LooseRow& of) {
      return newest->position - of.position < impl_->config.window_tokens;
    });
    for (auto of = old; of != loose.end(); ++of) {
      char& out = gone[static_cast<size_t>(of - loose.begin())];
      if (out != 0 || !seen(*of)) continue;
      out = 1;
      leaving.push_back(of->cell);
    }
  }
  return leaving;
}

std::vector<std::pair<int64_t, int32_t>> CellStore::ExactCells() const {
  std::vector<std::pair<int64_t, int32_t>> cells;
  for (size_t p = 0; p < impl_->rows.pages().size(); ++p) {
    impl_->rows.pages()[p].exact.ForEach([&](int slot) {
      const int64_t cell = impl_->rows.CellOf(static_cast<int64_t>(p), slot);
      cells.emplace_back(cell, impl_->rows.PositionOf(cell));
    });
  }
  return cells;
}

void CellStore::Retire(std::span<const int64_t> cells, int num_threads) {
  impl_->CheckCells(cells);
  for (const auto& [page, slots] : impl_->ByPage(cells)) impl_->rows.Retire(page, slots);
  impl_->rows.CloseRetired(impl_->config.max_partial_pages, num_threads);
  impl_->LimitExactRows();
}

void CellStore::SetProfile(std::shared_ptr<const KeyProfile> profile, int num_threads) {
  if (!needs_profile()) {
    throw Error(ErrorCode::kParameter, "the store of " + impl_->config.scheme.ToString() +
                                           " has its profile already, or takes none");
  }
  if (profile == nullptr) throw Error(ErrorCode::kParameter, "there is no profile to set");
  impl_->rows.SetProfile(std::move(profile), num_threads);
}

void CellStore::Transform(std::span<const int64_t> cells,
                          const std::function<void(int64_t cell, float* row)>& change,
                          int num_threads, const int32_t* shifts) {
  Impl& impl = *impl_;
  impl.CheckCells(cells);
  if (impl.rows.needs_positions() && shifts == nullptr) {
    throw Error(ErrorCode::kParameter, "scheme " + impl.config.scheme.ToString() +
                                           " needs to know by how much every position changes");
  }
  std::vector<std::pair<int64_t, int32_t>> shift_of;
  for (size_t i = 0; i < cells.size() && shifts != nullptr; ++i) {
    shift_of.emplace_back(cells[i], shifts[i]);
  }
  std::ranges::sort(shift_of);
  const auto shift = [&](int64_t cell) {
    if (shift_of.empty()) return 0;
    return std::ranges::lower_bound(shift_of, cell, {}, &std::pair<int64_t, int32_t>::first)
        ->second;
  };
  const auto groups = impl.ByPage(cells);
  for (const auto& [page, slots] : groups) impl.rows.CheckShift(page, slots, shift);
  const int team = TeamFor(num_threads, static_cast<int64_t>(groups.size()),
                           static_cast<int64_t>(cells.size() * impl.rows.row_values()));
  Parallel(team, [&](int thread, int threads) {
    const Share share = ShareOf(static_cast<int64_t>(groups.size()), thread, threads);
    for (int64_t i = share.begin; i < share.end; ++i) {
      const auto& group = groups[static_cast<size_t>(i)];
      impl.rows.Transform(group.page, group.slots, change, shift);
    }
  });
}

void CellStore::Clear() {
  impl_->rows.Clear();
  impl_->written = 0;
}

void CellStore::ClearCells(int64_t first, int64_t count) {
  impl_->CheckRange(first, count);
  const int64_t end = first + count;
  for (int64_t cell = first; cell < end;) {
    const int64_t page = impl_->rows.PageOf(cell);
    const int64_t page_end = std::min(end, impl_->rows.CellOf(page + 1, 0));
    impl_->rows.Forget(page,
                       PageBits::Range(impl_->rows.SlotOf(cell),
                                       static_cast<int>(page_end - impl_->rows.CellOf(page, 0))));
    cell = page_end;
  }
}

void CellStore::SaveRows(int64_t first, int64_t count, std::byte* saved, int num_threads) const {
  impl_->CheckRange(first, count);
  impl_->rows.Save(first, count, saved, num_threads);
}

void CellStore::LoadRows(int64_t first, int64_t count, const std::byte* saved, int num_threads) {
  impl_->CheckRange(first, count);
  impl_->rows.Load(first, count, saved, num_threads);
}

void CellStore::CopyFrom(const CellStore& other, int64_t first, int64_t count) {
  const Config& a = impl_->config;
  const Config& b = other.impl_->config;
  if (a.scheme != b.scheme || a.role != b.role || a.head_dim != b.head_dim ||
      a.num_kv_heads != b.num_kv_heads || a.page_tokens != b.page_tokens) {
    throw Error(ErrorCode::kParameter,
                "rows of a " + b.scheme.ToString() + " store of " + std::to_string(b.num_kv_heads) +
                    " x " + std::to_string(b.head_dim) + " cannot be copied into a " +
                    a.scheme.ToString() + " store of " + std::to_string(a.num_kv_heads) + " x " +
                    std::to_string(a.head_dim) +
                    "; scheme, role, shape and page_tokens must be equal");
  }
  if (impl_->rows.SchemeTag() != other.impl_->rows.SchemeTag()) {
    throw Error(ErrorCode::kParameter,
                "rows cannot be copied between stores of different profiles");
  }
  impl_->CheckRange(first, count);
  other.impl_->CheckRange(first, count);
  if (this != &other) impl_->rows.CopyFrom(other.impl_->rows, first, count);
}

MemoryUse CellStore::memory() const {
  MemoryUse use;
  OsPages exact, codes;
  std::set<const void*> seen;
  impl_->rows.AddMemory(&use, &exact, &codes, &seen);
  use.bookkeeping_bytes += sizeof(Impl) - sizeof(PageStore);
  use.exact_bytes = exact.bytes();
  use.code_bytes = codes.bytes() - use.header_bytes;
  use.f16_bytes = static_cast<size_t>(use.filled_cells) * impl_->rows.row_bytes();
  return use;
}

}  // namespace polarquant
