// SPDX-License-Identifier: Apache-2.0
// bench_pages [SCHEME ...]
//
// Nanoseconds a row, of CPU time: encode one row at a time, encode whole pages, read and write the
// records of one row and of a page. One thread; medians of rounds. POLARQUANT_ISA chooses the
// kernels.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "polarquant/page.h"
#include "polarquant/scheme.h"

namespace polarquant::bench {
namespace {

constexpr int kRounds = 15;
constexpr int kPages = 8;  // a round: stays in the second-level cache

struct Aligned {
  void operator()(std::byte* at) const { ::operator delete (at, std::align_val_t{64}); }
};
using Bytes = std::unique_ptr<std::byte, Aligned>;

Bytes Allocate(size_t size) {
  return Bytes(static_cast<std::byte*>(::operator new (size, std::align_val_t{64})));
}

// visit(page, rows of the page, record of the page); the median of nanoseconds a row.
template <typename Visit>
double RowNanoseconds(int rows, const Visit& visit) {
  std::vector<double> times;
  for (int round = 0; round < kRounds; ++round) {
    const std::clock_t start = std::clock();
    int repeats = 0;
    do {
      for (int p = 0; p < kPages; ++p) visit(p);
      ++repeats;
    } while (std::clock() - start < CLOCKS_PER_SEC / 200);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    times.push_back(1e9 * seconds / (static_cast<double>(rows) * kPages * repeats));
  }
  std::nth_element(times.begin(), times.begin() + kRounds / 2, times.end());
  return times[kRounds / 2];
}

void Measure(const std::string& scheme, int head_dim, Role role) {
  const PageFormat format(Scheme::Parse(scheme), role, head_dim);
  const int tokens = format.page_tokens();
  const size_t record = format.record_bytes(), dim = static_cast<size_t>(head_dim);
  const auto row_count = static_cast<size_t>(tokens);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> rows(row_count * dim * kPages);
  for (float& value : rows) value = normal(random);
  const Bytes pages = Allocate(format.page_bytes() * kPages);
  std::vector<std::byte> records(row_count * record * kPages);
  const auto page = [&](int p) {
    return pages.get() + static_cast<size_t>(p) * format.page_bytes();
  };
  const auto page_rows = [&](int p) {
    return rows.data() + static_cast<size_t>(p) * row_count * dim;
  };
  const auto page_records = [&](int p) {
    return records.data() + static_cast<size_t>(p) * row_count * record;
  };
  const auto each_row = [&](const auto& visit) {
    return RowNanoseconds(tokens, [&](int p) {
      for (int r = 0; r < tokens; ++r) visit(p, r);
    });
  };
  const double pages_encoded =
      RowNanoseconds(tokens, [&](int p) { format.EncodePage(page_rows(p), tokens, page(p)); });
  const double rows_encoded = each_row([&](int p, int r) {
    format.EncodeRow(page(p), r, page_rows(p) + static_cast<size_t>(r) * dim);
  });
  const double record_read = each_row([&](int p, int r) {
    format.ReadRecord(page(p), r, page_records(p) + static_cast<size_t>(r) * record);
  });
  const double record_written = each_row([&](int p, int r) {
    format.WriteRecord(page(p), r, page_records(p) + static_cast<size_t>(r) * record);
  });
  std::printf("%-16s %5d %-6s %9.1f %9.1f %9.1f %9.1f", scheme.c_str(), head_dim,
              role == Role::kKey ? "keys" : "values", rows_encoded, pages_encoded, record_read,
              record_written);
  std::printf(
      " %9.1f %9.1f",
      RowNanoseconds(
          tokens, [&](int p) { format.ReadRecords(page(p), 0, tokens, page_records(p), record); }),
      RowNanoseconds(tokens, [&](int p) {
        format.WriteRecords(page(p), 0, tokens, page_records(p), record);
      }));
  std::printf("\n");
}

int Main(int argc, char** argv) {
  std::vector<std::string> schemes(argv + 1, argv + argc);
  if (schemes.empty()) schemes = {"turbo2", "turbo3", "turbo4", "turbo4:center", "q8_0", "f16"};
  std::printf("%-16s %5s %-6s %9s %9s %9s %9s %9s %9s\n", "scheme", "dim", "role", "enc row",
              "enc page", "read 1", "write 1", "read all", "write all");
  for (const std::string& scheme : schemes) {
    for (const int head_dim : {64, 128}) {
      for (const Role role : {Role::kKey, Role::kValue}) Measure(scheme, head_dim, role);
    }
  }
  return 0;
}

}  // namespace
}  // namespace polarquant::bench

int main(int argc, char** argv) { return polarquant::bench::Main(argc, argv); }
