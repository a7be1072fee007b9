// SPDX-License-Identifier: Apache-2.0
#include "self_check.h"

#include <cmath>
#include <memory>
#include <numeric>
#include <random>

#include "polarquant/attention.h"
#include "polarquant/cell_store.h"

namespace polarquant::cli {
namespace {

constexpr int kCells = 448;  // two closed pages and a window
constexpr int kKvHeads = 2;
constexpr int kQueryHeads = 6;
constexpr int kQueries = 3;
constexpr uint16_t kHidden = 0xfc00;  // f16 -inf

class Case {
 public:
  Case(const std::string& schemes, int head_dim)
      : head_dim_(head_dim), random_(static_cast<unsigned>(head_dim)) {
    const auto [key, value] = Scheme::ParsePair(schemes);
    CellStore::Config config;
    config.head_dim = head_dim;
    config.num_kv_heads = kKvHeads;
    config.num_cells = kCells;
    config.scheme = key;
    config.role = Role::kKey;
    if (key.normalisation.needs_profile()) config.profile = MadeUpProfile();
    keys_ = std::make_unique<CellStore>(config);
    config.scheme = value;
    config.role = Role::kValue;
    values_ = std::make_unique<CellStore>(config);
  }

  double Run(int num_threads) {
    Write(*keys_, num_threads);
    Write(*values_, num_threads);
    const std::vector<float> queries = Normal(kQueries * kQueryHeads * head_dim_);
    std::vector<uint16_t> mask(static_cast<size_t>(kQueries) * kCells, 0);
    for (int n = 0; n < kQueries; ++n) {
      for (int cell = kCells - kQueries + n + 1; cell < kCells; ++cell) {
        mask[static_cast<size_t>(n) * kCells + static_cast<size_t>(cell)] = kHidden;
      }
    }
    AttentionCall call;
    call.keys = keys_.get();
    call.values = values_.get();
    call.num_cells = kCells;
    call.num_q_heads = kQueryHeads;
    call.num_queries = kQueries;
    call.queries = queries.data();
    call.query_head_stride = head_dim_;
    call.query_stride = int64_t{kQueryHeads} * head_dim_;
    call.mask = mask.data();
    call.mask_stride = kCells;
    call.scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    call.output_head_stride = call.query_head_stride;
    call.output_stride = call.query_stride;
    std::vector<float> fast(queries.size());
    std::vector<float> reference(queries.size());
    call.output = fast.data();
    Attend(call, num_threads);
    call.output = reference.data();
    AttendReference(call);
    double error = 0;
    double norm = 0;
    for (size_t i = 0; i < fast.size(); ++i) {
      const double difference = static_cast<double>(fast[i]) - reference[i];
      error += difference * difference;
      norm += static_cast<double>(reference[i]) * reference[i];
    }
    return std::sqrt(error / norm);
  }

 private:
  // Scales over an order of magnitude, as models have them.
  std::shared_ptr<const KeyProfile> MadeUpProfile() {
    auto profile = std::make_shared<KeyProfile>();
    profile->balance = Normal(kKvHeads * head_dim_);
    for (float& scale : profile->balance) scale = std::exp(0.5f * scale);
    profile->mean = Normal(kKvHeads * head_dim_);
    profile->rope = {Rope::Pairing::kHalves, head_dim_ / 2 * 2, {}};
    for (int i = 0; i < profile->rope.dims / 2; ++i) {
      profile->rope.frequencies.push_back(std::pow(1e4, -2.0 * i / profile->rope.dims));
    }
    return profile;
  }

  std::vector<float> Normal(int count) {
    std::normal_distribution<float> normal;
    std::vector<float> numbers(static_cast<size_t>(count));
    for (float& number : numbers) number = normal(random_);
    return numbers;
  }

  void Write(CellStore& store, int num_threads) {
    std::vector<int64_t> cells(kCells);
    std::iota(cells.begin(), cells.end(), 0);
    const std::vector<float> rows = Normal(kCells * kKvHeads * head_dim_);
    const std::vector<int32_t> positions(cells.begin(), cells.end());
    store.Write(cells, rows.data(), int64_t{kKvHeads} * head_dim_, num_threads, positions.data());
    store.Settle(num_threads);
  }

  int head_dim_;
  std::mt19937 random_;
  std::unique_ptr<CellStore> keys_;
  std::unique_ptr<CellStore> values_;
};

}  // namespace

std::vector<AttentionCheck> CheckAttention(const std::vector<std::string>& schemes,
                                           int num_threads) {
  std::vector<AttentionCheck> checks;
  for (const int head_dim : {64, 80, 128}) {
    for (const std::string& pair : schemes) {
      // ggml's blocks are 32 values.
      if (pair.find("q8_0") != std::string::npos || pair.find("q4_0") != std::string::npos) {
        if (head_dim % 32 != 0) continue;
      }
      AttentionCheck check{pair, head_dim, Case(pair, head_dim).Run(num_threads), false};
      check.good = check.error <= kMaxAttentionError;  // false for NaN too
      checks.push_back(check);
    }
  }
  return checks;
}

}  // namespace polarquant::cli
