// SPDX-License-Identifier: Apache-2.0
// Stage 5/7 page: rows out of a store and back, bit for bit; and rows changed where they lie.
//
// A saved row takes num_kv_heads * head_dim * 2 bytes, as much as the f16 row it stands for, so
// that files of hosts keep their shape:
//
//   exact row   its f16 values, which are finite and spell its position (row_formats.h)
//   coded row   u16 0x7e51 (a NaN, which no exact row holds), u16 tag of the scheme, u32 position,
//               then the record of each kv_head; zeros to the end
//
// The tag is FNV-1a of "SCHEME/head_dim", and of what the scheme takes from the profile, folded to
// 16 bits: a row saved under another scheme or profile is refused, not misread. Little endian.
#include <algorithm>
#include <cstring>
#include <string>

#include "cache/half_rows.h"
#include "cache/page_store.h"
#include "polarquant/error.h"
#include "util/parallel.h"

namespace polarquant {
namespace {

constexpr uint16_t kCodedMark = 0x7e51;
constexpr size_t kPositionOffset = 4, kRecordsOffset = 8;

template <typename Number>
Number LoadNumber(const std::byte* bytes) {
  Number value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <typename Number>
void StoreNumber(Number value, std::byte* bytes) {
  std::memcpy(bytes, &value, sizeof value);
}

bool AreZeros(const std::byte* begin, const std::byte* end) {
  return begin == end || (*begin == std::byte{0} &&
                          std::memcmp(begin, begin + 1, static_cast<size_t>(end - begin) - 1) == 0);
}

[[noreturn]] void ThrowDamaged(int64_t cell, const std::string& what) {
  throw Error(ErrorCode::kCorruption, "the saved row for cell " + std::to_string(cell) + " " +
                                          what + "; load a state this cache wrote, or start anew");
}

}  // namespace

uint16_t PageStore::SchemeTag() const {
  uint32_t hash = 2166136261u;
  const auto add = [&hash](const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
      hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 16777619u;
    }
  };
  const std::string text = shape_.scheme.ToString() + "/" + std::to_string(shape_.head_dim);
  add(text.data(), text.size());
  if (formats_->profile != nullptr) {
    const Normalisation& normalisation = shape_.scheme.normalisation;
    const auto add_values = [&add](const std::vector<float>& values) {
      add(values.data(), values.size() * sizeof(float));
    };
    if (normalisation.balance) add_values(formats_->profile->balance);
    if (normalisation.dense) add_values(formats_->profile->dense);
    if (normalisation.step > 0) {
      add_values(formats_->profile->mean);
      const std::vector<double>& frequencies = formats_->profile->rope.frequencies;
      add(frequencies.data(), frequencies.size() * sizeof(double));
      add(&formats_->profile->rope.magnitude, sizeof(double));
    }
  }
  return static_cast<uint16_t>(hash >> 16 ^ hash);
}

bool PageStore::can_save() const {
  const size_t records = static_cast<size_t>(shape_.num_kv_heads) * format(0).record_bytes();
  return exact_only_ || (stands_alone() && kRecordsOffset + records <= row_bytes());
}

void PageStore::Save(int64_t first, int64_t count, std::byte* saved, int num_threads) const {
  if (!can_save()) {
    throw Error(ErrorCode::kUnsupported,
                "scheme " + shape_.scheme.ToString() + " cannot save rows: " +
                    (stands_alone() ? "its records do not fit the bytes of 16-bit rows"
                                    : "it keeps statistics of whole pages") +
                    "; choose one like turbo4 or turbo4:balanced");
  }
  const size_t record = exact_only_ ? 0 : format(0).record_bytes();
  const uint16_t tag = SchemeTag();
  const int64_t end = first + count, first_page = PageOf(first);
  const int64_t num_pages = count == 0 ? 0 : PageOf(end - 1) + 1 - first_page;
  const auto save_page = [&](int64_t number) {
    const int64_t from = std::max(first, CellOf(number, 0));
    const int64_t to = std::min(end, CellOf(number + 1, 0));
    std::byte* out = saved + static_cast<size_t>(from - first) * row_bytes();
    std::memset(out, 0, static_cast<size_t>(to - from) * row_bytes());
    const PageEntry* page = Find(number);
    if (page == nullptr) return;
    const int begin = SlotOf(from);
    const auto place = [&](int slot) {
      return out + static_cast<size_t>(slot - begin) * row_bytes();
    };
    const PageBits range = PageBits::Range(begin, begin + static_cast<int>(to - from));
    page->exact.And(range).ForEachRun([&](int run, int run_end) {
      std::memcpy(place(run), ExactRow(*page, run),
                  static_cast<size_t>(run_end - run) * row_bytes());
    });
    page->coded().And(range).ForEachRun([&](int run, int run_end) {
      for (int slot = run; slot < run_end; ++slot) {
        StoreNumber(kCodedMark, place(slot));
        StoreNumber(tag, place(slot) + 2);
        StoreNumber(needs_positions_ ? page->positions.At(slot) : 0, place(slot) + kPositionOffset);
      }
      for (int h = 0; h < shape_.num_kv_heads; ++h) {
        format(h).ReadRecords(Codes(*page, h), run, run_end - run,
                              place(run) + kRecordsOffset + static_cast<size_t>(h) * record,
                              row_bytes());
      }
    });
  };
  Parallel(TeamFor(num_threads, num_pages, count * exact_row_stride()), [&](int thread, int team) {
    const Share share = ShareOf(num_pages, thread, team);
    for (int64_t p = share.begin; p < share.end; ++p) save_page(first_page + p);
  });
}

void PageStore::Load(int64_t first, int64_t count, const std::byte* saved, int num_threads) {
  const auto row_at = [&](int64_t n) { return saved + static_cast<size_t>(n) * row_bytes(); };
  const auto is_coded = [&](int64_t n) { return LoadNumber<uint16_t>(row_at(n)) == kCodedMark; };
  const size_t record = format(0).record_bytes();
  const size_t records = static_cast<size_t>(shape_.num_kv_heads) * record;
  const uint16_t tag = SchemeTag();
  for (int64_t n = 0; n < count; ++n) {  // all of it before anything changes
    const std::byte* row = row_at(n);
    if (!is_coded(n)) {
      for (size_t i = 0; i < row_values(); ++i) {
        if ((LoadNumber<uint16_t>(row + 2 * i) & 0x7c00) == 0x7c00) {
          ThrowDamaged(first + n, "holds an infinity or a NaN at channel " + std::to_string(i));
        }
      }
      continue;
    }
    if (exact_only_ || !can_save() || !ready() || LoadNumber<uint16_t>(row + 2) != tag) {
      ThrowDamaged(first + n, "was saved under another scheme or profile than " +
                                  shape_.scheme.ToString() + " or is damaged");
    }
    if (LoadNumber<uint32_t>(row + kPositionOffset) > static_cast<uint32_t>(kMaxPosition)) {
      ThrowDamaged(first + n, "names a position that cannot be");
    }
    if (!AreZeros(row + kRecordsOffset + records, row + row_bytes())) {
      ThrowDamaged(first + n, "has bytes after its records");
    }
  }
  const bool coding = stands_alone() && ready();
  const auto kind_of = [&](int64_t n) {
    return is_coded(n) ? 2 : AreZeros(row_at(n), row_at(n + 1)) ? 0 : 1;
  };
  std::vector<Run> runs;
  for (int64_t n = 0; n < count;) {  // runs of rows of one kind in one page
    const int kind = kind_of(n);
    const int64_t page = PageOf(first + n);
    int64_t end = n + 1;
    while (end < count && PageOf(first + end) == page && kind_of(end) == kind) ++end;
    const Run run = {page, SlotOf(first + n), static_cast<int>(end - n), n};
    const PageBits slots = PageBits::Range(run.slot, run.slot + run.count);
    Forget(page, slots);
    if (kind != 0) {
      PageEntry& entry = Need(page);
      if (kind == 1) OwnExact(entry);
      if (kind == 2 || coding) OwnCodes(entry);
      entry.written = entry.written.Or(slots);
      if (kind == 1) {
        entry.exact = entry.exact.Or(slots);
        num_exact_ += run.count;
        std::memcpy(ExactRow(entry, run.slot), row_at(n),
                    static_cast<size_t>(run.count) * row_bytes());
      }
      runs.push_back(run);
      for (int i = 0; i < run.count && !exact_only_; ++i) {
        const int32_t position = kind == 1 ? PositionOf(first + n + i)
                                           : LoadNumber<int32_t>(row_at(n + i) + kPositionOffset);
        NotePosition(entry, run.slot + i, position);
      }
      entry.positions.Compact(entry.written);
      clock_ += static_cast<uint64_t>(run.count);
      entry.newest = clock_;
    }
    n = end;
  }
  ForEachHead(runs, num_threads, [&](const Run& run, int head, std::vector<float>* scratch) {
    const PageEntry& page = *Find(run.page);
    if (is_coded(run.row)) {
      format(head).WriteRecords(
          Codes(page, head), run.slot, run.count,
          row_at(run.row) + kRecordsOffset + static_cast<size_t>(head) * record, row_bytes());
    } else if (coding) {
      EncodeExact(page, head, run.slot, run.count, scratch);
    }
  });
}

void PageStore::CopyFrom(const PageStore& other, int64_t first, int64_t count) {
  const size_t record = exact_only_ ? 0 : format(0).record_bytes();
  const int64_t end = first + count;
  std::vector<std::byte> records(static_cast<size_t>(shape_.page_tokens) * record);
  const auto range_in = [&](int64_t number) {
    return PageBits::Range(
        static_cast<int>(std::max<int64_t>(first - CellOf(number, 0), 0)),
        static_cast<int>(std::min<int64_t>(end - CellOf(number, 0), shape_.page_tokens)));
  };
  const auto is_whole = [&](const PageEntry& from, int64_t number, const PageBits& range) {
    return !from.written.Without(range).Any() &&
           (Find(number) == nullptr || !Find(number)->written.Without(range).Any());
  };
  const int64_t end_page = count == 0 ? PageOf(first) : PageOf(end - 1) + 1;
  for (int64_t number = PageOf(first); number < end_page; ++number) {  // before anything changes
    const PageBits range = range_in(number);
    const PageEntry* from = other.Find(number);
    if (from != nullptr && !stands_alone() && from->coded().And(range).Any() &&
        !is_whole(*from, number, range)) {
      throw Error(ErrorCode::kUnsupported,
                  "scheme " + shape_.scheme.ToString() +
                      " keeps statistics of whole pages: copy whole pages, from a multiple of " +
                      std::to_string(shape_.page_tokens) + " on");
    }
  }
  for (int64_t number = PageOf(first); number < end_page; ++number) {
    const PageBits range = range_in(number);
    const PageEntry* from = other.Find(number);
    const PageBits coming = from == nullptr ? PageBits() : from->written.And(range);
    const bool whole = from != nullptr && is_whole(*from, number, range);
    Forget(number, range);
    if (!coming.Any()) continue;
    PageEntry& to = Need(number);
    if (from->exact.And(range).Any()) OwnExact(to);
    const bool codes = from->codes >= 0 && (whole || stands_alone());
    if (codes) OwnCodes(to);
    const PageBits exact = from->exact.And(range);
    num_exact_ += exact.Count();
    to.written = to.written.Or(coming);
    to.exact = to.exact.Or(exact);
    to.retired = to.retired.Or(from->retired.And(range));
    exact.ForEachRun([&](int begin, int run_end) {
      std::memcpy(ExactRow(to, begin), other.ExactRow(*from, begin),
                  static_cast<size_t>(run_end - begin) * row_bytes());
    });
    coming.ForEach([&](int slot) {
      if (exact.Test(slot) && !exact_only_) {
        NotePosition(to, slot, other.PositionOf(CellOf(number, slot)));
      } else if (needs_positions_) {
        NotePosition(to, slot, from->positions.At(slot));
      }
    });
    if (needs_positions_) to.positions.Compact(to.written);
    clock_ += static_cast<uint64_t>(coming.Count());
    to.newest = clock_;
    if (!codes) continue;
    if (whole) {
      std::memcpy(Codes(to, 0), other.Codes(*from, 0), codes_bytes());
      continue;
    }
    coming.ForEachRun([&](int begin, int run_end) {
      for (int h = 0; h < shape_.num_kv_heads; ++h) {
        format(h).ReadRecords(other.Codes(*from, h), begin, run_end - begin, records.data(),
                              record);
        format(h).WriteRecords(Codes(to, h), begin, run_end - begin, records.data(), record);
      }
    });
  }
}

void PageStore::CheckShift(int64_t number, const PageBits& slots,
                           const std::function<int32_t(int64_t cell)>& shift) const {
  const PageEntry* page = Find(number);
  if (page == nullptr || exact_only_) return;
  page->written.And(slots).ForEach([&](int slot) {
    const bool exact = page->exact.Test(slot);
    const int32_t from = exact ? SpeltPosition(ExactRow(*page, slot), exact_row_stride())
                         : needs_positions_ ? page->positions.At(slot)
                                            : -1;
    if (from < 0) return;
    CheckValue("shifted position", int64_t{from} + shift(CellOf(number, slot)), 0, kMaxPosition);
  });
}

// Exact rows stay exact and their codes follow; the others are decoded, changed and encoded, the
// only time that a code is made of a code.
void PageStore::Transform(int64_t number, const PageBits& slots,
                          const std::function<void(int64_t cell, float* row)>& change,
                          const std::function<int32_t(int64_t cell)>& shift) {
  if (Find(number) == nullptr) return;
  PageEntry& page = pages_[static_cast<size_t>(number)];
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const PageBits exact = page.exact.And(slots), coded = page.coded().And(slots);
  std::vector<float> row(row_values());
  std::vector<float> changed(static_cast<size_t>(coded.Count()) * row_values());
  size_t count = 0;
  coded.ForEach([&](int slot) {
    float* to = changed.data() + row_values() * count++;
    ReadRow(CellOf(number, slot), to);
    change(CellOf(number, slot), to);
  });
  if (coded.Any()) OwnCodes(page);
  if (exact.Any()) OwnExact(page);
  const auto move = [&](int slot, int32_t from) {
    const int64_t to =
        std::clamp<int64_t>(int64_t{from} + shift(CellOf(number, slot)), 0, kMaxPosition);
    NotePosition(page, slot, static_cast<int32_t>(to));
    return static_cast<int32_t>(to);
  };
  exact.ForEach([&](int slot) {
    uint16_t* at = ExactRow(page, slot);
    const int32_t position = PositionOf(CellOf(number, slot));
    HalvesToFloats(at, row_values(), row.data());
    change(CellOf(number, slot), row.data());
    FloatsToHalves(row.data(), row_values(), at);
    if (!exact_only_)
      SpellPosition(move(slot, position), exact_row_stride(), 0, exact_row_stride(), at);
  });
  coded.ForEach([&](int slot) {
    if (needs_positions_) move(slot, page.positions.At(slot));
  });
  page.positions.Compact(page.written);

  std::vector<float> scratch;
  const bool afresh = !stands_alone() && coded == page.coded();
  for (int h = 0; h < shape_.num_kv_heads; ++h) {
    const size_t head = static_cast<size_t>(h) * dim;
    if (stands_alone() && ready()) {
      exact.ForEachRun(
          [&](int begin, int end) { EncodeExact(page, h, begin, end - begin, &scratch); });
    }
    if (!coded.Any()) continue;
    // Where rows share statistics, a page all of whose codes change gets fresh ones.
    std::vector<float> rows(static_cast<size_t>(shape_.page_tokens) * dim);
    if (afresh) DecodePage(number, h, rows.data());
    count = 0;
    coded.ForEach([&](int slot) {
      std::copy_n(changed.data() + row_values() * count++ + head, dim,
                  rows.data() + static_cast<size_t>(slot) * dim);
      if (afresh) return;
      AddCentre(page, h, slot, 1, -1.0f, rows.data() + static_cast<size_t>(slot) * dim);
      format(h).EncodeRow(Codes(page, h), slot, rows.data() + static_cast<size_t>(slot) * dim);
    });
    if (!afresh) continue;
    const int rows_in = page.written.Last() + 1;
    AddCentre(page, h, 0, rows_in, -1.0f, rows.data());
    const PageBits outside = PageBits::First(rows_in).Without(page.written).Or(page.pinned);
    format(h).EncodePage(rows.data(), rows_in, Codes(page, h),
                         outside.Any() ? outside.words : nullptr);
  }
}

}  // namespace polarquant
