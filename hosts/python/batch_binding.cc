// SPDX-License-Identifier: Apache-2.0
// Host: Python. Sequence caches of a batch, in one call for all rows: the lock of the interpreter
// is given back once, and attention starts one team of threads. Arrays have a leading dimension
// more than those of one cache: [row, kv_heads, tokens, head_dim].
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "arrays.h"
#include "bindings.h"
#include "polarquant/attention.h"
#include "polarquant/error.h"
#include "polarquant/sequence_cache.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace polarquant::python {
namespace {

using Caches = std::vector<SequenceCache*>;

void CheckCount(const char* name, size_t given, size_t needed) {
  if (given == needed) return;
  throw Error(ErrorCode::kParameter,
              std::to_string(given) + " " + name + " for " + std::to_string(needed) + " caches");
}

const SequenceCache::Config& ConfigOf(const Caches& caches) {
  if (caches.empty()) throw Error(ErrorCode::kParameter, "caches is empty: give one a row");
  for (const SequenceCache* cache : caches) {
    if (cache == nullptr) throw Error(ErrorCode::kParameter, "caches has None");
  }
  return caches.front()->config();
}

// Tokens [from, ...) of one row.
HostRows RowsOf(const View& view, size_t row, int64_t from) {
  const int64_t offset = static_cast<int64_t>(row) * view.strides[0] + from * view.strides[2];
  return {.data = static_cast<const std::byte*>(view.data) + offset * SizeOf(view.type),
          .type = view.type,
          .row_stride = view.strides[2],
          .head_stride = view.strides[1]};
}

void Append(const Caches& caches, const AnyArray& keys, const AnyArray& values,
            const std::vector<int64_t>& skip, int threads) {
  const SequenceCache::Config& config = ConfigOf(caches);
  const auto num_rows = static_cast<int64_t>(caches.size());
  const View key_rows = ViewOf(
      keys, "keys", std::array<int64_t, 4>{num_rows, config.num_kv_heads, -1, config.key_head_dim});
  const int64_t count = key_rows.shape[2];
  const View value_rows =
      ViewOf(values, "values",
             std::array<int64_t, 4>{num_rows, config.num_kv_heads, count, config.value_head_dim});
  CheckCount("skipped counts", skip.size(), caches.size());
  for (const int64_t first : skip) {
    if (first < 0 || first > count) {
      throw Error(ErrorCode::kParameter, "skip has " + std::to_string(first) +
                                             ": it must be between 0 and the " +
                                             std::to_string(count) + " tokens there are");
    }
  }
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  for (size_t i = 0; i < caches.size(); ++i) {
    if (skip[i] == count) continue;
    caches[i]->Append(RowsOf(key_rows, i, skip[i]), RowsOf(value_rows, i, skip[i]), count - skip[i],
                      num_threads);
  }
}

void Settle(const Caches& caches, int threads) {
  if (caches.empty()) return;
  ConfigOf(caches);
  const int num_threads = NumThreads(threads);
  const nb::gil_scoped_release released;
  for (SequenceCache* cache : caches) cache->Settle(num_threads);
}

float* FloatsOf(const View& view, const char* name) {
  CheckFloats(view, name);
  return static_cast<float*>(view.data);
}

void AttendTo(const Caches& caches, const AnyArray& queries, const AnyBuffer& out, float scale,
              float softcap, const std::vector<std::optional<AnyArray>>& masks,
              const std::optional<AnyArray>& sinks, bool causal, int64_t window, int threads) {
  const SequenceCache::Config& config = ConfigOf(caches);
  const auto num_rows = static_cast<int64_t>(caches.size());
  const View query_rows =
      ViewOf(queries, "queries", std::array<int64_t, 4>{num_rows, -1, -1, config.key_head_dim});
  const int64_t num_heads = query_rows.shape[1], count = query_rows.shape[2];
  const View outputs =
      ViewOf(out, "out", std::array<int64_t, 4>{num_rows, count, num_heads, config.value_head_dim});
  if (!masks.empty()) CheckCount("masks", masks.size(), caches.size());
  AttentionBatch batch;
  batch.num_q_heads = static_cast<int>(num_heads);
  batch.causal = causal;
  batch.window = window;
  batch.scale = scale;
  batch.softcap = softcap;
  std::vector<SequenceCall> calls;
  std::vector<View> views;  // of what the calls point to
  for (size_t i = 0; i < caches.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    SequenceCall& call = calls.emplace_back(caches[i]->Call());
    if (caches[i]->config().key_head_dim != config.key_head_dim ||
        caches[i]->config().value_head_dim != config.value_head_dim) {
      throw Error(ErrorCode::kParameter, "caches have different head_dims");
    }
    call.num_queries = static_cast<int>(count);
    call.queries = FloatsOf(query_rows, "queries") + row * query_rows.strides[0];
    call.query_stride = query_rows.strides[2];
    call.query_head_stride = query_rows.strides[1];
    call.output = FloatsOf(outputs, "out") + row * outputs.strides[0];
    call.output_stride = outputs.strides[1];
    call.output_head_stride = outputs.strides[2];
    const int64_t held = call.num_cells - call.first_cell;
    if (masks.empty() || !masks[i] || held == 0) continue;
    const View& mask =
        views.emplace_back(ViewOf(*masks[i], "mask", std::array<int64_t, 2>{count, held}));
    if (mask.type != NumberType::kF16) {
      throw Error(ErrorCode::kUnsupported, "mask must be float16");
    }
    call.mask = static_cast<const uint16_t*>(mask.data);
    call.mask_stride = mask.strides[0];
  }
  if (sinks) {
    const View& of_heads =
        views.emplace_back(ViewOf(*sinks, "sinks", std::array<int64_t, 1>{num_heads}));
    batch.sinks = FloatsOf(of_heads, "sinks");
  }
  batch.sequences = calls;
  const Executor executor{NumThreads(threads)};
  const nb::gil_scoped_release released;
  Attend(batch, executor);
}

}  // namespace

void BindBatch(nb::module_& module) {
  module.def("append_batch", &Append, "caches"_a, "keys"_a.noconvert(), "values"_a.noconvert(),
             "skip"_a, "threads"_a = 0,
             "SequenceCache.append for every row of [rows, num_kv_heads, n, head_dim]; of row i "
             "the first skip[i]\ntokens are left out.");
  module.def("settle_batch", &Settle, "caches"_a, "threads"_a = 0, "SequenceCache.settle of all.");
  module.def("attend_batch", &AttendTo, "caches"_a, "queries"_a.noconvert(), "out"_a.noconvert(),
             "scale"_a, "softcap"_a = 0.0f, "masks"_a = std::vector<std::optional<AnyArray>>(),
             "sinks"_a.noconvert() = nb::none(), "causal"_a = true, "window"_a = 0, "threads"_a = 0,
             "SequenceCache.attend for every row, computed together.\n\n"
             "queries float32 [rows, num_q_heads, n, key_head_dim], out float32 [rows, n, "
             "num_q_heads,\nvalue_head_dim]; masks: for each row float16 [n, tokens held] or None. "
             "An empty cache gives zeros.\nwindow: a query sees only the newest `window` tokens up "
             "to its own; 0: all.");
}

}  // namespace polarquant::python
