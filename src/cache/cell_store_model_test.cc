// SPDX-License-Identifier: Apache-2.0
// Random histories of two cell stores against the plain model, question by question and bit by bit.
#include "cache/cell_store_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <set>

#include "cache/host_range.h"
#include "cache/random_profile.h"
#include "polarquant/cell_store.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

struct Shape {
  const char* scheme;
  Role role;
  int head_dim, num_kv_heads, page_tokens, window, sinks, max_partial, max_windows;
  int64_t num_cells;
  int sequences = 1;
  bool late_profile = false;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.scheme << " d" << shape.head_dim << " h" << shape.num_kv_heads << " p"
             << shape.page_tokens << " w" << shape.window << " s" << shape.sequences;
}

bool Same(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

// A store, its model and the host's memory under it.
struct Subject {
  explicit Subject(const CellStore::Config& config)
      : range(CellStore::exact_range_bytes(config)),
        store(config, range.data()),
        model(store.shape(),
              {config.num_cells, config.window_tokens, config.sink_tokens, config.max_partial_pages,
               config.max_windows},
              config.profile) {}

  // Fails, naming the cell, unless the store answers everything as the model does.
  void ExpectSame() const {
    for (int64_t page = 0; page < store.num_pages(); ++page) {
      ExpectSamePage(page);
      if (testing::Test::HasFatalFailure()) return;
    }
    Floats row(row_values());
    for (int64_t cell = 0; cell < store.num_cells(); ++cell) {
      store.ReadRow(cell, row.data());
      ASSERT_TRUE(Same(row.data(), model.Row(cell).data(), row.size())) << "ReadRow of " << cell;
    }
    ExpectSameMemory();
  }

  HostRange range;
  CellStore store;
  StoreModel model;

 private:
  size_t row_values() const { return static_cast<size_t>(store.exact_row_stride()); }

  void ExpectSamePage(int64_t page) const {
    const auto dim = static_cast<size_t>(store.shape().head_dim);
    bool any = false;
    model.ForPage(page, [&](int64_t, const StoreModel::Cell& c) { any = any || c.written; });
    for (int head = 0; head < store.shape().num_kv_heads; ++head) {
      const PageView view = store.View(page, head);
      EXPECT_EQ(view.page != nullptr, any && model.HasCodes(page)) << "page " << page;
      PageBits exact;
      std::ranges::copy(view.exact, exact.words);
      Bytes record(model.exact_only() ? 0 : model.Format(0).record_bytes());
      model.ForPage(page, [&](int64_t cell, const StoreModel::Cell& c) {
        const int slot = static_cast<int>(cell - page * store.shape().page_tokens);
        ASSERT_EQ(exact.Test(slot), c.exact) << "cell " << cell;
        exact.Reset(slot);
        if (c.exact) {
          ASSERT_EQ(
              std::memcmp(view.exact_rows + slot * store.exact_row_stride(),
                          c.row.data() + static_cast<size_t>(head) * dim, dim * sizeof(uint16_t)),
              0)
              << "exact row of cell " << cell;
        }
        if (!c.written || c.records.empty() || (c.exact && !model.stands_alone())) return;
        ASSERT_NE(view.page, nullptr) << "cell " << cell;
        store.format(head).ReadRecord(view.page, slot, record.data());
        ASSERT_EQ(record, c.records[static_cast<size_t>(head)]) << "code of cell " << cell;
        if (!model.has_centre()) return;
        ASSERT_EQ(view.positions != nullptr ? view.positions[slot] : view.first_position + slot,
                  c.position)
            << "cell " << cell;
      });
      ASSERT_FALSE(exact.Any()) << "exact rows past the end";
    }
  }

  void ExpectSameMemory() const {
    const auto os = static_cast<int64_t>(SparseRange::OsPageBytes());
    const auto row_bytes = static_cast<int64_t>(row_values() * sizeof(uint16_t));
    const auto page_bytes =
        static_cast<int64_t>(model.Format(0).page_bytes()) * store.shape().num_kv_heads;
    int64_t filled = 0, exact = 0, coded_pages = 0;
    std::set<int64_t> exact_pages, code_pages;
    const auto lies_on = [os](std::set<int64_t>* pages, int64_t begin, int64_t end) {
      for (int64_t page = begin / os; page * os < end; ++page) pages->insert(page);
    };
    for (int64_t page = 0; page < store.num_pages(); ++page) {
      bool any = false;
      model.ForPage(page, [&](int64_t cell, const StoreModel::Cell& c) {
        any = any || c.written;
        filled += c.written ? 1 : 0;
        exact += c.exact ? 1 : 0;
        if (c.exact) lies_on(&exact_pages, cell * row_bytes, (cell + 1) * row_bytes);
      });
      if (!any || !model.HasCodes(page)) continue;
      ++coded_pages;
      lies_on(&code_pages, page * page_bytes, (page + 1) * page_bytes);
    }
    const MemoryUse use = store.memory();
    const auto bytes_of = [os](const std::set<int64_t>& pages) {
      return pages.size() * static_cast<size_t>(os);
    };
    EXPECT_EQ(use.filled_cells, filled);
    EXPECT_EQ(use.exact_cells, exact);
    EXPECT_EQ(use.f16_bytes, static_cast<size_t>(filled * row_bytes));
    EXPECT_EQ(use.exact_bytes, bytes_of(exact_pages));
    EXPECT_EQ(use.exact_bytes, range.resident());
    EXPECT_EQ(use.code_bytes + use.header_bytes, bytes_of(code_pages));
    EXPECT_EQ(use.header_bytes, static_cast<size_t>(coded_pages * store.shape().num_kv_heads) *
                                    model.Format(0).headers_bytes());
    EXPECT_TRUE(range.intact()) << "bytes past the end of the host's memory were touched";
  }
};

class History {
 public:
  History(const Shape& shape, unsigned seed)
      : random_(seed),
        cells_(shape.num_cells),
        sequences_(shape.sequences),
        next_position_(static_cast<size_t>(shape.sequences)),
        row_values_(static_cast<size_t>(shape.head_dim) * static_cast<size_t>(shape.num_kv_heads)) {
    CellStore::Config config;
    config.scheme = Scheme::Parse(shape.scheme);
    config.role = shape.role;
    config.head_dim = shape.head_dim;
    config.num_kv_heads = shape.num_kv_heads;
    config.num_cells = shape.num_cells;
    config.page_tokens = shape.page_tokens;
    config.window_tokens = shape.window;
    config.sink_tokens = shape.sinks;
    config.max_partial_pages = shape.max_partial;
    config.max_windows = shape.max_windows;
    profile_ =
        RandomProfile(shape.num_kv_heads, shape.head_dim,
                      seed % 2 == 0 ? Rope::Pairing::kAdjacent : Rope::Pairing::kHalves, seed);
    if (!shape.late_profile) config.profile = profile_;
    for (auto& subject : subjects_) subject = std::make_unique<Subject>(config);
    owner_.assign(static_cast<size_t>(cells_), 0);
  }

  void Step() {
    Subject& subject = *subjects_[random_() % 2];
    switch (random_() % 16) {
      case 0:
        return Write(subject, Scattered(1 + Below(60)));
      case 1:  // written again where they are, or somewhere behind
        return Write(subject, Range(Below(cells_), 1 + Below(40)), true);
      case 2:
        return Shift(subject, random_() % 2 == 0 ? Range(Below(cells_), 300) : Scattered(30));
      case 3:
        if (random_() % 8 == 0) {
          subject.store.Clear();
          return subject.model.Forget(0, cells_);
        }
        return ForgetSome(subject);
      case 4:
        return SaveAndLoad(subject, *subjects_[random_() % 2]);
      case 5:
        return Copy(subject, *subjects_[&subject == subjects_[0].get() ? 1 : 0]);
      case 6:
      case 7:  // one token of every sequence at a time, as decoding writes
        for (int i = 0; i < (sequences_ < 16 ? 20 : 4); ++i) Decode(subject, sequences_);
        return;
      case 8:
        subject.store.Settle(1 + static_cast<int>(random_() % 2));
        return subject.model.Settle();
      case 9:
        next_ = Below(cells_);
        return;
      case 10: {
        const std::vector<int64_t> some = Scattered(1 + Below(50));
        subject.store.Retire(some, 2);
        return subject.model.Retire(some);
      }
      default:  // a batch of prompts
        Decode(subject, 1 + Below(180));
    }
  }

  void SetProfile() {
    for (const auto& subject : subjects_) {
      ASSERT_TRUE(subject->store.needs_profile());
      subject->store.SetProfile(profile_, 2);
      subject->model.SetProfile(profile_);
      EXPECT_FALSE(subject->store.needs_profile());
    }
  }

  void Check() const {
    for (const auto& subject : subjects_) subject->ExpectSame();
  }

  void ClearAll() {
    for (const auto& subject : subjects_) {
      subject->store.Clear();
      const MemoryUse use = subject->store.memory();
      EXPECT_EQ(use.exact_bytes + use.code_bytes + use.header_bytes, 0u);
      EXPECT_EQ(use.filled_cells, 0);
      EXPECT_EQ(subject->range.resident(), 0u);
    }
  }

 private:
  int64_t Below(int64_t limit) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(limit));
  }
  std::vector<int64_t> Range(int64_t first, int64_t count) const {
    std::vector<int64_t> cells(static_cast<size_t>(std::min(count, cells_)));
    for (int64_t& cell : cells) cell = first++ % cells_;
    return cells;
  }
  std::vector<int64_t> Scattered(int64_t count) {
    std::vector<int64_t> cells = Range(0, cells_);
    std::shuffle(cells.begin(), cells.end(), random_);
    cells.resize(static_cast<size_t>(std::min(count, cells_)));
    return cells;
  }

  // Sequences take turns, each goes on where it was; or rows are written for positions long gone.
  void Write(Subject& subject, const std::vector<int64_t>& cells, bool behind = false) {
    const Floats rows = RandomRows(random_, cells.size(), row_values_);
    std::vector<int32_t> positions;
    size_t sequence = random_() % next_position_.size();
    for (const int64_t cell : cells) {
      int32_t& next = next_position_[sequence];
      if (random_() % 400 == 0) next = static_cast<int32_t>(Below(5000));
      positions.push_back(behind ? static_cast<int32_t>(Below(next + 1)) : next++);
      owner_[static_cast<size_t>(cell)] = sequence;
      if (random_() % 4 != 0) sequence = (sequence + 1) % next_position_.size();
    }
    subject.store.Write(cells, rows.data(), static_cast<int64_t>(row_values_), 2, positions.data());
    subject.model.Write(cells, rows, positions);
    next_ = (cells.back() + 1) % cells_;
  }

  // A batch as a host with a mask runs it: every query sees the cells of one sequence.
  void Decode(Subject& subject, int64_t count) {
    Write(subject, Range(next_, count));
    if (random_() % 4 == 0) return;
    const int64_t seen = random_() % 2 == 0 ? cells_ : 1 + Below(cells_), stride = seen + Below(9);
    const int queries = static_cast<int>(std::min<int64_t>(sequences_, 1 + Below(sequences_)));
    std::vector<uint16_t> mask(static_cast<size_t>(queries * stride), 0xfc00);
    for (int n = 0; n < queries; ++n) {
      const size_t sequence = random_() % next_position_.size();
      for (int64_t cell = 0; cell < seen; ++cell) {
        if (owner_[static_cast<size_t>(cell)] != sequence || random_() % 50 == 0) continue;
        mask[static_cast<size_t>(n * stride + cell)] = random_() % 2 == 0 ? 0 : 0xbc00;
      }
    }
    std::vector<int64_t> leaving = subject.store.LeavingWindow(mask.data(), stride, queries, seen);
    subject.store.Retire(leaving, 1 + static_cast<int>(random_() % 2));
    std::ranges::sort(leaving);
    ASSERT_EQ(leaving, subject.model.LeavingWindow(mask, stride, queries, seen));
    subject.model.Retire(leaving);
  }

  void Shift(Subject& subject, const std::vector<int64_t>& cells) {
    const size_t count = row_values_;
    const auto change = [count](int64_t cell, float* row) {
      for (size_t i = 0; i < count; ++i) {
        row[i] = 0.75f * row[i] + 0.01f * static_cast<float>(cell % 7);
      }
    };
    std::vector<int32_t> shifts;
    const int64_t most = random_() % 2 == 0 ? 1 : 50;
    const int32_t back = random_() % 2 == 0 ? 0 : 100;
    for (const int64_t cell : cells) {
      const int32_t at = subject.model.cell(cell).position;
      shifts.push_back(std::max(static_cast<int32_t>(Below(most)) - back, -at));
    }
    subject.store.Transform(cells, change, 2, shifts.data());
    subject.model.Transform(cells, change, shifts);
  }

  void ForgetSome(Subject& subject) {
    const int64_t first = Below(cells_);
    const int64_t count = 1 + Below(std::min<int64_t>(cells_ - first, 200));
    subject.store.ClearCells(first, count);
    subject.model.Forget(first, count);
  }

  void SaveAndLoad(const Subject& from, Subject& to) {
    const int64_t count = 1 + Below(200), source = Below(cells_ - count + 1);
    const int64_t target = random_() % 2 == 0 ? source : Below(cells_ - count + 1);
    Bytes saved(static_cast<size_t>(count) * from.store.saved_row_bytes(), std::byte{0xa5});
    if (!from.store.can_save()) {
      EXPECT_THROW(from.store.SaveRows(source, count, saved.data(), 2), Error);
      return;
    }
    from.store.SaveRows(source, count, saved.data(), 2);
    std::vector<StoreModel::Cell> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(from.model.cell(source + i));
    to.store.LoadRows(target, count, saved.data(), 2);
    to.model.Load(target, rows);
  }

  void Copy(Subject& to, const Subject& from) {
    int64_t first = Below(cells_), count = 1 + Below(cells_ - first);
    if (random_() % 4 == 0) first = 0, count = cells_;
    if (to.model.CanCopyFrom(from.model, first, count)) {
      to.store.CopyFrom(from.store, first, count);
      to.model.CopyFrom(from.model, first, count);
    } else {
      EXPECT_THROW(to.store.CopyFrom(from.store, first, count), Error);
    }
  }

  std::mt19937 random_;
  std::unique_ptr<Subject> subjects_[2];
  std::shared_ptr<const KeyProfile> profile_;
  int64_t cells_, sequences_;
  std::vector<int32_t> next_position_;
  std::vector<size_t> owner_;  // sequences, by cell
  size_t row_values_;
  int64_t next_ = 0;
};

class CellStoreHistory : public testing::TestWithParam<Shape> {};

TEST_P(CellStoreHistory, EqualsThePlainModelAfterEveryFewSteps) {
  constexpr int kSteps = 100;
  for (unsigned seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    History history(GetParam(), seed);
    for (int step = 0; step < kSteps; ++step) {
      if (GetParam().late_profile && step == kSteps / 3) history.SetProfile();
      history.Step();
      if (step % 5 != 4) continue;
      history.Check();
      ASSERT_FALSE(HasFailure()) << "step " << step;
    }
    history.ClearAll();
  }
}

constexpr Role kKey = Role::kKey, kValue = Role::kValue;
INSTANTIATE_TEST_SUITE_P(
    Shapes, CellStoreHistory,
    testing::Values(Shape{"turbo4", kKey, 64, 3, 128, 128, 16, 2, 64, 1100, 2},
                    Shape{"turbo4", kValue, 80, 1, 64, 5, 4, 1, 1, 700, 8},
                    Shape{"turbo3", kKey, 128, 5, 128, 20, 4, 1, 4, 600, 64},
                    Shape{"turbo3", kValue, 16, 1, 256, 0, 0, 1, 1, 1300, 3},
                    Shape{"turbo2:balanced", kKey, 64, 2, 128, 16, 16, 2, 64, 900, 4},
                    Shape{"turbo2:balanced:step=16", kKey, 80, 1, 64, 3, 1, 1, 2, 610, 16},
                    Shape{"turbo4:balanced", kKey, 64, 2, 128, 16, 16, 2, 64, 900, 4, true},
                    Shape{"turbo4:center=step", kKey, 48, 2, 64, 0, 3, 1, 8, 500, 1},
                    Shape{"turbo4:balance", kKey, 80, 1, 64, 0, 4, 1, 2, 600, 2, true},
                    Shape{"q8_0:balanced", kKey, 32, 2, 128, 64, 4, 2, 1, 900, 3},
                    Shape{"q4_0", kValue, 64, 5, 64, 10, 8, 1, 64, 500, 32},
                    Shape{"trellis2", kValue, 64, 1, 64, 10, 4, 1, 4, 300, 2},
                    Shape{"f16", kKey, 80, 3, 128, 128, 16, 2, 64, 900, 2},
                    Shape{"f32", kKey, 64, 1, 64, 5, 4, 1, 2, 500, 2},
                    Shape{"bf16", kValue, 64, 3, 128, 5, 4, 1, 2, 900, 2},
                    Shape{"turbo4:center", kKey, 128, 1, 128, 0, 0, 0, 1, 900},
                    Shape{"turbo3:center", kValue, 80, 3, 64, 200, 4, 8, 64, 640, 3},
                    Shape{"turbo2:center", kKey, 16, 1, 64, 5, 2, 1, 1, 1500},
                    Shape{"turbo3:balance:center", kKey, 64, 2, 64, 5, 4, 1, 1, 500, 2, true},
                    Shape{"turbo4:dense", kKey, 64, 3, 128, 5, 4, 2, 4, 900},
                    Shape{"zscore3", kKey, 64, 3, 128, 5, 16, 2, 64, 900, 2},
                    Shape{"zscore2", kValue, 80, 1, 64, 0, 0, 1, 1, 600},
                    Shape{"kivi4", kKey, 64, 2, 128, 5, 4, 2, 1, 900},
                    Shape{"kivi4:group=64", kKey, 80, 1, 256, 0, 4, 1, 1, 1300},
                    Shape{"kivi2", kKey, 32, 1, 64, 0, 0, 0, 1, 500, 5},
                    Shape{"mixed3:balanced", kKey, 64, 1, 64, 5, 4, 2, 4, 700, 2},
                    Shape{"mixed3:balanced", kKey, 64, 2, 128, 5, 4, 1, 4, 700, 2, true},
                    Shape{"dual3", kKey, 64, 3, 128, 5, 4, 2, 4, 900},
                    Shape{"dual4:balanced", kKey, 64, 2, 128, 0, 4, 2, 4, 900, 3}));

}  // namespace
}  // namespace polarquant
