// SPDX-License-Identifier: Apache-2.0
// The cell store as design says it, without any cleverness: every row has its own value, header and
// time, and every question is answered by looking at all of them. What the tests compare with.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "math/stepped_centre.h"
#include "polarquant/cell_store.h"
#include "util/half.h"

namespace polarquant {

using Floats = std::vector<float>;
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

class StoreModel {
 public:
  explicit StoreModel(const CellStore& store)
      : store_(store),
        config_(store.config()),
        format_(store.format()),
        exact_only_(store.exact_only()),
        heads_(static_cast<size_t>(config_.num_kv_heads)),
        dim_(static_cast<size_t>(config_.head_dim)),
        tokens_(config_.page_tokens),
        cells_(static_cast<size_t>(config_.num_cells)),
        pages_(static_cast<size_t>(store.num_pages())) {}

  struct Cell {
    bool written = false, exact = false, pinned = false;
    uint64_t time = 0;  // of its write; 0 if it came as a code
    Floats row;         // as attention must see it
    int32_t position = 0;
    std::vector<Bytes> headers;  // coded rows: per kv_head
    std::vector<Bytes> records;
    bool coded() const { return written && !exact; }
    bool loose() const { return exact && !pinned; }
  };

  const Cell& cell(int64_t index) const { return cells_[static_cast<size_t>(index)]; }
  uint64_t clock() const { return clock_; }

  void Write(const std::vector<int64_t>& cells, const Floats& rows,
             const std::vector<int32_t>& positions) {
    for (size_t i = 0; i < cells.size(); ++i) {
      Floats row(rows.begin() + static_cast<long>(i * heads_ * dim_),
                 rows.begin() + static_cast<long>((i + 1) * heads_ * dim_));
      for (float& value : row) value = HalfToFloat(FloatToHalf(Sanitise(value)));
      PutExact(cells[i], row);
      At(cells[i]).position = positions[i];
    }
  }

  void PutExact(int64_t index, const Floats& row) {
    At(index) = Cell{true, true, false, ++clock_, row, 0, {}, {}};
    PageAt(index).newest = clock_;
  }

  // A code from elsewhere. The page keeps the header of its own unless no row needs it any more.
  void PutCoded(int64_t index, const Cell& from) {
    Cell coded = from;
    coded.exact = coded.pinned = false;
    coded.time = 0;
    At(index) = Cell{};
    Page& page = PageAt(index);
    if (page.own.empty()) page.own.assign(heads_, Bytes(format_.page_bytes()));
    bool known = false, own_needed = false;
    const int slot = SlotOf(index);
    ForPage(index / tokens_, [&](int64_t i, const Cell& other) {
      if (!other.coded()) return;
      const bool sharing = SlotOf(i) / format_.group_tokens() == slot / format_.group_tokens();
      const bool own = HasOwnHeaders(page, i);
      own_needed = own_needed || (sharing && own);
      known = known || (other.headers == coded.headers && (sharing || !own));
    });
    if (!known && !own_needed) {
      for (size_t head = 0; head < heads_; ++head) {
        std::ranges::copy(coded.headers[head], format_.Header(page.own[head].data(), slot).begin());
      }
    }
    At(index) = coded;
    page.newest = clock_;
  }

  void Pin(const std::vector<int64_t>& cells) {
    for (const int64_t index : cells) At(index).pinned = At(index).exact;
  }

  void Forget(int64_t first, int64_t count) {
    for (int64_t index = first; index < first + count; ++index) {
      At(index) = Cell{};
      bool any_coded = false;
      ForPage(index / tokens_, [&](int64_t, const Cell& c) { any_coded = any_coded || c.coded(); });
      if (!any_coded) PageAt(index).own.clear();
    }
  }

  void Settle() {
    if (exact_only_) return;
    std::vector<int64_t> old;
    for (int64_t page = 0; page < static_cast<int64_t>(pages_.size()); ++page) {
      bool loose = false;
      ForPage(page, [&](int64_t, const Cell& c) { loose = loose || c.loose(); });
      const uint64_t newest = pages_[static_cast<size_t>(page)].newest;
      if (loose && newest + static_cast<uint64_t>(config_.window_tokens) <= clock_) {
        old.push_back(page);
      }
    }
    std::ranges::sort(old, {}, [&](int64_t p) { return pages_[static_cast<size_t>(p)].newest; });
    std::vector<int64_t> partial;
    for (const int64_t page : old) {
      bool coded = false, full = true;
      ForPage(page, [&](int64_t, const Cell& c) {
        coded = coded || c.coded();
        full = full && c.written;
      });
      if (coded) {
        PatchPage(page, [](const Cell& c) { return c.loose(); });
      } else if (full) {
        ClosePage(page);
      } else {
        partial.push_back(page);
      }
    }
    const auto excess = static_cast<int64_t>(partial.size()) - config_.max_partial_pages;
    for (int64_t i = 0; i < excess; ++i) ClosePage(partial[static_cast<size_t>(i)]);
  }

  void Transform(const std::vector<int64_t>& cells,
                 const std::function<void(int64_t, float*)>& change,
                 const std::vector<int32_t>& shifts) {
    for (size_t i = 0; i < cells.size(); ++i) At(cells[i]).position += shifts[i];
    std::map<int64_t, std::vector<int64_t>> by_page;
    for (const int64_t index : cells) {
      if (!At(index).written) continue;
      change(index, At(index).row.data());
      if (At(index).exact) {
        for (float& value : At(index).row) value = HalfToFloat(FloatToHalf(Sanitise(value)));
      } else {
        by_page[index / tokens_].push_back(index);
      }
    }
    for (const auto& entry : by_page) {
      const int64_t page = entry.first;
      const std::vector<int64_t>& changed = entry.second;
      int64_t coded = 0;
      ForPage(page, [&](int64_t, const Cell& c) { coded += c.coded(); });
      if (coded == static_cast<int64_t>(changed.size())) {
        EncodeAll(page, [](const Cell& c) { return c.coded(); });
      } else {
        PatchPage(page, [&](const Cell& c) {
          return std::ranges::any_of(changed, [&](int64_t i) { return &c == &At(i); });
        });
      }
    }
  }

  void CopyFrom(const StoreModel& other, int64_t first, int64_t count) {
    for (int64_t index = first; index < first + count; ++index) {
      const int64_t page_first = index / tokens_ * tokens_;
      const int64_t page_end = std::min(page_first + tokens_, config_.num_cells);
      if (index == page_first && page_end <= first + count) {
        Forget(page_first, page_end - page_first);
        for (int64_t i = page_first; i < page_end; ++i) {
          At(i) = other.cell(i);
          if (At(i).loose()) ++clock_;
          // Rows of one page have no order among themselves; all count as just written.
          At(i).time = 0;
        }
        PageAt(index).own = other.pages_[static_cast<size_t>(index / tokens_)].own;
        PageAt(index).newest = clock_;
        index = page_end - 1;
        continue;
      }
      const Cell& from = other.cell(index);
      if (!from.written) {
        Forget(index, 1);
      } else if (from.exact) {
        PutExact(index, from.row);
        At(index).position = from.position;
        At(index).pinned = from.pinned;
      } else {
        PutCoded(index, from);
      }
    }
  }

  // Whether attention must be told that the page has rows of several headers.
  bool Mixed(int64_t page) const {
    bool mixed = false;
    const Page& state = pages_[static_cast<size_t>(page)];
    ForPage(page, [&](int64_t i, const Cell& c) {
      mixed = mixed || (c.coded() && !HasOwnHeaders(state, i));
    });
    return mixed;
  }

 private:
  struct Page {
    uint64_t newest = 0;
    std::vector<Bytes> own;  // per kv_head, an encoded page of which only the header counts
  };

  Cell& At(int64_t index) { return cells_[static_cast<size_t>(index)]; }
  const Cell& At(int64_t index) const { return cells_[static_cast<size_t>(index)]; }
  Page& PageAt(int64_t index) { return pages_[static_cast<size_t>(index / tokens_)]; }

  template <typename Visit>
  void ForPage(int64_t page, const Visit& visit) const {
    for (int64_t i = page * tokens_; i < std::min((page + 1) * tokens_, config_.num_cells); ++i) {
      visit(i, cells_[static_cast<size_t>(i)]);
    }
  }

  int SlotOf(int64_t index) const { return static_cast<int>(index % tokens_); }

  // Those of a slot and its neighbours.
  std::vector<Bytes> OwnHeaders(const Page& page, int slot) const {
    std::vector<Bytes> headers;
    for (const Bytes& own : page.own) {
      const auto header = format_.Header(own.data(), slot);
      headers.emplace_back(header.begin(), header.end());
    }
    return headers;
  }

  bool HasOwnHeaders(const Page& page, int64_t index) const {
    const std::vector<Bytes>& headers = At(index).headers;
    for (size_t head = 0; head < heads_; ++head) {
      if (!std::ranges::equal(headers[head],
                              format_.Header(page.own[head].data(), SlotOf(index)))) {
        return false;
      }
    }
    return true;
  }

  // Takes the code of a row over from the page's own encoded bytes.
  void TakeCode(int64_t index) {
    const Page& page = PageAt(index);
    const int slot = SlotOf(index);
    Cell& cell = At(index);
    cell.exact = false;
    cell.headers = OwnHeaders(page, slot);
    cell.records.assign(heads_, Bytes(format_.record_bytes()));
    for (size_t head = 0; head < heads_; ++head) {
      format_.ReadRecord(page.own[head].data(), slot, cell.records[head].data());
      store_.format(static_cast<int>(head))
          .DecodeRow(page.own[head].data(), slot, cell.row.data() + head * dim_);
      AddCentre(cell.position, head, 1.0f, cell.row.data() + head * dim_);
    }
  }

  void AddCentre(int32_t position, size_t head, float sign, float* row) const {
    const SteppedCentre* centre = store_.centre(static_cast<int>(head));
    if (centre != nullptr) centre->AddTo(position, 1, sign, row);
  }

  void ClosePage(int64_t page) {
    EncodeAll(page, [](const Cell& c) { return c.loose(); });
  }

  // Fresh statistics from all rows that are not pinned; `takes` says whose codes come into force.
  void EncodeAll(int64_t page, const std::function<bool(const Cell&)>& takes) {
    Page& state = pages_[static_cast<size_t>(page)];
    state.own.assign(heads_, Bytes(format_.page_bytes()));
    uint64_t outside[kMaxPageTokens / 64] = {};
    int count = 0;
    ForPage(page, [&](int64_t index, const Cell& c) {
      const int slot = static_cast<int>(index % tokens_);
      if (c.written) count = slot + 1;
      if (!c.written || c.pinned) outside[slot / 64] |= uint64_t{1} << (slot % 64);
    });
    for (size_t head = 0; head < heads_; ++head) {
      Floats rows(static_cast<size_t>(tokens_) * dim_);
      ForPage(page, [&](int64_t index, const Cell& c) {
        if (!c.written) return;
        std::copy_n(c.row.data() + head * dim_, dim_,
                    rows.data() + static_cast<size_t>(index % tokens_) * dim_);
        AddCentre(c.position, head, -1.0f,
                  rows.data() + static_cast<size_t>(index % tokens_) * dim_);
      });
      store_.format(static_cast<int>(head))
          .EncodePage(rows.data(), count, state.own[head].data(), outside);
    }
    TakeIf(page, takes);
  }

  void PatchPage(int64_t page, const std::function<bool(const Cell&)>& takes) {
    Page& state = pages_[static_cast<size_t>(page)];
    for (int64_t first = 0; first < tokens_; first += format_.group_tokens()) {
      if (format_.group_tokens() < tokens_) LearnGroupIfFree(page, static_cast<int>(first), takes);
    }
    ForPage(page, [&](int64_t index, const Cell& c) {
      if (!takes(c)) return;
      for (size_t head = 0; head < heads_; ++head) {
        Floats row(c.row.begin() + static_cast<long>(head * dim_),
                   c.row.begin() + static_cast<long>((head + 1) * dim_));
        AddCentre(c.position, head, -1.0f, row.data());
        store_.format(static_cast<int>(head))
            .EncodeRow(state.own[head].data(), static_cast<int>(index % tokens_), row.data());
      }
    });
    TakeIf(page, takes);
  }

  // A group that keeps no code made with its own header learns a new one from what it takes.
  // (Groups have no stepped centre.)
  void LearnGroupIfFree(int64_t page, int first, const std::function<bool(const Cell&)>& takes) {
    Page& state = pages_[static_cast<size_t>(page)];
    std::vector<Floats> together(heads_);
    int count = 0;
    bool in_force = false;
    ForPage(page, [&](int64_t index, const Cell& c) {
      if (SlotOf(index) / format_.group_tokens() != first / format_.group_tokens()) return;
      if (!takes(c)) {
        in_force = in_force || (c.coded() && HasOwnHeaders(state, index));
        return;
      }
      ++count;
      for (size_t head = 0; head < heads_; ++head) {
        const float* row = c.row.data() + head * dim_;
        together[head].insert(together[head].end(), row, row + dim_);
      }
    });
    if (in_force || count == 0) return;
    for (size_t head = 0; head < heads_; ++head) {
      format_.LearnGroup(state.own[head].data(), first, together[head].data(), count);
    }
  }

  void TakeIf(int64_t page, const std::function<bool(const Cell&)>& takes) {
    std::vector<int64_t> taken;
    ForPage(page, [&](int64_t index, const Cell& c) {
      if (takes(c)) taken.push_back(index);
    });
    for (const int64_t index : taken) TakeCode(index);
  }

  const CellStore& store_;  // for what it was made of, not what it holds
  CellStore::Config config_;
  const PageFormat& format_;
  bool exact_only_;
  size_t heads_, dim_;
  int64_t tokens_;
  std::vector<Cell> cells_;
  std::vector<Page> pages_;
  uint64_t clock_ = 0;
};

// Fails, naming the cell, unless the store answers everything as the model does.
inline void ExpectSame(const CellStore& store, const StoreModel& model) {
  const auto& config = store.config();
  const size_t dim = static_cast<size_t>(config.head_dim);
  const size_t heads = static_cast<size_t>(config.num_kv_heads);
  const size_t tokens = static_cast<size_t>(config.page_tokens);
  const auto same = [](const float* a, const float* b, size_t count) {
    return std::memcmp(a, b, count * sizeof(float)) == 0;
  };
  Floats page_rows(tokens * dim);
  const Floats zeros(heads * dim, 0.0f);
  int64_t filled = 0, exact = 0;
  for (int64_t page = 0; page < store.num_pages(); ++page) {
    for (size_t head = 0; head < heads; ++head) {
      store.DecodeCells(page, static_cast<int>(head), page_rows.data());
      const PageView view = store.View(page, static_cast<int>(head));
      if (!store.exact_only()) {
        EXPECT_EQ(view.mixed, model.Mixed(page)) << "page " << page;
      }
      for (int64_t slot = 0; slot < config.page_tokens; ++slot) {
        const int64_t cell = page * config.page_tokens + slot;
        const float* got = page_rows.data() + static_cast<size_t>(slot) * dim;
        if (cell >= config.num_cells) {
          ASSERT_TRUE(same(got, zeros.data(), dim)) << "past the end: cell " << cell;
          continue;
        }
        const auto& expected = model.cell(cell);
        const bool is_exact = (view.exact[slot / 64] >> (slot % 64) & 1) != 0;
        ASSERT_EQ(is_exact, expected.exact) << "cell " << cell;
        if (expected.coded()) {
          ASSERT_NE(view.page, nullptr) << "cell " << cell;
        }
        const float* want = (expected.written ? expected.row : zeros).data() + head * dim;
        ASSERT_TRUE(same(got, want, dim))
            << "cell " << cell << " kv_head " << head << " exact " << expected.exact << " first "
            << got[0] << " expected " << want[0];
      }
    }
  }
  for (int64_t cell = 0; cell < config.num_cells; ++cell) {
    const auto& expected = model.cell(cell);
    filled += expected.written;
    exact += expected.exact;
    Floats row(heads * dim, -1.0f);
    store.ReadRow(cell, row.data());
    ASSERT_TRUE(same(row.data(), (expected.written ? expected.row : zeros).data(), heads * dim))
        << "ReadRow of cell " << cell;
    // The promise of the window, whatever pages do.
    if (expected.time != 0 &&
        expected.time + static_cast<uint64_t>(config.window_tokens) > model.clock()) {
      ASSERT_TRUE(expected.exact) << "cell " << cell << " is in the window";
    }
  }
  const MemoryUse use = store.memory();
  EXPECT_EQ(use.filled_cells, filled);
  EXPECT_EQ(use.exact_cells, exact);
  EXPECT_EQ(use.f16_bytes, static_cast<size_t>(filled) * heads * dim * 2);
}

}  // namespace polarquant
