// SPDX-License-Identifier: Apache-2.0
// Stage 6/7 attend: what the fast path and the reference agree on before they start.
#pragma once

#include <vector>

#include "polarquant/attention.h"
#include "polarquant/error.h"

namespace polarquant {

// Throw Error(kParameter) naming the first thing that does not fit: of what a plan is made from,
// and of all.
void CheckShapes(const AttentionBatch& batch);
void CheckBatch(const AttentionBatch& batch);
void CheckExecutor(const Executor& executor);

// A batch of one, that looks at the call.
AttentionBatch BatchOf(const AttentionCall& call);

// The cells that query n of a sequence may see, before any mask: [begin, end) within [first_cell,
// num_cells). Neither end goes back from one query to the next.
struct CellRange {
  int64_t begin, end;
};
inline CellRange SeenBy(const AttentionTerms& terms, const SequenceCall& call, int query) {
  CellRange seen = {call.first_cell, call.num_cells};
  const int64_t after_own = call.num_cells - (call.num_queries - 1 - query);
  if (terms.causal && after_own < seen.end) seen.end = after_own;
  if (terms.window > 0 && after_own - terms.window > seen.begin) {
    seen.begin = after_own - terms.window;
  }
  if (seen.end < seen.begin) seen.end = seen.begin;
  return seen;
}

// ALiBi's slope of every query head; ones without max_bias.
void SlopesOf(const AttentionTerms& terms, std::vector<float>* slopes);

}  // namespace polarquant
