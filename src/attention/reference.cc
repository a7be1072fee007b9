// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, the specification: decoded rows, double precision, plain loops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/checks.h"
#include "polarquant/attention.h"
#include "util/half.h"

namespace polarquant {
namespace {

// Cells before `first` stay zeros.
std::vector<float> DecodedRows(const PagedRows& store, int64_t first, int64_t num_cells) {
  const size_t row_values =
      static_cast<size_t>(store.shape().num_kv_heads) * static_cast<size_t>(store.shape().head_dim);
  std::vector<float> rows(static_cast<size_t>(num_cells) * row_values);
  for (int64_t cell = first; cell < num_cells; ++cell) {
    store.ReadRow(cell, rows.data() + static_cast<size_t>(cell) * row_values);
  }
  return rows;
}

bool IsCoded(const PagedRows& store, int64_t cell) {
  const int page_tokens = store.shape().page_tokens;
  const auto slot = static_cast<size_t>(cell % page_tokens);
  const PageView view = store.View(cell / page_tokens, 0);
  return view.page != nullptr && (view.exact[slot / 64] >> (slot % 64) & 1) == 0;
}

void AttendSequence(const AttentionTerms& terms, const SequenceCall& call) {
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  const int num_kv_heads = call.keys->shape().num_kv_heads;
  const int group = terms.num_q_heads / num_kv_heads;
  const int dim_k = call.keys->shape().head_dim, dim_v = call.values->shape().head_dim;
  const std::vector<float> keys = DecodedRows(*call.keys, call.first_cell, call.num_cells);
  const std::vector<float> values = DecodedRows(*call.values, call.first_cell, call.num_cells);
  const double sharpen = call.keys->shape().scheme.sharpen / 100.0;
  std::vector<float> slopes;
  SlopesOf(terms, &slopes);
  std::vector<double> logits(static_cast<size_t>(call.num_cells));
  std::vector<double> acc(static_cast<size_t>(dim_v));
  for (int n = 0; n < call.num_queries; ++n) {
    const CellRange seen = SeenBy(terms, call, n);
    for (int h = 0; h < terms.num_q_heads; ++h) {
      const int kv_head = h / group;
      const float* query = call.queries + h * call.query_head_stride + n * call.query_stride;
      double max = terms.sinks != nullptr ? static_cast<double>(terms.sinks[h]) : kHidden;
      for (int64_t cell = seen.begin; cell < seen.end; ++cell) {
        const float* key = keys.data() + (cell * num_kv_heads + kv_head) * dim_k;
        double x = 0.0;
        for (int i = 0; i < dim_k; ++i) x += static_cast<double>(query[i]) * key[i];
        x *= static_cast<double>(terms.scale);
        if (sharpen != 1.0 && IsCoded(*call.keys, cell)) x *= sharpen;
        if (terms.softcap != 0.0f) {
          const double cap = static_cast<double>(terms.softcap);
          x = cap * std::tanh(x / cap);
        }
        if (call.mask != nullptr) {
          const double mask = static_cast<double>(
              HalfToFloat(call.mask[n * call.mask_stride + cell - call.first_cell]));
          const bool hidden = mask == kHidden || std::isnan(mask);
          x = hidden ? kHidden : x + static_cast<double>(slopes[static_cast<size_t>(h)]) * mask;
        }
        logits[static_cast<size_t>(cell)] = x;
        max = std::max(max, x);
      }
      double sum = 0.0;
      if (terms.sinks != nullptr) sum = std::exp(static_cast<double>(terms.sinks[h]) - max);
      std::fill(acc.begin(), acc.end(), 0.0);
      for (int64_t cell = seen.begin; cell < seen.end; ++cell) {
        if (logits[static_cast<size_t>(cell)] == kHidden) continue;
        const double weight = std::exp(logits[static_cast<size_t>(cell)] - max);
        const float* value = values.data() + (cell * num_kv_heads + kv_head) * dim_v;
        sum += weight;
        for (int i = 0; i < dim_v; ++i) acc[static_cast<size_t>(i)] += weight * value[i];
      }
      float* out = call.output + h * call.output_head_stride + n * call.output_stride;
      for (int i = 0; i < dim_v; ++i) {
        out[i] = sum == 0.0 ? 0.0f : static_cast<float>(acc[static_cast<size_t>(i)] / sum);
      }
      if (call.lse != nullptr) {
        call.lse[static_cast<int64_t>(n) * terms.num_q_heads + h] =
            static_cast<float>(sum == 0.0 ? kHidden : max + std::log(sum));
      }
    }
  }
}

}  // namespace

void AttendReference(const AttentionBatch& batch) {
  CheckBatch(batch);
  for (const SequenceCall& call : batch.sequences) AttendSequence(batch, call);
}

void AttendReference(const AttentionCall& call) { AttendReference(BatchOf(call)); }

}  // namespace polarquant
