// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "polarquant/cell_store.h"
#include "polarquant/error.h"
#include "self_check.h"
#include "verify.h"

namespace polarquant::cli {
namespace {

size_t OsPage() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// What of [first, last) the operating system holds in memory, in whole OS pages.
size_t ResidentBytes(const std::byte* first, const std::byte* last) {
  const size_t before = reinterpret_cast<uintptr_t>(first) % OsPage();
  const size_t bytes = static_cast<size_t>(last - first) + before;
  std::vector<unsigned char> resident((bytes + OsPage() - 1) / OsPage());
  // mincore changes nothing, its parameter only lacks a const.
  if (mincore(const_cast<std::byte*>(first - before), bytes, resident.data()) != 0) {
    throw Error(ErrorCode::kHost, "the system does not say which memory is resident (mincore)");
  }
  const auto is_resident = [](unsigned char page) { return (page & 1) != 0; };
  return OsPage() *
         static_cast<size_t>(std::count_if(resident.begin(), resident.end(), is_resident));
}

class Mapping {
 public:
  explicit Mapping(size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) {
      throw Error(ErrorCode::kCapacity, fmt::format("the system gives no {} bytes", bytes));
    }
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { munmap(data_, bytes_); }
  std::byte* begin() const { return static_cast<std::byte*>(data_); }
  std::byte* end() const { return begin() + bytes_; }

 private:
  size_t bytes_;
  void* data_;
};

// The closed pages of a store: how many bytes they are, and where they lie.
struct ClosedPages {
  explicit ClosedPages(const CellStore& store) {
    for (int64_t index = 0; index < store.num_pages(); ++index) {
      for (int head = 0; head < store.config().num_kv_heads; ++head) {
        const std::byte* page = store.View(index, head).page;
        if (page == nullptr) continue;
        const size_t page_bytes = store.format(head).page_bytes();
        bytes += page_bytes;
        first = first == nullptr ? page : std::min(first, page);
        last = std::max(last, page + page_bytes);
      }
    }
  }
  size_t bytes = 0;
  const std::byte* first = nullptr;
  const std::byte* last = nullptr;
};

}  // namespace

std::vector<Finding> CheckStore() {
  constexpr int kCells = 1000;  // the last page stays open
  constexpr int kHeads = 2, kHeadDim = 128;
  constexpr int kRowValues = kHeads * kHeadDim;
  double exact_gap = 0;
  double code_gap = 0;
  double page_gap = 0;
  for (const char* scheme : {"turbo4:center", "turbo3", "turbo2", "q8_0"}) {
    CellStore::Config config;
    config.scheme = Scheme::Parse(scheme);
    config.head_dim = kHeadDim;
    config.num_kv_heads = kHeads;
    config.num_cells = 4096;
    const Mapping range(CellStore::exact_range_bytes(config));
    CellStore store(config, range.begin());
    std::vector<int64_t> cells(kCells);
    std::iota(cells.begin(), cells.end(), 0);
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<float> rows(static_cast<size_t>(kCells) * kRowValues);
    for (float& value : rows) value = normal(random);
    store.Write(cells, rows.data(), kRowValues, 1);
    store.Settle(1);
    const MemoryUse use = store.memory();
    const size_t told = use.code_bytes + use.header_bytes;
    const ClosedPages closed(store);
    const auto widen = [](double& gap, size_t a, size_t b) {
      gap = std::max(gap, std::abs(static_cast<double>(a) - static_cast<double>(b)));
    };
    widen(exact_gap, use.exact_bytes, ResidentBytes(range.begin(), range.end()));
    widen(code_gap, told, ResidentBytes(closed.first, closed.last));
    widen(page_gap, told, closed.bytes);
  }
  return {{"exact bytes", exact_gap, 0,
           "bytes between what a cell store reports of exact rows and what the system holds"},
          {"code bytes", code_gap, 0, "the same of codes and headers"},
          {"page bytes", page_gap, static_cast<double>(OsPage()) - 1,
           "bytes between that and the sum of its closed pages: less than one page of the system"}};
}

std::vector<Finding> CheckAttentions() {
  const auto worst = [](const std::vector<std::string>& schemes) {
    double error = 0;
    for (const AttentionCheck& check : CheckAttention(schemes, 1)) {
      error = std::isnan(check.error) ? check.error : std::max(error, check.error);
    }
    return error;
  };
  return {{"attention", worst(kCheckedSchemes), kMaxAttentionError,
           "relative error against attention in double over decoded rows"},
          {"K and V differ",
           worst({"turbo4:center/turbo2", "turbo2/turbo4", "q8_0/turbo3", "turbo3/q4_0",
                  "f16/turbo4", "turbo4/f16"}),
           kMaxAttentionError, "the same with other schemes for values than for keys"}};
}

}  // namespace polarquant::cli
