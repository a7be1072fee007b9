// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend, the specification: decoded rows, double precision, plain loops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/checks.h"
#include "polarquant/attention.h"
#include "util/half.h"

namespace polarquant {
namespace {

[[noreturn]] void Fail(const std::string& message) { throw Error(ErrorCode::kParameter, message); }

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

}  // namespace

void CheckCall(const AttentionCall& call) {
  if (call.keys == nullptr || call.values == nullptr) Fail("attention needs keys and values");
  const PagedRows::Shape &keys = call.keys->shape(), &values = call.values->shape();
  if (keys.role != Role::kKey || values.role != Role::kValue) {
    Fail(std::string("attention was given ") + (keys.role == Role::kKey ? "keys" : "values") +
         " as keys and " + (values.role == Role::kKey ? "keys" : "values") +
         " as values: rows of each role are kept in an order of their own");
  }
  const auto same = [](int64_t k, int64_t v, const char* what) {
    if (k == v) return;
    Fail(std::string(what) + " is " + std::to_string(k) + " for the keys and " + std::to_string(v) +
         " for the values; they must be equal");
  };
  same(call.keys->num_cells(), call.values->num_cells(), "num_cells");
  same(keys.num_kv_heads, values.num_kv_heads, "num_kv_heads");
  same(keys.page_tokens, values.page_tokens, "page_tokens");
  if (call.num_cells < 0 || call.num_cells > call.keys->num_cells()) {
    Fail("num_cells is " + std::to_string(call.num_cells) + "; the stores have " +
         std::to_string(call.keys->num_cells()));
  }
  if (call.first_cell < 0 || call.first_cell > call.num_cells) {
    Fail("first_cell is " + std::to_string(call.first_cell) + "; it must be in [0, " +
         std::to_string(call.num_cells) + "], up to num_cells");
  }
  if (call.num_q_heads <= 0 || call.num_q_heads % keys.num_kv_heads != 0) {
    Fail("num_q_heads is " + std::to_string(call.num_q_heads) + "; it must be a multiple of the " +
         std::to_string(keys.num_kv_heads) + " kv_heads");
  }
  if (call.num_queries < 0) {
    Fail("num_queries is " + std::to_string(call.num_queries) + "; it cannot be negative");
  }
  if (call.num_queries == 0) return;
  if (call.queries == nullptr || call.output == nullptr) {
    Fail("attention needs queries and an output");
  }
  if (call.mask != nullptr && call.num_queries > 1 &&
      call.mask_stride < call.num_cells - call.first_cell) {
    Fail("mask_stride is " + std::to_string(call.mask_stride) + "; rows have " +
         std::to_string(call.num_cells - call.first_cell) + " cells");
  }
  if (call.causal && call.num_queries > call.num_cells - call.first_cell) {
    Fail("num_queries is " + std::to_string(call.num_queries) + "; causal attention over " +
         std::to_string(call.num_cells - call.first_cell) + " cells has at most as many");
  }
  if (!std::isfinite(call.scale) || !std::isfinite(call.softcap) || call.softcap < 0.0f ||
      !std::isfinite(call.max_bias) || call.max_bias < 0.0f) {
    Fail("scale, softcap and max_bias must be finite, the last two not negative; they are " +
         std::to_string(call.scale) + ", " + std::to_string(call.softcap) + " and " +
         std::to_string(call.max_bias));
  }
}

void AttendReference(const AttentionCall& call) {
  CheckCall(call);
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  const int num_kv_heads = call.keys->shape().num_kv_heads;
  const int group = call.num_q_heads / num_kv_heads;
  const int dim_k = call.keys->shape().head_dim, dim_v = call.values->shape().head_dim;
  const std::vector<float> keys = DecodedRows(*call.keys, call.first_cell, call.num_cells);
  const std::vector<float> values = DecodedRows(*call.values, call.first_cell, call.num_cells);
  const double sharpen = call.keys->shape().scheme.sharpen / 100.0;
  std::vector<float> slopes;
  SlopesOf(call, &slopes);
  std::vector<double> logits(static_cast<size_t>(call.num_cells));
  std::vector<double> acc(static_cast<size_t>(dim_v));
  for (int n = 0; n < call.num_queries; ++n) {
    for (int h = 0; h < call.num_q_heads; ++h) {
      const int kv_head = h / group;
      const float* query = call.queries + h * call.query_head_stride + n * call.query_stride;
      double max = call.sinks != nullptr ? static_cast<double>(call.sinks[h]) : kHidden;
      const int64_t end =
          call.causal ? call.num_cells - (call.num_queries - 1 - n) : call.num_cells;
      for (int64_t cell = call.first_cell; cell < end; ++cell) {
        const float* key = keys.data() + (cell * num_kv_heads + kv_head) * dim_k;
        double x = 0.0;
        for (int i = 0; i < dim_k; ++i) x += static_cast<double>(query[i]) * key[i];
        x *= static_cast<double>(call.scale);
        if (sharpen != 1.0 && IsCoded(*call.keys, cell)) x *= sharpen;
        if (call.softcap != 0.0f) {
          const double cap = static_cast<double>(call.softcap);
          x = cap * std::tanh(x / cap);
        }
        if (call.mask != nullptr) {
          const double mask = static_cast<double>(
              HalfToFloat(call.mask[n * call.mask_stride + cell - call.first_cell]));
          x = mask == kHidden ? kHidden
                              : x + static_cast<double>(slopes[static_cast<size_t>(h)]) * mask;
        }
        logits[static_cast<size_t>(cell)] = x;
        max = std::max(max, x);
      }
      double sum = 0.0;
      if (call.sinks != nullptr) sum = std::exp(static_cast<double>(call.sinks[h]) - max);
      std::fill(acc.begin(), acc.end(), 0.0);
      for (int64_t cell = call.first_cell; cell < end; ++cell) {
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
        call.lse[static_cast<int64_t>(n) * call.num_q_heads + h] =
            static_cast<float>(sum == 0.0 ? kHidden : max + std::log(sum));
      }
    }
  }
}

}  // namespace polarquant
