// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: rows addressed by cell number, exact while they are young.
#include "polarquant/cell_store.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "cache/cell_store_impl.h"
#include "cache/half_rows.h"
#include "cache/row_formats.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "util/parallel.h"

namespace polarquant {
namespace {

const CellStore::Config& Checked(const CellStore::Config& config) {
  CheckLimits(config.num_kv_heads, config.window_tokens, config.sink_tokens);
  CheckValue("num_cells", config.num_cells, 1, int64_t{1} << 32);
  CheckValue("max_partial_pages", config.max_partial_pages, 0, std::numeric_limits<int>::max());
  return config;
}

}  // namespace

CellStore::Impl::Impl(const Config& checked, std::byte* exact_memory)
    : config(checked),
      shape{checked.scheme, checked.role, checked.head_dim, checked.num_kv_heads,
            checked.page_tokens},
      formats(FormatsOf(shape, checked.profile.get())),
      centres(CentresOf(shape, checked.profile.get())),
      format(formats.front()),
      exact_only(KeepsExactRows(checked.scheme)),
      num_pages((checked.num_cells + checked.page_tokens - 1) / checked.page_tokens),
      head_dim(static_cast<size_t>(checked.head_dim)),
      num_kv_heads(static_cast<size_t>(checked.num_kv_heads)),
      page_tokens(static_cast<size_t>(checked.page_tokens)),
      row_values(num_kv_heads * head_dim),
      row_bytes(row_values * sizeof(uint16_t)),
      slot_bytes(num_kv_heads * format.page_bytes()),
      scheme_tag(SchemeTag(checked)),
      exact_range(exact_range_bytes(checked), exact_memory),
      pages(static_cast<size_t>(num_pages)) {
  if (!exact_only) codes.emplace(static_cast<size_t>(num_pages) * slot_bytes, nullptr);
}

PageState& CellStore::Impl::Need(int64_t page) {
  auto& state = pages[static_cast<size_t>(page)];
  if (state == nullptr) {
    state = std::make_unique<PageState>();
    if (needs_positions()) state->positions = std::make_unique<RowPositions>();
  }
  return *state;
}

int CellStore::Impl::CellsIn(int64_t page) const {
  return static_cast<int>(
      std::min<int64_t>(config.page_tokens, config.num_cells - CellOf(page, 0)));
}

void CellStore::Impl::CheckCells(std::span<const int64_t> cells) const {
  bool ascending = true;
  for (size_t i = 0; i < cells.size(); ++i) {
    CheckValue("cell", cells[i], 0, config.num_cells - 1);
    ascending = ascending && (i == 0 || cells[i] > cells[i - 1]);
  }
  if (ascending) return;
  std::vector<int64_t> sorted(cells.begin(), cells.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice == sorted.end()) return;
  throw Error(ErrorCode::kParameter, "cell " + std::to_string(*twice) +
                                         " is named twice in one call; name each cell once");
}

void CellStore::Impl::CheckRange(int64_t first, int64_t count) const {
  CheckValue("first cell", first, 0, config.num_cells);
  CheckValue("count of cells", count, 0, config.num_cells - first);
}

void CellStore::Impl::CheckPage(int64_t page, int kv_head) const {
  CheckValue("page", page, 0, num_pages - 1);
  CheckValue("kv_head", kv_head, 0, config.num_kv_heads - 1);
}

void CellStore::Impl::Unqueue(int64_t page) {
  switch (Find(page)->queue) {
    case Queue::kNone:
      break;
    case Queue::kRecent:
      recent.Remove(pages, static_cast<int32_t>(page));
      break;
    case Queue::kPartial:
      partial.Remove(pages, static_cast<int32_t>(page));
      break;
  }
}

void CellStore::Impl::Touch(int64_t page) {
  PageState& state = *pages[static_cast<size_t>(page)];
  state.newest = writes;
  if (exact_only) return;
  TidyMixed(state);
  Unqueue(page);
  if (state.loose().Any()) recent.PushNewest(pages, static_cast<int32_t>(page));
}

void CellStore::Impl::UnqueueIfDone(int64_t page) {
  if (!Find(page)->loose().Any()) Unqueue(page);
}

std::vector<CellStore::Impl::PageCells> CellStore::Impl::ByPage(
    std::span<const int64_t> cells) const {
  std::vector<int64_t> sorted(cells.begin(), cells.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<PageCells> groups;
  for (const int64_t cell : sorted) {
    if (groups.empty() || groups.back().page != PageOf(cell)) groups.push_back({PageOf(cell), {}});
    groups.back().slots.Set(SlotOf(cell));
  }
  return groups;
}

void CellStore::Impl::AddCentre(int64_t page, size_t head, int slot, int count, float sign,
                                float* rows) const {
  if (centres.empty()) return;
  const PageState& state = *Find(page);
  const RowPositions* positions = state.positions.get();
  const auto row = [&](int at) { return rows + static_cast<size_t>(at - slot) * head_dim; };
  // Rows that were never written have no position.
  state.written.And(PageBits::Range(slot, slot + count)).ForEachRun([&](int begin, int end) {
    if (positions == nullptr || positions->each.empty()) {
      const int32_t first = positions == nullptr ? 0 : positions->At(begin);
      centres[head].AddTo(first, end - begin, sign, row(begin));
      return;
    }
    for (int at = begin; at < end; ++at) {
      centres[head].AddTo(positions->At(at), 1, sign, row(at));
    }
  });
}

void CellStore::Impl::DecodeCells(int64_t page, size_t head, float* rows) const {
  const PageState* state = Find(page);
  if (state == nullptr) {
    std::fill_n(rows, page_tokens * head_dim, 0.0f);
    return;
  }
  const PageBits coded = state->coded();
  if (coded.Any()) {
    FormatOf(head).DecodePage(Codes(page, head), coded.Last() + 1, rows);
    AddCentre(page, head, 0, coded.Last() + 1, 1.0f, rows);
  }
  for (int slot = 0; slot < config.page_tokens; ++slot) {
    float* row = rows + static_cast<size_t>(slot) * head_dim;
    if (state->exact.Test(slot)) {
      HalvesToFloats(ExactRow(CellOf(page, slot)) + head * head_dim, head_dim, row);
    } else if (!coded.Test(slot)) {
      std::fill_n(row, head_dim, 0.0f);
    } else if (state->mixed && state->mixed->index[static_cast<size_t>(slot)] != 0) {
      DecodeRow(page, head, slot, row);
    }
  }
}

void CellStore::Impl::ReadRow(int64_t cell, float* row) const {
  const PageState* state = Find(PageOf(cell));
  const int slot = SlotOf(cell);
  if (state == nullptr || !state->written.Test(slot)) {
    std::fill_n(row, row_values, 0.0f);
  } else if (state->exact.Test(slot)) {
    HalvesToFloats(ExactRow(cell), row_values, row);
  } else {
    for (size_t head = 0; head < num_kv_heads; ++head) {
      DecodeRow(PageOf(cell), head, slot, row + head * head_dim);
    }
  }
}

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
const PagedRows::Shape& CellStore::shape() const { return impl_->shape; }
int64_t CellStore::num_cells() const { return impl_->config.num_cells; }
const PageFormat& CellStore::format(int kv_head) const {
  return impl_->FormatOf(static_cast<size_t>(kv_head));
}
const SteppedCentre* CellStore::centre(int kv_head) const {
  return impl_->centres.empty() ? nullptr : &impl_->centres[static_cast<size_t>(kv_head)];
}
bool CellStore::exact_only() const { return impl_->exact_only; }
int64_t CellStore::num_pages() const { return impl_->num_pages; }
const uint16_t* CellStore::exact_rows() const { return impl_->ExactRow(0); }
MemoryUse CellStore::memory() const { return impl_->Memory(); }
void CellStore::Settle(int num_threads) { impl_->Settle(num_threads); }

void CellStore::Write(std::span<const int64_t> cells, const float* rows, int64_t row_stride,
                      int num_threads, const int32_t* positions) {
  Impl& impl = *impl_;
  impl.CheckCells(cells);
  if (impl.needs_positions()) {
    if (positions == nullptr) {
      throw Error(ErrorCode::kParameter, "scheme " + impl.config.scheme.ToString() +
                                             " needs the position of every row written");
    }
    for (size_t i = 0; i < cells.size(); ++i) SteppedCentre::CheckPosition(positions[i]);
  }
  for (size_t i = 0; i < cells.size(); ++i) {
    const int64_t page = impl.PageOf(cells[i]);
    const int slot = impl.SlotOf(cells[i]);
    PageState& state = impl.Need(page);
    if (state.positions) {
      PageBits others = state.written;
      others.Reset(slot);
      state.positions->Set(slot, positions[i], !others.Any(), impl.page_tokens);
    }
    state.written.Set(slot);
    state.exact.Set(slot);
    state.pinned.Reset(slot);
    ++impl.writes;
    impl.Touch(page);
  }
  const size_t worthwhile = cells.size() * impl.row_values / kValuesPerThread;
  const int team = static_cast<int>(std::min<size_t>(worthwhile, std::max(num_threads, 1)));
  Parallel(team, [&](int thread, int threads) {
    const Share share = ShareOf(static_cast<int64_t>(cells.size()), thread, threads);
    for (int64_t i = share.begin; i < share.end; ++i) {
      FloatsToHalves(rows + i * row_stride, impl.row_values,
                     impl.ExactRow(cells[static_cast<size_t>(i)]));
    }
  });
}

void CellStore::PinSinks(std::span<const int64_t> cells) {
  for (const int64_t cell : cells) CheckValue("cell", cell, 0, impl_->config.num_cells - 1);
  for (const int64_t cell : cells) {
    const int64_t page = impl_->PageOf(cell);
    if (impl_->Find(page) == nullptr) continue;
    PageState& state = impl_->Need(page);
    if (!state.exact.Test(impl_->SlotOf(cell))) continue;
    state.pinned.Set(impl_->SlotOf(cell));
    impl_->UnqueueIfDone(page);
  }
}

void CellStore::Clear() { impl_->ForgetAll(); }

void CellStore::ClearCells(int64_t first, int64_t count) {
  impl_->CheckRange(first, count);
  const int64_t end = first + count;
  for (int64_t cell = first; cell < end;) {
    const int64_t page = impl_->PageOf(cell);
    const int64_t page_end = std::min(end, impl_->CellOf(page + 1, 0));
    const int last_slot = static_cast<int>(page_end - impl_->CellOf(page, 0));
    impl_->Forget(page, PageBits::Range(impl_->SlotOf(cell), last_slot));
    cell = page_end;
  }
}

void CellStore::ReadRow(int64_t cell, float* row) const {
  CheckValue("cell", cell, 0, impl_->config.num_cells - 1);
  impl_->ReadRow(cell, row);
}

void CellStore::DecodeCells(int64_t page, int kv_head, float* rows) const {
  impl_->CheckPage(page, kv_head);
  impl_->DecodeCells(page, static_cast<size_t>(kv_head), rows);
}

PageView CellStore::View(int64_t page, int kv_head) const {
  PageView view;
  const auto head = static_cast<size_t>(kv_head);
  view.exact_rows = impl_->ExactRow(impl_->CellOf(page, 0)) + head * impl_->head_dim;
  const PageState* state = impl_->Find(page);
  if (state == nullptr) return view;
  if (state->has_codes) view.page = impl_->Codes(page, head);
  view.mixed = state->mixed != nullptr;
  std::copy(std::begin(state->exact.words), std::end(state->exact.words), view.exact);
  if (state->positions) {
    view.first_position = state->positions->first;
    if (!state->positions->each.empty()) view.positions = state->positions->each.data();
  }
  return view;
}

}  // namespace polarquant
