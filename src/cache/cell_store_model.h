// SPDX-License-Identifier: Apache-2.0
// What a store of rows must hold, as plainly as can be: every cell by itself, every question
// answered by looking at all of them. What the tests of the cell store and of the sequence cache
// compare with.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "cache/page_bits.h"
#include "math/stepped_centre.h"
#include "polarquant/key_profile.h"
#include "polarquant/page.h"
#include "polarquant/paged_rows.h"
#include "util/half.h"

namespace polarquant {

using Floats = std::vector<float>;
using Halves = std::vector<uint16_t>;
using Bytes = std::vector<std::byte>;

inline Floats RandomRows(std::mt19937& random, size_t count, size_t row_values) {
  std::normal_distribution<float> normal;
  Floats rows(count * row_values);
  for (float& value : rows) value = normal(random);
  for (size_t row = 0; row < count; ++row) {  // a mean worth subtracting, now and then ugly rows
    float* values = rows.data() + row * row_values;
    values[row_values / 2] += 3.0f;
    if (random() % 16 != 0) continue;
    const float ugly[] = {0.0f, 1e9f, -INFINITY, NAN, 1e-8f, -0.0f};
    for (size_t i = 0; i < row_values; ++i) {
      if (random() % 8 == 0) values[i] = ugly[random() % 6];
    }
  }
  return rows;
}

// A position with its check, in the lowest bits of the row's first values: a bit in each of 32, or
// two in each of 16.
inline void Spell(int32_t position, Halves* row) {
  const auto number = static_cast<uint32_t>(position);
  uint32_t bits = number | ((number * 0x9e3779b1u >> 24) ^ 0x5au) << 24;
  const int width = row->size() >= 32 ? 1 : 2;
  for (int i = 0; i < 32 / width; ++i) {
    for (int b = 0; b < width; ++b, bits >>= 1) {
      uint16_t& value = (*row)[static_cast<size_t>(i)];
      value = static_cast<uint16_t>((value & ~(1u << b)) | (bits & 1) << b);
    }
  }
}

class StoreModel {
 public:
  struct Limits {
    int64_t num_cells;
    int window, sinks, max_partial, max_windows;
  };
  struct Cell {
    bool written = false, exact = false, retired = false;
    int32_t position = 0;
    Halves row;                  // while exact, with its position spelt
    std::vector<Bytes> records;  // of each kv_head: its code, also while exact if rows stand alone
    Floats decoded;              // what they say
    bool coded() const { return written && !exact; }
  };

  StoreModel(const PagedRows::Shape& shape, const Limits& limits,
             const std::shared_ptr<const KeyProfile>& profile)
      : shape_(shape),
        limits_(limits),
        heads_(static_cast<size_t>(shape.num_kv_heads)),
        dim_(static_cast<size_t>(shape.head_dim)),
        cells_(static_cast<size_t>(limits.num_cells)) {
    exact_only_ = shape.scheme == Scheme::Parse("f16");
    Know(profile);
  }

  const Cell& cell(int64_t index) const { return cells_[static_cast<size_t>(index)]; }
  bool ready() const { return ready_; }
  bool exact_only() const { return exact_only_; }
  bool stands_alone() const { return !exact_only_ && Format(0).header_bytes() == 0; }
  bool has_centre() const { return !centres_.empty(); }
  const PageFormat& Format(size_t head) const {
    return *formats_[std::min(head, formats_.size() - 1)];
  }
  bool pinned(const Cell& cell) const {
    return !exact_only_ && cell.exact && cell.position < limits_.sinks;
  }
  bool loose(const Cell& cell) const { return cell.exact && !pinned(cell); }
  bool HasCodes(int64_t page) const {
    const auto found = codes_.find(page);
    return found != codes_.end() && !found->second.empty();
  }
  // As attention sees it.
  Floats Row(int64_t index) const {
    const Cell& at = cell(index);
    if (!at.written) return Floats(heads_ * dim_, 0.0f);
    return at.exact ? ToFloats(at.row) : at.decoded;
  }

  void Write(const std::vector<int64_t>& cells, const Floats& rows,
             const std::vector<int32_t>& positions) {
    for (size_t i = 0; i < cells.size(); ++i) {
      Cell& to = At(cells[i]) = Cell{};
      to.written = to.exact = true;
      to.position = positions[i];
      to.row = ToHalves(rows.data() + i * heads_ * dim_);
      if (!exact_only_) Spell(to.position, &to.row);
      CodeExact(cells[i]);
    }
    Age(cells);
  }

  void Forget(int64_t first, int64_t count) {
    for (int64_t index = first; index < first + count; ++index) {
      At(index) = Cell{};
      bool any = false;
      ForPage(index / Tokens(), [&](int64_t, const Cell& c) { any = any || c.written; });
      if (!any) codes_.erase(index / Tokens());
    }
  }

  void Settle() {
    std::vector<int64_t> leaving;
    Leave([](int64_t) { return true; }, limits_.num_cells, &leaving);
    Retire(leaving);
  }
  std::vector<int64_t> LeavingWindow(const std::vector<uint16_t>& mask, int64_t stride, int queries,
                                     int64_t num_cells) const {
    std::vector<int64_t> leaving;
    for (int n = 0; n < queries; ++n) {
      const auto sees = [&](int64_t index) {
        return mask[static_cast<size_t>(n * stride + index)] != 0xfc00;
      };
      Leave(sees, num_cells, &leaving);
    }
    std::ranges::sort(leaving);
    leaving.erase(std::unique(leaving.begin(), leaving.end()), leaving.end());
    return leaving;
  }
  void Retire(const std::vector<int64_t>& cells) {
    if (exact_only_) return;
    for (const int64_t index : cells) {
      if (loose(At(index))) At(index).retired = true;
    }
    if (ready_ && stands_alone()) {
      Drop();
      LimitExactRows();
    } else if (ready_) {
      CloseRetired();
    }
  }
  void SetProfile(const std::shared_ptr<const KeyProfile>& profile) {
    Know(profile);
    if (!stands_alone()) return;
    for (int64_t index = 0; index < limits_.num_cells; ++index) CodeExact(index);
    Drop();
  }

  void Transform(const std::vector<int64_t>& cells,
                 const std::function<void(int64_t, float*)>& change,
                 const std::vector<int32_t>& shifts) {
    std::map<int64_t, std::vector<int64_t>> coded;  // by page
    for (size_t i = 0; i < cells.size(); ++i) {
      Cell& cell = At(cells[i]);
      if (!cell.written) continue;
      Floats row = Row(cells[i]);
      change(cells[i], row.data());
      cell.position += shifts[i];
      if (cell.coded()) {
        cell.decoded = row;
        if (!stands_alone()) coded[cells[i] / Tokens()].push_back(cells[i]);
        if (stands_alone()) Code(row, &cell);
      } else {
        cell.row = ToHalves(row.data());
        if (!exact_only_) Spell(cell.position, &cell.row);
        if (pinned(cell)) cell.retired = false;
        CodeExact(cells[i]);
      }
    }
    for (const auto& [page, changed] : coded) {
      size_t all = 0;
      ForPage(page, [&](int64_t, const Cell& c) { all += c.coded() ? 1 : 0; });
      if (all == changed.size()) {
        EncodePage(page);
      } else {
        for (const int64_t index : changed) EncodeInPage(index);
      }
      for (const int64_t index : changed) TakeCode(index);
    }
  }

  // Saved there, loaded here.
  void Load(int64_t first, const std::vector<Cell>& saved) {
    const auto count = static_cast<int64_t>(saved.size());
    Forget(first, count);
    std::vector<int64_t> came;
    for (int64_t n = 0; n < count; ++n) {
      const Cell& from = saved[static_cast<size_t>(n)];
      const bool nothing = exact_only_ && std::ranges::count(from.row, 0) == std::ssize(from.row);
      if (!from.written || nothing) continue;
      At(first + n) = from;
      At(first + n).retired = false;
      CodeExact(first + n);
      if (stands_alone() && from.coded()) codes_[(first + n) / Tokens()].resize(1);
      came.push_back(first + n);
    }
    Age(came);
  }

  // Whether the page's statistics allow it.
  bool CanCopyFrom(const StoreModel& other, int64_t first, int64_t count) const {
    if (exact_only_ || stands_alone()) return true;
    const auto inside = [&](int64_t index) { return index >= first && index < first + count; };
    for (int64_t page = first / Tokens(); page * Tokens() < first + count; ++page) {
      bool coded = false, whole = true;
      other.ForPage(page, [&](int64_t i, const Cell& c) {
        coded = coded || (inside(i) && c.coded());
        whole = whole && (inside(i) || !c.written);
      });
      ForPage(page, [&](int64_t i, const Cell& c) { whole = whole && (inside(i) || !c.written); });
      if (coded && !whole) return false;
    }
    return true;
  }
  void CopyFrom(const StoreModel& other, int64_t first, int64_t count) {
    Forget(first, count);
    std::vector<int64_t> came;
    for (int64_t index = first; index < first + count; ++index) {
      if (!other.cell(index).written) continue;
      At(index) = other.cell(index);
      came.push_back(index);
      const int64_t page = index / Tokens();
      if (stands_alone() && ready_) codes_[page].resize(1);
      if (stands_alone() || !other.HasCodes(page) || HasCodes(page)) continue;
      bool whole = true;
      const auto outside = [&](int64_t i, const Cell& c) {
        whole = whole && (!c.written || (i >= first && i < first + count));
      };
      other.ForPage(page, outside);
      ForPage(page, outside);
      if (whole) codes_[page] = other.codes_.at(page);
    }
    Age(came);
  }

  template <typename Visit>
  void ForPage(int64_t page, const Visit& visit) const {
    for (int64_t i = page * Tokens(); i < std::min((page + 1) * Tokens(), limits_.num_cells); ++i) {
      visit(i, cell(i));
    }
  }

 private:
  int64_t Tokens() const { return shape_.page_tokens; }
  int SlotOf(int64_t index) const { return static_cast<int>(index % Tokens()); }
  Cell& At(int64_t index) { return cells_[static_cast<size_t>(index)]; }

  void Know(const std::shared_ptr<const KeyProfile>& given) {
    const Normalisation& normalisation = shape_.scheme.normalisation;
    const KeyProfile* profile = normalisation.needs_profile() ? given.get() : nullptr;
    ready_ = profile != nullptr || !normalisation.needs_profile();
    formats_.clear();
    const auto table = profile != nullptr && normalisation.step > 0
                           ? std::make_shared<StepTable>(profile->rope, normalisation.step)
                           : nullptr;
    for (size_t head = 0; head < heads_; ++head) {
      const auto part = [&](const std::vector<float>& all, size_t size) {
        return std::span<const float>(all).subspan(all.empty() ? 0 : head * size,
                                                   all.empty() ? 0 : size);
      };
      KeyMap map;
      if (profile != nullptr) {
        map = {part(profile->balance, dim_), part(profile->dense, dim_ * dim_),
               part(profile->dense_inverse, dim_ * dim_)};
      }
      formats_.push_back(std::make_shared<PageFormat>(shape_.scheme, shape_.role, shape_.head_dim,
                                                      shape_.page_tokens, map));
      if (table != nullptr) {
        centres_.push_back(std::make_shared<SteppedCentre>(table, part(profile->mean, dim_)));
      }
    }
  }

  static Floats ToFloats(const Halves& halves) {
    Floats floats;
    for (const uint16_t half : halves) floats.push_back(HalfToFloat(half));
    return floats;
  }
  Halves ToHalves(const float* row) const {
    Halves halves;
    for (size_t i = 0; i < heads_ * dim_; ++i) halves.push_back(FloatToHalf(Sanitise(row[i])));
    return halves;
  }
  // The part of a kv_head, without the centre.
  Floats Bare(const Floats& row, size_t head, int32_t position) const {
    Floats part(row.begin() + static_cast<int64_t>(head * dim_),
                row.begin() + static_cast<int64_t>((head + 1) * dim_));
    AddCentre(head, position, -1.0f, part.data());
    return part;
  }
  void AddCentre(size_t head, int32_t position, float sign, float* row) const {
    if (!centres_.empty()) centres_[head]->AddTo(position, 1, sign, row);
  }

  // The code of a row that stands alone, made in a page of its own.
  void Code(const Floats& row, Cell* cell) const {
    cell->records.assign(heads_, Bytes(Format(0).record_bytes()));
    cell->decoded.resize(heads_ * dim_);
    Bytes page(Format(0).page_bytes());
    for (size_t head = 0; head < heads_; ++head) {
      Format(head).EncodeRows(page.data(), 0, 1, Bare(row, head, cell->position).data());
      Take(page, head, 0, cell);
    }
  }
  void Take(const Bytes& page, size_t head, int slot, Cell* cell) const {
    Format(head).ReadRecord(page.data(), slot, cell->records[head].data());
    float* to = cell->decoded.data() + head * dim_;
    Format(head).DecodeRow(page.data(), slot, to);
    AddCentre(head, cell->position, 1.0f, to);
  }
  void CodeExact(int64_t index) {
    if (!At(index).exact || !stands_alone() || !ready_) return;
    Code(ToFloats(At(index).row), &At(index));
    codes_[index / Tokens()].resize(1);  // it has some
  }

  void Age(const std::vector<int64_t>& cells) {  // pages in order
    std::vector<int64_t> pages;
    for (const int64_t index : cells) pages.push_back(index / Tokens());
    std::ranges::sort(pages);
    for (const int64_t page : pages) newest_[page] = ++clock_;
  }

  void Leave(const std::function<bool(int64_t)>& sees, int64_t num_cells,
             std::vector<int64_t>* leaving) const {
    if (exact_only_) return;
    const auto counts = [&](int64_t index) {
      return loose(cell(index)) && !cell(index).retired && sees(index);
    };
    int32_t newest = -1;
    for (int64_t i = 0; i < num_cells; ++i) {
      if (counts(i)) newest = std::max(newest, cell(i).position);
    }
    for (int64_t i = 0; i < num_cells; ++i) {
      if (counts(i) && newest - cell(i).position >= limits_.window) leaving->push_back(i);
    }
  }

  void Drop() {  // the exact copies of retired rows
    for (Cell& cell : cells_) {
      if (!loose(cell) || !cell.retired) continue;
      cell.exact = cell.retired = false;
    }
  }
  std::vector<int64_t> PagesByAge(std::vector<int64_t> pages) const {
    std::ranges::sort(pages, {}, [&](int64_t page) { return newest_.at(page); });
    return pages;
  }
  void LimitExactRows() {
    const int64_t limit = int64_t{limits_.max_windows} * (limits_.window + limits_.sinks);
    std::vector<int64_t> pages;
    for (int64_t page = 0; page * Tokens() < limits_.num_cells; ++page) {
      bool any = false;
      ForPage(page, [&](int64_t, const Cell& c) { any = any || loose(c); });
      if (any) pages.push_back(page);
    }
    for (const int64_t page : PagesByAge(pages)) {
      if (std::ranges::count_if(cells_, &Cell::exact) <= limit) return;
      ForPage(page, [&](int64_t i, const Cell& c) { At(i).retired = loose(c); });
      Drop();
    }
  }

  void CloseRetired() {
    std::vector<int64_t> closing, partial;
    for (int64_t page = 0; page * Tokens() < limits_.num_cells; ++page) {
      bool any = false, waits = true, coded = false, full = true;
      ForPage(page, [&](int64_t, const Cell& c) {
        any = any || loose(c);
        waits = waits && (!loose(c) || c.retired);
        coded = coded || c.coded();
        full = full && c.written;
      });
      if (any && waits) (coded || full ? closing : partial).push_back(page);
    }
    partial = PagesByAge(partial);
    const int64_t excess = std::ssize(partial) - limits_.max_partial;
    for (int64_t i = 0; i < excess; ++i) closing.push_back(partial[static_cast<size_t>(i)]);
    for (const int64_t page : closing) Close(page);
  }

  void Close(int64_t page) {
    bool coded = false;
    std::vector<int64_t> joining;
    ForPage(page, [&](int64_t i, const Cell& c) {
      coded = coded || c.coded();
      if (loose(c)) joining.push_back(i);
    });
    if (coded) {
      const int tokens = Format(0).group_tokens();
      for (int first = 0; first < shape_.page_tokens; first += tokens) Learn(page, first, tokens);
      for (const int64_t index : joining) EncodeInPage(index);
    } else {
      EncodePage(page);
    }
    for (const int64_t index : joining) {
      At(index).exact = At(index).retired = false;
      TakeCode(index);
    }
  }

  // All rows of a page that are known, with fresh statistics of those that are no sinks.
  void EncodePage(int64_t page) {
    std::vector<Bytes>& codes = codes_[page];
    codes.assign(heads_, Bytes(Format(0).page_bytes()));
    PageBits outside = PageBits::First(shape_.page_tokens);
    int count = 0;
    ForPage(page, [&](int64_t i, const Cell& c) {
      if (c.written) count = SlotOf(i) + 1;
      if (c.written && !pinned(c)) outside.Reset(SlotOf(i));
    });
    for (size_t head = 0; head < heads_; ++head) {
      Floats rows(static_cast<size_t>(count) * dim_);
      ForPage(page, [&](int64_t i, const Cell& c) {
        if (!c.written) return;
        std::ranges::copy(Bare(Row(i), head, c.position),
                          rows.begin() + SlotOf(i) * static_cast<int64_t>(dim_));
      });
      Format(head).EncodePage(rows.data(), count, codes[head].data(), outside.words);
    }
  }
  // A group without a code in force learns from the rows that join it.
  void Learn(int64_t page, int first, int tokens) {
    std::vector<int64_t> joining;
    bool coded = false;
    ForPage(page, [&](int64_t i, const Cell& c) {
      if (SlotOf(i) < first || SlotOf(i) >= first + tokens) return;
      coded = coded || c.coded();
      if (loose(c)) joining.push_back(i);
    });
    if (coded || joining.empty()) return;
    for (size_t head = 0; head < heads_; ++head) {
      Floats rows;
      for (const int64_t index : joining) {
        const Floats row = Bare(Row(index), head, cell(index).position);
        rows.insert(rows.end(), row.begin(), row.end());
      }
      Format(head).LearnGroup(codes_[page][head].data(), first, rows.data(),
                              static_cast<int>(joining.size()));
    }
  }
  void EncodeInPage(int64_t index) {
    for (size_t head = 0; head < heads_; ++head) {
      Format(head).EncodeRow(codes_[index / Tokens()][head].data(), SlotOf(index),
                             Bare(Row(index), head, cell(index).position).data());
    }
  }
  void TakeCode(int64_t index) {
    Cell& cell = At(index);
    cell.records.assign(heads_, Bytes(Format(0).record_bytes()));
    cell.decoded.resize(heads_ * dim_);
    for (size_t head = 0; head < heads_; ++head) {
      Take(codes_[index / Tokens()][head], head, SlotOf(index), &cell);
    }
  }

  PagedRows::Shape shape_;
  Limits limits_;
  bool exact_only_ = false, ready_ = false;
  size_t heads_, dim_;
  std::vector<Cell> cells_;
  std::vector<std::shared_ptr<const PageFormat>> formats_;
  std::vector<std::shared_ptr<const SteppedCentre>> centres_;
  // Encoded pages of each kv_head; of rows that stand alone only that there are some.
  std::map<int64_t, std::vector<Bytes>> codes_;
  std::map<int64_t, uint64_t> newest_;
  uint64_t clock_ = 0;
};

}  // namespace polarquant
