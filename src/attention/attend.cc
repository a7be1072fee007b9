// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: checks, the plan, the team. Keys are never un-rotated and values never decoded
// where a fast kernel reads their codes: queries are rotated once, outputs un-rotated once.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "attention/checks.h"
#include "attention/head_block.h"
#include "attention/plan.h"
#include "kernels/kernels.h"
#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "util/parallel.h"

namespace polarquant {
namespace {

// Rows of a unit: enough to pay for unpacking a page, few enough that logits and accumulators stay
// in the second-level cache.
constexpr int kRowsPerUnit = 48;

// Masks up to this size are read before the team starts: cheaper than its barriers.
constexpr int64_t kSmallMask = 1 << 16;

struct Team {
  const Setup& setup;
  Plan& plan;
  bool planned;     // before the team started
  float* partials;  // [thread][2]: of the first and the last unit of a thread's share

  float* PartialOf(int thread, bool first) const {
    return partials + (2 * thread + (first ? 0 : 1)) * setup.partial_floats();
  }

  void Work(int thread, int team) const {
    if (!planned) {
      const Share blocks = ShareOf(plan.num_blocks(), thread, team);
      for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        plan.ReadMask(setup.call, static_cast<int>(b));
      }
      TeamBarrier();
      if (thread == 0) plan.CountItems();
      TeamBarrier();
    }
    AttendShare(thread, team);
  }

  void AttendShare(int thread, int team) const {
    thread_local HeadBlock unit_state;
    const Share share = ShareOf(plan.num_items(), thread, team);
    for (int64_t item = share.begin; item < share.end;) {
      const int unit = plan.UnitOf(item);
      const int64_t first = plan.FirstItem(unit), end = std::min(plan.EndItem(unit), share.end);
      const QueryBlock& block = plan.BlockOf(unit);
      unit_state.Start(setup, plan.KvHeadOf(unit), block);
      if (!block.pages.empty()) {
        unit_state.Attend(
            std::span(block.pages)
                .subspan(static_cast<size_t>(item - first), static_cast<size_t>(end - item)));
      }
      if (item == first && end == plan.EndItem(unit)) {
        unit_state.Finish();
      } else {
        unit_state.StorePartial(PartialOf(thread, item == share.begin));
        MergeIfLast(unit, team);
      }
      item = end;
    }
  }

  // Whoever stores the last part of a unit merges it: nobody waits.
  void MergeIfLast(int unit, int team) const {
    thread_local std::vector<const float*> parts;
    parts.clear();
    for (int t = 0; t < team; ++t) {
      const Share share = ShareOf(plan.num_items(), t, team);
      const int64_t begin = std::max(share.begin, plan.FirstItem(unit));
      if (begin < std::min(share.end, plan.EndItem(unit))) {
        parts.push_back(PartialOf(t, begin == share.begin));
      }
    }
    if (plan.CountPart(unit) < static_cast<int>(parts.size())) return;
    const QueryBlock& block = plan.BlockOf(unit);
    for (int r = 0; r < block.count * setup.group; ++r) {
      HeadBlock::MergeRow(setup, plan.KvHeadOf(unit), block, r, parts);
    }
  }
};

}  // namespace

void SlopesOf(const AttentionCall& call, std::vector<float>* slopes) {
  slopes->assign(static_cast<size_t>(call.num_q_heads), 1.0f);
  if (call.max_bias <= 0.0f) return;
  int whole = 1;  // the largest power of two among the heads
  while (whole * 2 <= call.num_q_heads) whole *= 2;
  const double base = std::exp2(-static_cast<double>(call.max_bias) / whole);
  const double half_base = std::exp2(-static_cast<double>(call.max_bias) / 2 / whole);
  for (int h = 0; h < call.num_q_heads; ++h) {
    (*slopes)[static_cast<size_t>(h)] = static_cast<float>(
        h < whole ? std::pow(base, h + 1) : std::pow(half_base, 2 * (h - whole) + 1));
  }
}

namespace {

void AttendUnderMask(const AttentionCall& call, int num_threads) {
  const Kernels& kernels = ActiveKernels();
  const int num_kv_heads = call.keys->shape().num_kv_heads;
  const int group = call.num_q_heads / num_kv_heads;
  const int queries_per_block = std::max(1, kRowsPerUnit / group);
  thread_local std::vector<float> slopes;
  SlopesOf(call, &slopes);
  const Setup setup = {.call = call,
                       .keys = Side(kernels, *call.keys),
                       .values = Side(kernels, *call.values),
                       .group = group,
                       .max_rows = std::min(queries_per_block, call.num_queries) * group,
                       .slopes = slopes};
  thread_local Plan plan;
  thread_local std::vector<float> partials;
  plan.Reset(call, setup.keys.page_tokens, num_kv_heads, queries_per_block);
  const size_t floats = static_cast<size_t>(2 * num_threads * setup.partial_floats());
  if (partials.size() < floats) partials.resize(floats);
  const bool planned =
      num_threads == 1 || call.mask == nullptr || call.num_queries * call.num_cells <= kSmallMask;
  if (planned) {
    for (int b = 0; b < plan.num_blocks(); ++b) plan.ReadMask(call, b);
    plan.CountItems();
  }
  const Team team = {setup, plan, planned, partials.data()};
  Parallel(num_threads, [&](int thread, int size) { team.Work(thread, size); });
}

// A block of queries at a time, with a mask of its own: cells after the block are not looked at.
void AttendCausally(const AttentionCall& call, int num_threads) {
  constexpr int kQueries = 512;
  constexpr uint16_t kHidden = 0xfc00;
  thread_local std::vector<uint16_t> mask;
  for (int first = 0; first < call.num_queries; first += kQueries) {
    AttentionCall block = call;
    block.num_queries = std::min(kQueries, call.num_queries - first);
    const int after = call.num_queries - first - block.num_queries;
    block.num_cells = call.num_cells - after;
    block.queries += first * call.query_stride;
    block.output += first * call.output_stride;
    if (call.lse != nullptr) block.lse += static_cast<int64_t>(first) * call.num_q_heads;
    if (call.mask != nullptr) block.mask += first * call.mask_stride;
    if (block.num_queries > 1) {
      const int64_t columns = block.num_cells - call.first_cell;
      mask.assign(static_cast<size_t>(block.num_queries * columns), 0);
      for (int n = 0; n < block.num_queries; ++n) {
        uint16_t* row = mask.data() + n * columns;
        const int64_t seen = columns - (block.num_queries - 1 - n);
        if (call.mask != nullptr) std::copy_n(block.mask + n * call.mask_stride, seen, row);
        std::fill(row + seen, row + columns, kHidden);
      }
      block.mask = mask.data();
      block.mask_stride = columns;
    }
    AttendUnderMask(block, num_threads);
  }
}

}  // namespace

void Attend(const AttentionCall& call, int num_threads) {
  CheckCall(call);
  if (num_threads < 1) {
    throw Error(ErrorCode::kParameter,
                "num_threads is " + std::to_string(num_threads) + "; give at least 1");
  }
  if (call.num_queries == 0) return;
  if (call.causal) {
    AttendCausally(call, num_threads);
  } else {
    AttendUnderMask(call, num_threads);
  }
}

std::vector<int64_t> SinksOfMask(const uint16_t* mask, int64_t mask_stride, int num_queries,
                                 int64_t num_cells, int sink_tokens) {
  constexpr uint16_t kHalfHidden = 0xfc00;
  constexpr uint64_t kFourHidden = 0xfc00fc00fc00fc00u;
  std::vector<int64_t> sinks, seen;
  for (int n = 0; n < num_queries; ++n) {
    const uint16_t* row = mask + n * mask_stride;
    seen.clear();
    for (int64_t cell = 0; cell < num_cells;) {
      uint64_t four;
      if (cell + 4 <= num_cells) {
        std::memcpy(&four, row + cell, sizeof four);
        if (four == kFourHidden) {
          cell += 4;
          continue;
        }
      }
      if (row[cell] != kHalfHidden) seen.push_back(cell);
      if (seen.size() > static_cast<size_t>(std::max(sink_tokens, 0))) break;
      ++cell;
    }
    if (seen.size() <= static_cast<size_t>(std::max(sink_tokens, 0))) {
      sinks.insert(sinks.end(), seen.begin(), seen.end());
    }
  }
  std::sort(sinks.begin(), sinks.end());
  sinks.erase(std::unique(sinks.begin(), sinks.end()), sinks.end());
  return sinks;
}

const char* ActiveTarget() { return ActiveKernels().target; }

bool HasFastPath(const Scheme& scheme, int head_dim) {
  CheckHeadDim(head_dim);
  const Kernels& kernels = ActiveKernels();
  if (&kernels == &ScalarKernels()) return false;
  const Codec* codec = CodecNamed(scheme.codec);
  if (codec == nullptr) return false;
  return scheme.codec == "f16" || scheme.codec == "q8_0" || scheme.codec == "q4_0" ||
         TilesFor(kernels, *codec) != nullptr;
}

}  // namespace polarquant
