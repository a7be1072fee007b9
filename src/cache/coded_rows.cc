// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: rows that arrive as codes, from a saved state or another store. A record keeps
// the statistics it was made with: where the page has others already, they go into a small table
// of the page (MixedHeaders) and the row remembers its entry.
#include <algorithm>
#include <cstring>

#include "cache/cell_store_impl.h"

namespace polarquant {
namespace {

// An encoded page for one row at a time, aligned as pages are.
class ScratchPage {
 public:
  explicit ScratchPage(size_t bytes) : memory_(bytes + 64) {
    void* start = memory_.data();
    size_t space = memory_.size();
    page_ = static_cast<std::byte*>(std::align(64, bytes, start, space));
  }
  std::byte* page() { return page_; }

 private:
  std::vector<std::byte> memory_;
  std::byte* page_;
};

}  // namespace

std::span<const std::byte> CellStore::Impl::HeaderOf(int64_t page, size_t head, int slot) const {
  const PageState& state = *Find(page);
  const uint8_t index = state.mixed ? state.mixed->index[static_cast<size_t>(slot)] : uint8_t{0};
  if (index == 0) return format.Header(static_cast<const std::byte*>(Codes(page, head)), slot);
  const size_t entry = static_cast<size_t>(index - 1) * num_kv_heads + head;
  return {state.mixed->headers.data() + entry * format.header_bytes(), format.header_bytes()};
}

void CellStore::Impl::DecodeRow(int64_t page, size_t head, int slot, float* row) const {
  const PageState& state = *Find(page);
  if (!state.mixed || state.mixed->index[static_cast<size_t>(slot)] == 0) {
    FormatOf(head).DecodeRow(Codes(page, head), slot, row);
    AddCentre(page, head, slot, 1, 1.0f, row);
    return;
  }
  ScratchPage scratch(format.page_bytes());
  std::vector<std::byte> record(format.record_bytes());
  format.ReadRecord(Codes(page, head), slot, record.data());
  format.WriteRecord(scratch.page(), 0, record.data());
  std::ranges::copy(HeaderOf(page, head, slot), format.Header(scratch.page()).begin());
  FormatOf(head).DecodeRow(scratch.page(), 0, row);
  AddCentre(page, head, slot, 1, 1.0f, row);
}

void CellStore::Impl::ReadCoded(int64_t cell, std::byte* headers, std::byte* records) const {
  for (size_t head = 0; head < num_kv_heads; ++head) {
    std::ranges::copy(HeaderOf(PageOf(cell), head, SlotOf(cell)),
                      headers + head * format.header_bytes());
    format.ReadRecord(Codes(PageOf(cell), head), SlotOf(cell),
                      records + head * format.record_bytes());
  }
}

// The entry of the page's headers that holds `headers`, made if there is none. Only entries that
// other rows need count, so at most page_tokens are ever in force and an index fits a byte.
uint8_t CellStore::Impl::HeaderIndex(int64_t page, int slot, const std::byte* headers) {
  PageState& state = *pages[static_cast<size_t>(page)];
  const size_t bytes = format.header_bytes();
  const size_t entry_bytes = num_kv_heads * bytes;
  // Only rows that share the page's own header with this one keep it in force.
  const int group = slot - slot % format.group_tokens();
  const PageBits sharing = PageBits::Range(group, group + format.group_tokens());
  PageBits others = state.coded();
  others.Reset(slot);
  std::array<bool, kMaxPageTokens + 1> used = {};
  others.ForEach([&](int other) {
    const size_t entry = state.mixed ? state.mixed->index[static_cast<size_t>(other)] : size_t{0};
    if (entry != 0 || sharing.Test(other)) used[entry] = true;
  });
  const auto holds = [&](size_t index) {
    if (index != 0) {
      const std::byte* entry = state.mixed->headers.data() + (index - 1) * entry_bytes;
      return std::memcmp(entry, headers, entry_bytes) == 0;
    }
    for (size_t head = 0; head < num_kv_heads; ++head) {
      const std::byte* own = format.Header(Codes(page, head), slot).data();
      if (std::memcmp(own, headers + head * bytes, bytes) != 0) return false;
    }
    return true;
  };
  size_t index = 0;
  for (; index < used.size(); ++index) {
    // The page's own costs nothing, in force or not.
    if ((used[index] || index == 0) && holds(index)) return static_cast<uint8_t>(index);
  }
  index = 0;
  while (used[index]) ++index;
  if (index == 0) {
    for (size_t head = 0; head < num_kv_heads; ++head) {
      std::memcpy(format.Header(Codes(page, head), slot).data(), headers + head * bytes, bytes);
    }
    return 0;
  }
  if (!state.mixed) state.mixed = std::make_unique<MixedHeaders>();
  std::vector<std::byte>& table = state.mixed->headers;
  if (table.size() < index * entry_bytes) table.resize(index * entry_bytes);
  std::memcpy(table.data() + (index - 1) * entry_bytes, headers, entry_bytes);
  return static_cast<uint8_t>(index);
}

void CellStore::Impl::TidyMixed(PageState& state) const {
  if (!state.mixed) return;
  bool needed = false;
  state.coded().ForEach(
      [&](int slot) { needed = needed || state.mixed->index[static_cast<size_t>(slot)] != 0; });
  if (!needed) state.mixed.reset();
}

void CellStore::Impl::InstallCoded(int64_t cell, const std::byte* headers,
                                   const std::byte* records) {
  const int64_t page = PageOf(cell);
  const int slot = SlotOf(cell);
  PageState& state = Need(page);
  if (!state.has_codes) {
    std::memset(Codes(page, 0), 0, slot_bytes);
    state.has_codes = true;
  }
  const uint8_t index = format.header_bytes() == 0 ? uint8_t{0} : HeaderIndex(page, slot, headers);
  if (state.mixed) state.mixed->index[static_cast<size_t>(slot)] = index;
  for (size_t head = 0; head < num_kv_heads; ++head) {
    format.WriteRecord(Codes(page, head), slot, records + head * format.record_bytes());
  }
  const bool was_exact = state.exact.Test(slot);
  state.written.Set(slot);
  state.exact.Reset(slot);
  state.pinned.Reset(slot);
  if (was_exact) ReleaseExact(page);
  Touch(page);
}

void CellStore::Impl::InstallExact(int64_t cell, const uint16_t* row) {
  PageState& state = Need(PageOf(cell));
  state.written.Set(SlotOf(cell));
  state.exact.Set(SlotOf(cell));
  state.pinned.Reset(SlotOf(cell));
  if (state.positions && state.positions->At(SlotOf(cell)) < 0) {
    // Nobody said where the row stands. Any step's centre serves, if not as well.
    state.positions->Set(SlotOf(cell), 0, false, page_tokens);
  }
  std::memcpy(ExactRow(cell), row, row_bytes);
  ++writes;
  Touch(PageOf(cell));
}

}  // namespace polarquant
