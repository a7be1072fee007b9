// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>

#include "page_buffer.h"
#include "polarquant/attention.h"
#include "polarquant/cell_store.h"
#include "verify.h"

namespace polarquant::cli {
namespace {

constexpr int kPageTokens = 128;
// Powers of two, both of Paley's orders, and a head of two blocks.
constexpr int kHeadDims[] = {16, 64, 80, 96, 112, 128, 256};

// FORMAT.md, "Rotate", in the plainest words: a dense matrix.
class DefinedRotation {
 public:
  explicit DefinedRotation(int head_dim)
      : head_dim_(head_dim), entries_(static_cast<size_t>(head_dim) * head_dim, 0.0) {
    const std::vector<int> signs = Signs();
    for (int offset = 0; offset < head_dim;) {
      int size = head_dim - offset;
      while (OrderOf(size) == 0) size -= 16;
      const int order = OrderOf(size);
      for (int row = 0; row < size; ++row) {
        for (int column = 0; column < size; ++column) {
          entries_[Index(offset + row, offset + column)] =
              Hadamard(order, size / order, row, column) * signs.at(offset + column) /
              std::sqrt(size);
        }
      }
      offset += size;
    }
  }
  double At(int row, int column) const { return entries_[Index(row, column)]; }

 private:
  size_t Index(int row, int column) const {
    return static_cast<size_t>(row) * static_cast<size_t>(head_dim_) + static_cast<size_t>(column);
  }

  static int OrderOf(int size) {
    const auto is = [&](int order, int smallest, int largest) {
      const int width = size / order;
      return size % order == 0 && (width & (width - 1)) == 0 && size >= smallest && size <= largest;
    };
    return is(1, 16, 512) ? 1 : is(12, 48, 384) ? 12 : is(20, 80, 320) ? 20 : 0;
  }

  static int Sylvester(int row, int column) {
    return __builtin_popcount(static_cast<unsigned>(row & column)) % 2 == 0 ? 1 : -1;
  }

  // Type I: I + S with S skew, from the squares modulo the prime order - 1.
  static int Paley(int order, int row, int column) {
    if (row == column || row == 0) return 1;
    if (column == 0) return -1;
    const int prime = order - 1;
    const int difference = (row - column + prime) % prime;
    for (int a = 1; a < prime; ++a) {
      if (a * a % prime == difference) return 1;
    }
    return -1;
  }

  static int Hadamard(int order, int width, int row, int column) {
    const int inner = Sylvester(row % width, column % width);
    return order == 1 ? inner : inner * Paley(order, row / width, column / width);
  }

  std::vector<int> Signs() const {
    uint64_t state = 2026 * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(head_dim_);
    uint64_t number = 0;
    std::vector<int> signs;
    for (int i = 0; i < head_dim_; ++i) {
      if (i % 64 == 0) {  // SplitMix64
        number = state += 0x9e3779b97f4a7c15u;
        number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
        number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
        number ^= number >> 31;
      }
      signs.push_back((number >> (i % 64) & 1) != 0 ? -1 : 1);
    }
    return signs;
  }

  int head_dim_;
  std::vector<double> entries_;
};

// The rotation this build applies, [row][column]: column i is what unit vector i becomes. One bit a
// value and a scale hold it exactly but for the rounding of the scale, because all entries of a
// block have the same magnitude.
std::vector<float> BuiltRotation(int head_dim) {
  const PageFormat format(Scheme::Parse("turbo1"), Role::kKey, head_dim, kPageTokens);
  PageBuffer page(format, 1);
  const auto d = static_cast<size_t>(head_dim);
  std::vector<float> rotation(d * d);
  std::vector<float> units(kPageTokens * d);
  std::vector<float> turned(kPageTokens * d);
  for (size_t first = 0; first < d; first += kPageTokens) {
    const size_t count = std::min<size_t>(kPageTokens, d - first);
    std::fill(units.begin(), units.end(), 0.0f);
    for (size_t i = 0; i < count; ++i) units[i * d + first + i] = 1.0f;
    format.EncodePage(units.data(), static_cast<int>(count), page.page(0));
    format.DecodeCodes(page.page(0), static_cast<int>(count), turned.data());
    for (size_t i = 0; i < count; ++i) {
      for (size_t row = 0; row < d; ++row) rotation[row * d + first + i] = turned[i * d + row];
    }
  }
  return rotation;
}

// Logits and outputs of single cells of a compressed store, which attention computes on rotated
// codes with rotated queries, against plain products with the rows as they are read back.
double AttentionGap(int head_dim) {
  constexpr int kCells = 2 * kPageTokens;
  constexpr uint16_t kHidden = 0xfc00;  // f16 -inf
  CellStore::Config config;
  config.scheme = Scheme::Parse("turbo4");
  config.head_dim = head_dim;
  config.num_kv_heads = 1;
  config.num_cells = kCells;
  config.window_tokens = 0;
  config.sink_tokens = 0;
  CellStore keys(config);
  config.role = Role::kValue;
  CellStore values(config);
  std::mt19937 random(static_cast<unsigned>(head_dim));
  std::normal_distribution<float> normal;
  const auto d = static_cast<size_t>(head_dim);
  std::vector<float> rows(kCells * d);
  std::vector<int64_t> cells(kCells);
  std::iota(cells.begin(), cells.end(), 0);
  for (CellStore* store : {&keys, &values}) {
    for (float& value : rows) value = normal(random);
    store->Write(cells, rows.data(), head_dim, 1);
    store->Settle(1);
  }
  std::vector<float> query(d);
  std::vector<float> output(d);
  std::vector<float> row(d);
  std::vector<uint16_t> mask(kCells, kHidden);
  double worst = 0;
  for (int cell = 3; cell < kCells; cell += 25) {
    for (float& value : query) value = normal(random);
    mask[static_cast<size_t>(cell)] = 0;
    float logit = 0;
    AttentionCall call;
    call.keys = &keys;
    call.values = &values;
    call.num_cells = kCells;
    call.num_q_heads = 1;
    call.num_queries = 1;
    call.queries = query.data();
    call.query_stride = call.query_head_stride = head_dim;
    call.mask = mask.data();
    call.mask_stride = kCells;
    call.output = output.data();
    call.output_stride = call.output_head_stride = head_dim;
    call.lse = &logit;
    Attend(call, 1);
    mask[static_cast<size_t>(cell)] = kHidden;

    const auto norm = [&](const std::vector<float>& x) {
      return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
    };
    keys.ReadRow(cell, row.data());
    const double exact = std::inner_product(query.begin(), query.end(), row.begin(), 0.0);
    worst = std::max(worst, std::abs(logit - exact) / (norm(query) * norm(row)));
    values.ReadRow(cell, row.data());
    const double length = norm(row);
    for (size_t i = 0; i < d; ++i) row[i] -= output[i];
    worst = std::max(worst, norm(row) / length);
  }
  return worst;
}

}  // namespace

std::vector<Finding> CheckRotation() {
  int64_t wrong = 0;
  double skew = 0;
  double attention = 0;
  for (const int head_dim : kHeadDims) {
    const DefinedRotation defined(head_dim);
    const std::vector<float> built = BuiltRotation(head_dim);
    const auto at = [&](int row, int column) {
      return static_cast<double>(built[static_cast<size_t>(row) * head_dim + column]);
    };
    for (int row = 0; row < head_dim; ++row) {
      for (int column = 0; column < head_dim; ++column) {
        const double expected = defined.At(row, column);
        const double allowed = std::abs(expected) / 1024;  // the scale is rounded to 11 bits
        wrong += std::abs(at(row, column) - expected) <= allowed ? 0 : 1;
      }
      for (int other = 0; other <= row; ++other) {
        double product = 0;
        for (int i = 0; i < head_dim; ++i) product += at(row, i) * at(other, i);
        skew = std::max(skew, std::abs(product - (row == other ? 1 : 0)));
      }
    }
    attention = std::max(attention, AttentionGap(head_dim));
  }
  return {{"rotation", static_cast<double>(wrong), 0,
           "entries that differ from signs, Hadamard and Paley matrices, 7 head_dims"},
          {"orthonormal", skew, 2e-3, "largest entry of R R' - 1, scales rounded to f16"},
          {"same rotation", attention, 2e-3,
           "logits and outputs of single cells against rows read back, relative"}};
}

}  // namespace polarquant::cli
