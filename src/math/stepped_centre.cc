// SPDX-License-Identifier: Apache-2.0
// Stage 1/7 normalise: the stepped centre. Phases are found in double precision, so that rows far
// into a context are centred as well as the first.
#include "math/stepped_centre.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>
#include <string>

#include "math/rotation.h"
#include "polarquant/error.h"

namespace polarquant {
namespace {

constexpr double kTurn = 2.0 * std::numbers::pi;

// What is left of a phase, or of a frequency, without its whole turns: positions are whole numbers.
double WithoutTurns(double phase) { return phase - kTurn * std::round(phase / kTurn); }

}  // namespace

void KeyProfile::Check(int num_kv_heads, int head_dim) const {
  constexpr float kLargestScale = 4096.0f, kLargestMean = 65504.0f;
  const auto fail = [](const std::string& what) {
    throw Error(ErrorCode::kParameter, "key profile: " + what);
  };
  const size_t values = static_cast<size_t>(num_kv_heads) * static_cast<size_t>(head_dim);
  const auto check_size = [&](const std::vector<float>& list, const char* name, size_t needed) {
    if (list.empty() || list.size() == needed) return;
    fail(std::string(name) + " has " + std::to_string(list.size()) + " values; " +
         std::to_string(num_kv_heads) + " heads of " + std::to_string(head_dim) + " need " +
         std::to_string(needed));
  };
  check_size(balance, "balance", values);
  check_size(mean, "mean", values);
  check_size(dense, "dense", values * static_cast<size_t>(head_dim));
  check_size(dense_inverse, "dense_inverse", dense.size());
  for (const float value : dense) {
    if (!std::isfinite(value)) fail("the dense map has a value that is not finite");
  }
  for (const float value : dense_inverse) {
    if (!std::isfinite(value)) fail("the dense map cannot be inverted");
  }
  for (const float scale : balance) {
    if (!(scale >= 1.0f / kLargestScale && scale <= kLargestScale)) {
      fail("balance scale " + std::to_string(scale) + " is not in [1/4096, 4096]");
    }
  }
  for (const float value : mean) {
    if (!(std::fabs(value) <= kLargestMean)) {
      fail("mean " + std::to_string(value) + " is not within +-65504");
    }
  }
  if (rope.dims < 0 || rope.dims % 2 != 0 || rope.dims > head_dim ||
      (rope.pairing == Rope::Pairing::kNone) != (rope.dims == 0)) {
    fail("RoPE turns " + std::to_string(rope.dims) + " of " + std::to_string(head_dim) +
         " channels; it must be an even number of them, and 0 exactly if there is no pairing");
  }
  if (!rope.frequencies.empty() && rope.frequencies.size() != static_cast<size_t>(rope.dims) / 2) {
    fail(std::to_string(rope.frequencies.size()) + " frequencies for " +
         std::to_string(rope.dims / 2) + " pairs");
  }
  for (const double frequency : rope.frequencies) {
    if (!std::isfinite(frequency)) fail("a frequency is not finite");
  }
  if (!(rope.magnitude > 0.0 && std::isfinite(rope.magnitude))) {
    fail("RoPE's magnitude is " + std::to_string(rope.magnitude) + "; it must be above 0");
  }
}

double StepShare(double frequency, int step) {
  const double half = 0.5 * WithoutTurns(frequency);
  constexpr double kStill = 1e-9;  // below it D is 1 in double precision
  if (std::abs(half) < kStill) return 1.0;
  return std::sin(step * half) / (step * std::sin(half));
}

StepTable::StepTable(const Rope& rope, int step) : rope_(rope), step_(step) {
  if (rope.frequencies.size() != static_cast<size_t>(rope.dims) / 2) {
    throw Error(ErrorCode::kParameter, std::to_string(rope.frequencies.size()) +
                                           " frequencies for " + std::to_string(rope.dims / 2) +
                                           " pairs; center=step needs one for each");
  }
}

StepTable::~StepTable() {
  for (const auto& entry : blocks_) {
    const Block* block = entry.load();
    if (block == nullptr) continue;
    for (const auto& rows : *block) delete[] rows.load();
    delete block;
  }
}

std::shared_ptr<StepTable> StepTable::Share(const Rope& rope, int step) {
  static std::mutex mutex;
  static std::vector<std::weak_ptr<StepTable>> tables;
  const std::lock_guard lock(mutex);
  std::erase_if(tables, [](const auto& entry) { return entry.expired(); });
  for (const auto& entry : tables) {
    auto table = entry.lock();
    if (table != nullptr && table->step() == step && table->rope() == rope) return table;
  }
  auto table = std::make_shared<StepTable>(rope, step);
  tables.emplace_back(table);
  return table;
}

const float* StepTable::Grow(int64_t chunk) {
  const std::lock_guard lock(growing_);
  auto& entry = blocks_[static_cast<size_t>(chunk / kBlockChunks)];
  Block* block = entry.load();
  if (block == nullptr) {
    block = new Block();
    entry.store(block);
    bytes_ += sizeof(Block);
  }
  auto& place = (*block)[static_cast<size_t>(chunk % kBlockChunks)];
  if (const float* rows = place.load()) return rows;
  const auto terms = static_cast<size_t>(num_terms());
  auto rows = std::make_unique<float[]>(kChunkRows * terms);  // zeros
  for (int64_t r = 0; r < kChunkRows; ++r) {
    float* row = rows.get() + static_cast<size_t>(r) * terms;
    const double middle = static_cast<double>((chunk * kChunkRows + r) * step_) + 0.5 * (step_ - 1);
    for (size_t i = 0; i < rope_.frequencies.size(); ++i) {
      const double phase = WithoutTurns(WithoutTurns(rope_.frequencies[i]) * middle);
      row[2 * i] = static_cast<float>(std::cos(phase));
      row[2 * i + 1] = static_cast<float>(std::sin(phase));
    }
    row[rope_.dims] = 1.0f;
  }
  bytes_ += kChunkRows * terms * sizeof(float);
  place.store(rows.get());
  return rows.release();
}

SteppedCentre::SteppedCentre(std::shared_ptr<StepTable> table, std::span<const float> mean)
    : table_(std::move(table)), head_dim_(static_cast<int>(mean.size())) {
  const Rope& rope = table_->rope();
  for (int i = 0; i < rope.dims / 2; ++i) {
    const auto [a, b] = rope.Pair(i);
    const double factor =
        rope.magnitude * StepShare(rope.frequencies[static_cast<size_t>(i)], table_->step());
    for (const int channel : {a, b}) {
      means_.push_back(
          static_cast<float>(factor * static_cast<double>(mean[static_cast<size_t>(channel)])));
    }
  }
  means_.insert(means_.end(), mean.begin() + rope.dims, mean.end());
}

void SteppedCentre::CheckPosition(int64_t position) {
  if (position >= 0 && position <= std::numeric_limits<int32_t>::max()) return;
  throw Error(ErrorCode::kParameter,
              "position " + std::to_string(position) +
                  " is outside [0, 2^31), where center=step has its steps; write rows at positions "
                  "from 0 on, or choose a scheme with center in place of center=step");
}

size_t SteppedCentre::bytes() const {
  const auto holders = std::max(table_.use_count(), 1L);
  const size_t share = table_->bytes() / static_cast<size_t>(holders);
  return sizeof(*this) + means_.size() * sizeof(float) + share;
}

void SteppedCentre::At(int64_t step_index, float* centre) const {
  const Rope& rope = table_->rope();
  const float* turns = table_->Row(step_index);
  for (int i = 0; i < rope.dims / 2; ++i) {
    const auto [a, b] = rope.Pair(i);
    const float m = means_.data()[2 * i], n = means_.data()[2 * i + 1];
    centre[a] = m * turns[2 * i] - n * turns[2 * i + 1];
    centre[b] = m * turns[2 * i + 1] + n * turns[2 * i];
  }
  std::copy(means_.begin() + rope.dims, means_.end(), centre + rope.dims);
}

void SteppedCentre::AddTo(int32_t position, int count, float sign, float* rows) const {
  const int64_t end = int64_t{position} + count;
  if (turns() && count > 0) {
    CheckPosition(position);
    CheckPosition(end - 1);
  }
  float centre[kMaxHeadDim];
  for (int64_t at = position; at < end;) {
    const int64_t step = turns() ? StepAt(at) : 0;
    const int64_t step_end = turns() ? std::min(end, (step + 1) * table_->step()) : end;
    At(step, centre);
    for (; at < step_end; ++at, rows += head_dim_) {
      for (int i = 0; i < head_dim_; ++i) rows[i] += sign * centre[i];
    }
  }
}

void SteppedCentre::Weigh(const float* queries, int num_queries, float* weights) const {
  const Rope& rope = table_->rope();
  const int num_terms = table_->num_terms();
  for (int r = 0; r < num_queries; ++r, queries += head_dim_, weights += num_terms) {
    for (int i = 0; i < rope.dims / 2; ++i) {
      const auto [a, b] = rope.Pair(i);
      const float m = means_.data()[2 * i], n = means_.data()[2 * i + 1];
      const float x = queries[a], y = queries[b];
      weights[2 * i] = x * m + y * n;
      weights[2 * i + 1] = y * m - x * n;
    }
    float still = 0.0f;
    for (int i = rope.dims; i < head_dim_; ++i)
      still += queries[i] * means_[static_cast<size_t>(i)];
    weights[rope.dims] = still;
    std::fill(weights + rope.dims + 1, weights + num_terms, 0.0f);
  }
}

}  // namespace polarquant
