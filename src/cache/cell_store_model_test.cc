// SPDX-License-Identifier: Apache-2.0
// Random histories of a cell store against the plain model, question by question and bit by bit.
#include "cache/cell_store_model.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <memory>

#include "cache/random_profile.h"
#include "cache/sparse_range.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

struct Shape {
  const char* scheme;
  Role role;
  int head_dim, num_kv_heads, page_tokens, window, max_partial;
  int64_t num_cells;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.scheme << " d" << shape.head_dim << " h" << shape.num_kv_heads << " p"
             << shape.page_tokens << " w" << shape.window;
}

// Memory a host would own, which also lets us ask the system what is resident in it.
class HostRange {
 public:
  explicit HostRange(size_t bytes) : bytes_(bytes) {
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data_ = mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
  }
  ~HostRange() { munmap(data_, bytes_); }
  HostRange(const HostRange&) = delete;
  HostRange& operator=(const HostRange&) = delete;
  std::byte* data() const { return data_; }
  size_t resident() const {
    const size_t os = SparseRange::OsPageBytes();
    std::vector<unsigned char> pages(bytes_ / os);
    EXPECT_EQ(mincore(data_, bytes_, pages.data()), 0);
    size_t count = 0;
    for (const unsigned char page : pages) count += page & 1u;
    return count * os;
  }

 private:
  size_t bytes_;
  std::byte* data_;
};

// A store, its model and the host's memory under it.
struct Subject {
  explicit Subject(const CellStore::Config& config)
      : range(CellStore::exact_range_bytes(config)), store(config, range.data()), model(store) {}
  HostRange range;
  CellStore store;
  StoreModel model;
};

class History {
 public:
  History(const Shape& shape, unsigned seed)
      : random_(seed),
        cells_(shape.num_cells),
        row_values_(static_cast<size_t>(shape.head_dim) * static_cast<size_t>(shape.num_kv_heads)) {
    CellStore::Config config;
    config.scheme = Scheme::Parse(shape.scheme);
    config.role = shape.role;
    config.head_dim = shape.head_dim;
    config.num_kv_heads = shape.num_kv_heads;
    config.num_cells = shape.num_cells;
    config.page_tokens = shape.page_tokens;
    config.window_tokens = shape.window;
    config.max_partial_pages = shape.max_partial;
    config.profile =
        RandomProfile(shape.num_kv_heads, shape.head_dim,
                      seed % 2 == 0 ? Rope::Pairing::kAdjacent : Rope::Pairing::kHalves, seed);
    for (auto& subject : subjects_) subject = std::make_unique<Subject>(config);
  }

  void Step() {
    Subject& subject = *subjects_[random_() % 2];
    switch (random_() % 16) {
      case 0:
        return Write(subject, Scattered(1 + Below(40)));
      case 1:
        return Pin(subject, Scattered(1 + Below(5)));
      case 2:
        return Turn(subject, random_() % 2 == 0 ? Range(Below(cells_), 300) : Scattered(30));
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
      case 7:  // one token at a time, as decoding writes
        for (int i = 0; i < 30; ++i) {
          Write(subject, Range(next_, 1));
          Settle(subject);
        }
        return;
      case 8:  // rewind a little and write again
        next_ = std::max<int64_t>(0, next_ - Below(12));
        return Write(subject, Range(next_, 4));
      case 9:
        next_ = Below(cells_);
        return;
      default:  // a batch of a prompt
        Write(subject, Range(next_, 1 + Below(180)));
        if (random_() % 4 != 0) Settle(subject);
    }
  }

  void Check() const {
    for (const auto& subject : subjects_) {
      ExpectSame(subject->store, subject->model);
      EXPECT_EQ(subject->store.memory().exact_bytes, subject->range.resident());
    }
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

  void Write(Subject& subject, const std::vector<int64_t>& cells) {
    const Floats rows = RandomRows(random_, cells.size(), row_values_);
    constexpr int64_t kFirstPosition = 100000;  // shifts never lead below 0
    std::vector<int32_t> positions;             // mostly consecutive in a page
    const int64_t jump = random_() % 4 == 0 ? Below(5000) : 0;
    for (const int64_t cell : cells)
      positions.push_back(static_cast<int32_t>(kFirstPosition + cell + jump));
    subject.store.Write(cells, rows.data(), static_cast<int64_t>(row_values_), 2, positions.data());
    subject.model.Write(cells, rows, positions);
    next_ = (cells.back() + 1) % cells_;
  }
  void Settle(Subject& subject) {
    subject.store.Settle(1 + static_cast<int>(random_() % 2));
    subject.model.Settle();
  }
  static void Pin(Subject& subject, const std::vector<int64_t>& cells) {
    subject.store.PinSinks(cells);
    subject.model.Pin(cells);
  }
  void Turn(Subject& subject, const std::vector<int64_t>& cells) {
    const size_t count = row_values_;
    const auto change = [count](int64_t cell, float* row) {
      for (size_t i = 0; i < count; ++i) {
        row[i] = 0.75f * row[i] + 0.01f * static_cast<float>(cell % 7);
      }
    };
    std::vector<int32_t> shifts;
    const int64_t most = random_() % 2 == 0 ? 1 : 50;
    const int64_t back = random_() % 2 == 0 ? 0 : 100;
    for (size_t i = 0; i < cells.size(); ++i) {
      shifts.push_back(static_cast<int32_t>(Below(most) - back));
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
    if (!from.store.can_save()) {
      std::vector<std::byte> saved(from.store.saved_row_bytes());
      EXPECT_THROW(from.store.SaveRow(0, saved.data()), Error);
      return;
    }
    const int64_t count = 1 + Below(60);
    const int64_t source = Below(cells_ - count);
    const int64_t target = random_() % 2 == 0 ? source : Below(cells_ - count);
    // All saved before any is loaded: the ranges may overlap.
    std::vector<Bytes> saved;
    std::vector<StoreModel::Cell> rows;
    for (int64_t i = 0; i < count; ++i) {
      saved.emplace_back(from.store.saved_row_bytes());
      from.store.SaveRow(source + i, saved.back().data());
      rows.push_back(from.model.cell(source + i));
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto& row = rows[static_cast<size_t>(i)];
      to.store.LoadRow(target + i, saved[static_cast<size_t>(i)].data());
      if (row.coded()) {
        to.model.PutCoded(target + i, row);
      } else {
        to.model.PutExact(target + i, row.written ? row.row : Floats(row_values_, 0.0f));
      }
    }
  }
  void Copy(Subject& to, const Subject& from) {
    const int64_t first = Below(cells_);
    const int64_t count = 1 + Below(cells_ - first);
    to.store.CopyFrom(from.store, first, count);
    to.model.CopyFrom(from.model, first, count);
  }

  std::mt19937 random_;
  std::unique_ptr<Subject> subjects_[2];
  int64_t cells_;
  size_t row_values_;
  int64_t next_ = 0;
};

class CellStoreHistory : public testing::TestWithParam<Shape> {};

TEST_P(CellStoreHistory, EqualsThePlainModelAfterEveryFewSteps) {
  for (unsigned seed = 0; seed < 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    History history(GetParam(), seed);
    for (int step = 0; step < 120; ++step) {
      history.Step();
      if (step % 6 != 5) continue;
      history.Check();
      ASSERT_FALSE(HasFailure()) << "step " << step;
    }
    history.ClearAll();
  }
}

constexpr Role kKey = Role::kKey, kValue = Role::kValue;
INSTANTIATE_TEST_SUITE_P(
    Shapes, CellStoreHistory,
    testing::Values(
        Shape{"turbo4", kKey, 64, 3, 128, 128, 2, 1100},
        Shape{"turbo4", kValue, 80, 1, 64, 5, 1, 700},
        Shape{"turbo4:center", kKey, 128, 1, 128, 0, 0, 900},
        Shape{"turbo3:center", kKey, 64, 3, 128, 5, 2, 1000},
        Shape{"turbo3:center", kValue, 80, 3, 64, 200, 8, 640},
        Shape{"turbo3:center", kKey, 64, 1, 256, 0, 1, 1300},
        Shape{"turbo4:balanced", kKey, 64, 3, 128, 5, 2, 900},
        Shape{"turbo3:balance", kKey, 80, 1, 64, 0, 1, 600},
        Shape{"turbo4:balanced:step=32", kKey, 64, 3, 64, 5, 1, 700},
        Shape{"q8_0:center=step", kKey, 32, 2, 128, 64, 2, 900},
        Shape{"turbo4:dense", kKey, 64, 3, 128, 5, 2, 900},
        Shape{"mixed3:balanced", kKey, 64, 1, 64, 5, 2, 700},
        Shape{"turbo3s8:center", kValue, 80, 2, 128, 5, 2, 800},
        Shape{"q8_0", kValue, 128, 1, 128, 200, 2, 1000}, Shape{"q8_0", kKey, 64, 3, 64, 0, 8, 500},
        Shape{"f16", kKey, 80, 3, 128, 128, 2, 900}, Shape{"f32", kKey, 64, 1, 64, 5, 1, 500},
        Shape{"bf16", kValue, 64, 3, 128, 5, 1, 900}, Shape{"zscore3", kKey, 64, 3, 128, 5, 2, 900},
        Shape{"zscore2", kValue, 80, 1, 64, 0, 1, 600}, Shape{"kivi2", kKey, 64, 3, 128, 5, 2, 900},
        Shape{"kivi4:group=64", kKey, 80, 1, 256, 0, 1, 1300},
        Shape{"kivi2", kKey, 32, 1, 64, 0, 0, 500}, Shape{"kivi4", kValue, 64, 2, 64, 5, 1, 700},
        Shape{"dual3", kKey, 64, 3, 128, 5, 2, 900},
        Shape{"dual2:codes=rtn:center", kKey, 80, 1, 64, 64, 1, 600},
        Shape{"dual4:balanced", kKey, 64, 2, 128, 0, 2, 900},
        Shape{"turbo2:center", kKey, 16, 1, 64, 5, 1, 1500}));

}  // namespace
}  // namespace polarquant
