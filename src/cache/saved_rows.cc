// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: rows out of the store and back, bit for bit.
//
// A saved row takes num_kv_heads * head_dim * 2 bytes, as much as the f16 row it stands for, so
// that files of hosts keep their shape:
//
//   exact row   its f16 values; all are finite
//   coded row   u16 0x7e51 (a NaN, which no exact row holds), u16 tag of the scheme, then for each
//               kv_head its record and the header of its page; zeros to the end
//
// The tag is FNV-1a of "SCHEME/head_dim", and of what of the profile there is in
// force (balance scales, dense map, mean and frequencies), folded to 16 bits: a row saved under
// another scheme or profile is refused, not misread. Little endian throughout.
#include <algorithm>
#include <cstring>
#include <string>

#include "cache/cell_store_impl.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr uint16_t kCodedMark = 0x7e51;
constexpr size_t kMarkBytes = 4;

uint16_t LoadU16(const std::byte* bytes) {
  uint16_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

void StoreU16(uint16_t value, std::byte* bytes) { std::memcpy(bytes, &value, sizeof value); }

[[noreturn]] void ThrowDamaged(int64_t cell, const std::string& what) {
  throw Error(ErrorCode::kCorruption, "the saved row for cell " + std::to_string(cell) + " " +
                                          what + "; load a state this cache wrote, or start anew");
}

}  // namespace

uint16_t CellStore::Impl::SchemeTag(const Config& config) {
  uint32_t hash = 2166136261u;
  const auto add = [&hash](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 16777619u;
    }
  };
  const std::string text = config.scheme.ToString() + "/" + std::to_string(config.head_dim);
  add(text.data(), text.size());
  const auto add_values = [&add](const std::vector<float>& values) {
    add(values.data(), values.size() * sizeof(float));
  };
  if (config.scheme.normalisation.balance) add_values(config.profile->balance);
  if (config.scheme.normalisation.dense) add_values(config.profile->dense);
  if (config.scheme.normalisation.step != 0) {
    const Rope& rope = config.profile->rope;
    add_values(config.profile->mean);
    add(rope.frequencies.data(), rope.frequencies.size() * sizeof(double));
    add(&rope.magnitude, sizeof rope.magnitude);
  }
  return static_cast<uint16_t>(hash >> 16 ^ hash);
}

size_t CellStore::saved_row_bytes() const { return impl_->row_bytes; }

bool CellStore::can_save() const {
  const PageFormat& format = impl_->format;
  const size_t part = format.record_bytes() + format.header_bytes();
  if (impl_->needs_positions()) return false;
  return impl_->exact_only || kMarkBytes + impl_->num_kv_heads * part <= impl_->row_bytes;
}

void CellStore::SaveRow(int64_t cell, std::byte* saved) const {
  const Impl& impl = *impl_;
  impl.CheckCells({&cell, 1});
  const size_t record_bytes = impl.format.record_bytes();
  const size_t header_bytes = impl.format.header_bytes();
  if (impl.needs_positions()) {
    throw Error(ErrorCode::kUnsupported,
                "scheme " + impl.config.scheme.ToString() +
                    " cannot save rows: they leave no room for positions; choose one without "
                    "center=step, for instance " +
                    impl.config.scheme.codec + ":balance:center");
  }
  if (!can_save()) {
    throw Error(ErrorCode::kUnsupported,
                "scheme " + impl.config.scheme.ToString() + " cannot save rows: a mark of " +
                    std::to_string(kMarkBytes) + " bytes and " + std::to_string(impl.num_kv_heads) +
                    " x " + std::to_string(record_bytes + header_bytes) + " bytes do not fit the " +
                    std::to_string(impl.row_bytes) +
                    " bytes of a 16-bit row; choose a smaller one");
  }
  const PageState* state = impl.Find(impl.PageOf(cell));
  const int slot = impl.SlotOf(cell);
  std::memset(saved, 0, impl.row_bytes);
  if (state == nullptr || !state->written.Test(slot)) return;
  if (state->exact.Test(slot)) {
    std::memcpy(saved, impl.ExactRow(cell), impl.row_bytes);
    return;
  }
  StoreU16(kCodedMark, saved);
  StoreU16(impl.scheme_tag, saved + 2);
  std::byte* part = saved + kMarkBytes;
  for (size_t head = 0; head < impl.num_kv_heads; ++head) {
    impl.format.ReadRecord(impl.Codes(impl.PageOf(cell), head), slot, part);
    std::ranges::copy(impl.HeaderOf(impl.PageOf(cell), head, slot), part + record_bytes);
    part += record_bytes + header_bytes;
  }
}

void CellStore::LoadRow(int64_t cell, const std::byte* saved) {
  Impl& impl = *impl_;
  impl.CheckCells({&cell, 1});
  if (LoadU16(saved) != kCodedMark) {
    std::vector<uint16_t> row(impl.row_values);
    std::memcpy(row.data(), saved, impl.row_bytes);
    const auto bad =
        std::ranges::find_if(row, [](uint16_t half) { return (half & 0x7c00) == 0x7c00; });
    if (bad != row.end()) {
      ThrowDamaged(cell,
                   "holds an infinity or a NaN at channel " + std::to_string(bad - row.begin()));
    }
    impl.InstallExact(cell, row.data());
    return;
  }
  if (impl.exact_only || !can_save() || LoadU16(saved + 2) != impl.scheme_tag) {
    ThrowDamaged(cell, "was saved under another scheme than " + impl.config.scheme.ToString() +
                           " or is damaged");
  }
  const size_t record_bytes = impl.format.record_bytes();
  const size_t header_bytes = impl.format.header_bytes();
  std::vector<std::byte> headers(impl.num_kv_heads * header_bytes);
  std::vector<std::byte> records(impl.num_kv_heads * record_bytes);
  const std::byte* part = saved + kMarkBytes;
  for (size_t head = 0; head < impl.num_kv_heads; ++head) {
    std::copy_n(part, record_bytes, records.data() + head * record_bytes);
    std::copy_n(part + record_bytes, header_bytes, headers.data() + head * header_bytes);
    part += record_bytes + header_bytes;
  }
  if (std::any_of(part, saved + impl.row_bytes, [](std::byte b) { return b != std::byte{0}; })) {
    ThrowDamaged(cell, "has bytes after its records");
  }
  impl.InstallCoded(cell, headers.data(), records.data());
}

void CellStore::Impl::CopyPage(const Impl& other, int64_t page) {
  Forget(page, PageBits::First(CellsIn(page)));
  const PageState* from = other.Find(page);
  if (from == nullptr) return;
  PageState& state = Need(page);
  state.written = from->written;
  state.exact = from->exact;
  state.pinned = from->pinned;
  state.has_codes = from->has_codes;
  if (from->positions) *state.positions = *from->positions;
  if (from->mixed) state.mixed = std::make_unique<MixedHeaders>(*from->mixed);
  if (from->has_codes) std::memcpy(Codes(page, 0), other.Codes(page, 0), slot_bytes);
  from->exact.ForEachRun([&](int begin, int end) {
    const int64_t cell = CellOf(page, begin);
    std::memcpy(ExactRow(cell), other.ExactRow(cell), static_cast<size_t>(end - begin) * row_bytes);
  });
  writes += static_cast<uint64_t>(state.loose().Count());
  Touch(page);
}

void CellStore::Impl::CopyCell(const Impl& other, int64_t cell) {
  const PageState* from = other.Find(PageOf(cell));
  const int slot = SlotOf(cell);
  if (from != nullptr && from->positions) {
    PageState& state = Need(PageOf(cell));
    PageBits others = state.written;
    others.Reset(slot);
    state.positions->Set(slot, from->positions->At(slot), !others.Any(), page_tokens);
  }
  if (from == nullptr || !from->written.Test(slot)) {
    Forget(PageOf(cell), PageBits::Range(slot, slot + 1));
  } else if (from->exact.Test(slot)) {
    InstallExact(cell, other.ExactRow(cell));
    if (!from->pinned.Test(slot)) return;
    Need(PageOf(cell)).pinned.Set(slot);
    UnqueueIfDone(PageOf(cell));
  } else {
    std::vector<std::byte> headers(num_kv_heads * format.header_bytes());
    std::vector<std::byte> records(num_kv_heads * format.record_bytes());
    other.ReadCoded(cell, headers.data(), records.data());
    InstallCoded(cell, headers.data(), records.data());
  }
}

void CellStore::CopyFrom(const CellStore& other, int64_t first, int64_t count) {
  const Config& a = impl_->config;
  const Config& b = other.impl_->config;
  const auto same_profile = [&] {
    if (!a.scheme.normalisation.needs_profile() || a.profile == b.profile) return true;
    return *a.profile == *b.profile;
  };
  if (!same_profile()) {
    throw Error(ErrorCode::kParameter,
                "rows cannot be copied between stores of different profiles");
  }
  if (a.scheme != b.scheme || a.role != b.role || a.head_dim != b.head_dim ||
      a.num_kv_heads != b.num_kv_heads || a.page_tokens != b.page_tokens) {
    throw Error(ErrorCode::kParameter,
                "rows of a " + b.scheme.ToString() + " store of " + std::to_string(b.num_kv_heads) +
                    " x " + std::to_string(b.head_dim) + " cannot be copied into a " +
                    a.scheme.ToString() + " store of " + std::to_string(a.num_kv_heads) + " x " +
                    std::to_string(a.head_dim) +
                    "; scheme, role, shape and page_tokens must be equal");
  }
  impl_->CheckRange(first, count);
  other.impl_->CheckRange(first, count);
  if (this == &other) return;
  const int64_t end = first + count;
  for (int64_t cell = first; cell < end;) {
    const int64_t page = impl_->PageOf(cell);
    const int64_t page_end = std::min(end, impl_->CellOf(page + 1, 0));
    const int64_t whole = std::max(impl_->CellsIn(page), other.impl_->CellsIn(page));
    if (page_end - cell == whole) {
      impl_->CopyPage(*other.impl_, page);
    } else {
      for (int64_t one = cell; one < page_end; ++one) impl_->CopyCell(*other.impl_, one);
    }
    cell = page_end;
  }
}

}  // namespace polarquant
