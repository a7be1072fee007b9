// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: what is refused, and what the fast path and the reference compute alike.
#include "attention/checks.h"

#include <cmath>
#include <string>

namespace polarquant {
namespace {

[[noreturn]] void Fail(const std::string& message) { throw Error(ErrorCode::kParameter, message); }

void CheckSequence(const AttentionTerms& terms, const SequenceCall& call) {
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
  if (terms.num_q_heads <= 0 || terms.num_q_heads % keys.num_kv_heads != 0) {
    Fail("num_q_heads is " + std::to_string(terms.num_q_heads) + "; it must be a multiple of the " +
         std::to_string(keys.num_kv_heads) + " kv_heads");
  }
  if (call.num_queries < 0) {
    Fail("num_queries is " + std::to_string(call.num_queries) + "; it cannot be negative");
  }
  if (call.num_queries == 0) return;
  if (call.mask != nullptr && call.num_queries > 1 &&
      call.mask_stride < call.num_cells - call.first_cell) {
    Fail("mask_stride is " + std::to_string(call.mask_stride) + "; rows have " +
         std::to_string(call.num_cells - call.first_cell) + " cells");
  }
  const int64_t cells = call.num_cells - call.first_cell;
  if (terms.causal && cells > 0 && call.num_queries > cells) {
    Fail("num_queries is " + std::to_string(call.num_queries) + "; causal attention over " +
         std::to_string(cells) + " cells has at most as many");
  }
}

void CheckAlike(const PagedRows::Shape& first, const PagedRows::Shape& other, size_t index) {
  const auto same = [&](int a, int b, const char* what) {
    if (a == b) return;
    Fail(std::string(what) + " is " + std::to_string(a) +
         " for the first sequence of the batch and " + std::to_string(b) + " for sequence " +
         std::to_string(index) + "; they must be equal");
  };
  same(first.num_kv_heads, other.num_kv_heads, "num_kv_heads");
  same(first.page_tokens, other.page_tokens, "page_tokens");
}

}  // namespace

void CheckShapes(const AttentionBatch& batch) {
  const AttentionTerms& terms = batch;
  if (!std::isfinite(terms.scale) || !std::isfinite(terms.softcap) || terms.softcap < 0.0f ||
      !std::isfinite(terms.max_bias) || terms.max_bias < 0.0f) {
    Fail("scale, softcap and max_bias must be finite, the last two not negative; they are " +
         std::to_string(terms.scale) + ", " + std::to_string(terms.softcap) + " and " +
         std::to_string(terms.max_bias));
  }
  if (terms.window < 0) {
    Fail("window is " + std::to_string(terms.window) + "; it must be 0, all cells, or more");
  }
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    CheckSequence(batch, batch.sequences[i]);
    CheckAlike(batch.sequences[0].keys->shape(), batch.sequences[i].keys->shape(), i);
  }
}

void CheckBatch(const AttentionBatch& batch) {
  CheckShapes(batch);
  for (const SequenceCall& call : batch.sequences) {
    if (call.num_queries > 0 && (call.queries == nullptr || call.output == nullptr)) {
      Fail("attention needs queries and an output");
    }
  }
}

void CheckExecutor(const Executor& executor) {
  if (executor.num_threads >= 1) return;
  Fail("num_threads is " + std::to_string(executor.num_threads) + "; give at least 1");
}

AttentionBatch BatchOf(const AttentionCall& call) {
  AttentionBatch batch;
  static_cast<AttentionTerms&>(batch) = static_cast<const AttentionTerms&>(call);
  batch.sequences = {static_cast<const SequenceCall*>(&call), 1};
  return batch;
}

void SlopesOf(const AttentionTerms& terms, std::vector<float>* slopes) {
  slopes->assign(static_cast<size_t>(terms.num_q_heads), 1.0f);
  if (terms.max_bias <= 0.0f) return;
  int whole = 1;  // the largest power of two among the heads
  while (whole * 2 <= terms.num_q_heads) whole *= 2;
  const double base = std::exp2(-static_cast<double>(terms.max_bias) / whole);
  const double half_base = std::exp2(-static_cast<double>(terms.max_bias) / 2 / whole);
  for (int h = 0; h < terms.num_q_heads; ++h) {
    (*slopes)[static_cast<size_t>(h)] = static_cast<float>(
        h < whole ? std::pow(base, h + 1) : std::pow(half_base, 2 * (h - whole) + 1));
  }
}

}  // namespace polarquant
