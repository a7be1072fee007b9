// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: checks, the plan, the team. Keys are never un-rotated and values never decoded
// where a fast kernel reads their codes: queries are rotated once, outputs un-rotated once.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "attention/checks.h"
#include "attention/head_block.h"
#include "attention/plan.h"
#include "codecs/codec.h"
#include "kernels/kernels.h"
#include "polarquant/attention.h"
#include "util/parallel.h"

namespace polarquant {
namespace {

// Masks up to this size are read before the team starts: cheaper than its barriers.
constexpr int64_t kSmallMask = 1 << 16;

// What one call needs, kept by the thread that calls.
struct Workspace {
  Plan plan;  // where the caller brings none
  std::vector<float> slopes;
  std::vector<Setup> setups;    // of each sequence
  std::vector<float> partials;  // [thread][2]: of the first and the last unit of a thread's share
  std::vector<int> parts_done;  // of each unit

  void Prepare(const AttentionBatch& batch, const Plan& made, const Executor& executor) {
    const Kernels& kernels =
        *(executor.target != nullptr ? *executor.target : DefaultTarget()).kernels;
    SlopesOf(batch, &slopes);
    setups.clear();
    setups.reserve(batch.sequences.size());
    partial_floats_ = 0;
    for (const SequenceCall& call : batch.sequences) {
      setups.push_back({.terms = batch,
                        .call = call,
                        .keys = Side(kernels, *call.keys),
                        .values = Side(kernels, *call.values),
                        .group = made.group(),
                        .max_rows = made.max_rows(),
                        .slopes = slopes});
      partial_floats_ = std::max(partial_floats_, setups.back().partial_floats());
    }
    const auto floats = static_cast<size_t>(2 * executor.num_threads * partial_floats_);
    if (partials.size() < floats) partials.resize(floats);
    parts_done.assign(static_cast<size_t>(made.num_units()), 0);
  }

  float* PartialOf(int thread, bool first) {
    return partials.data() + (2 * thread + (first ? 0 : 1)) * partial_floats_;
  }
  // Counts a part of a unit as done, what was stored for it visible to whoever counts the last;
  // returns the count.
  int CountPart(int unit) {
    return std::atomic_ref(parts_done[static_cast<size_t>(unit)])
               .fetch_add(1, std::memory_order_acq_rel) +
           1;
  }

 private:
  int64_t partial_floats_ = 0;
};

struct Team {
  const Plan& plan;
  Workspace& space;

  const Setup& SetupOf(const QueryBlock& block) const {
    return space.setups[static_cast<size_t>(block.sequence)];
  }

  void Work(int thread, int team) const {
    thread_local HeadBlock unit_state;
    const Share share = ShareOf(plan.num_items(), thread, team);
    for (int64_t item = share.begin; item < share.end;) {
      const int unit = plan.UnitOf(item);
      const int64_t first = plan.FirstItem(unit), end = std::min(plan.EndItem(unit), share.end);
      const QueryBlock& block = plan.BlockOf(unit);
      unit_state.Start(SetupOf(block), plan.KvHeadOf(unit), block);
      if (!block.pages.empty()) {
        unit_state.Attend(
            std::span(block.pages)
                .subspan(static_cast<size_t>(item - first), static_cast<size_t>(end - item)));
      }
      if (item == first && end == plan.EndItem(unit)) {
        unit_state.Finish();
      } else {
        unit_state.StorePartial(space.PartialOf(thread, item == share.begin));
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
        parts.push_back(space.PartialOf(t, begin == share.begin));
      }
    }
    if (space.CountPart(unit) < static_cast<int>(parts.size())) return;
    const QueryBlock& block = plan.BlockOf(unit);
    const Setup& setup = SetupOf(block);
    for (int r = 0; r < block.count * setup.group; ++r) {
      HeadBlock::MergeRow(setup, plan.KvHeadOf(unit), block, r, parts);
    }
  }
};

// A thread's share of planning.
void ReadMasks(const AttentionBatch& batch, int thread, int team, Plan* plan) {
  const Share blocks = ShareOf(plan->num_blocks(), thread, team);
  for (int64_t b = blocks.begin; b < blocks.end; ++b) plan->ReadMask(batch, static_cast<int>(b));
}

Workspace& OfThisThread() {
  thread_local Workspace space;
  return space;
}

// Always the whole team, or nobody but the caller: OpenMP ends threads that a smaller team has no
// use for, and the next larger one starts them again.
void AttendPlanned(const AttentionBatch& batch, const Plan& plan, const Executor& executor) {
  Workspace& space = OfThisThread();
  space.Prepare(batch, plan, executor);
  const Team team = {plan, space};
  Parallel(plan.num_items() > 1 ? executor.num_threads : 1,
           [&](int thread, int size) { team.Work(thread, size); });
}

}  // namespace

struct AttentionPlan::Impl {
  Plan plan;
};

AttentionPlan::AttentionPlan(const AttentionBatch& batch, const Executor& executor) {
  CheckShapes(batch);
  CheckExecutor(executor);
  auto impl = std::make_unique<Impl>();
  Plan& plan = impl->plan;
  plan.Reset(batch);
  Parallel(plan.mask_values() > kSmallMask ? executor.num_threads : 1,
           [&](int thread, int team) { ReadMasks(batch, thread, team, &plan); });
  plan.CountItems();
  impl_ = std::move(impl);
}

AttentionPlan::~AttentionPlan() = default;
AttentionPlan::AttentionPlan(AttentionPlan&&) noexcept = default;
AttentionPlan& AttentionPlan::operator=(AttentionPlan&&) noexcept = default;

void Attend(const AttentionPlan& plan, const AttentionBatch& batch, const Executor& executor) {
  CheckBatch(batch);
  CheckExecutor(executor);
  plan.impl_->plan.CheckFor(batch);
  AttendPlanned(batch, plan.impl_->plan, executor);
}

void Attend(const AttentionBatch& batch, const Executor& executor) {
  CheckBatch(batch);
  CheckExecutor(executor);
  const int num_threads = executor.num_threads;
  Workspace& space = OfThisThread();
  Plan& plan = space.plan;
  plan.Reset(batch);
  if (num_threads == 1 || plan.mask_values() <= kSmallMask) {
    ReadMasks(batch, 0, 1, &plan);
    plan.CountItems();
    AttendPlanned(batch, plan, executor);
    return;
  }
  space.Prepare(batch, plan, executor);
  const Team team = {plan, space};
  Parallel(num_threads, [&](int thread, int size) {
    ReadMasks(batch, thread, size, &plan);
    TeamBarrier();
    if (thread == 0) plan.CountItems();
    TeamBarrier();
    team.Work(thread, size);
  });
}

void Attend(const AttentionCall& call, int num_threads) {
  Attend(BatchOf(call), Executor{num_threads});
}

bool HasFastPath(const Scheme& scheme, int head_dim) {
  CheckHeadDim(head_dim);
  const Kernels& kernels = *DefaultTarget().kernels;
  if (&kernels == &ScalarKernels()) return false;
  for (const Codec& codec : CodecTable()) {
    if (codec.info.name != scheme.codec) continue;
    return codec.record_kernel != RecordKernel::kNone || TilesFor(kernels, codec) != nullptr;
  }
  return false;
}

}  // namespace polarquant
