// SPDX-License-Identifier: Apache-2.0
// Host: C. Attention.
#include "polarquant/attention.h"

#include "checks.h"
#include "handles.h"

using namespace polarquant;
using namespace polarquant::c;

namespace {

constexpr int32_t kMaxQueryHeads = 65536;

// The rows that are attended to.
AttentionCall RowsOf(const pq_attention& from) {
  const bool stores = from.keys != nullptr || from.values != nullptr;
  if (stores == (from.sequence != nullptr)) {
    Refuse(std::string("attention has ") + (stores ? "cell stores and a sequence" : "no rows") +
           "; set either keys and values, or sequence");
  }
  if (from.sequence != nullptr) {
    if (from.first_cell != 0 || from.num_cells != 0) {
      Refuse("first_cell is " + std::to_string(from.first_cell) + " and num_cells " +
             std::to_string(from.num_cells) +
             "; with a sequence both must be 0: it is attended to as far as it goes");
    }
    return from.sequence->cache.Call();
  }
  AttentionCall call;
  call.keys = &Needed(from.keys, "keys").store;
  call.values = &Needed(from.values, "values").store;
  call.first_cell = from.first_cell;
  call.num_cells = from.num_cells;
  return call;
}

void CheckStrides(const pq_attention& from, const AttentionCall& call) {
  const int64_t dim_k = call.keys->shape().head_dim, dim_v = call.values->shape().head_dim;
  CheckStride("query_stride", from.query_stride, from.num_queries, dim_k);
  CheckStride("query_head_stride", from.query_head_stride, from.num_q_heads, dim_k);
  CheckApart({"output_stride", from.output_stride, from.num_queries},
             {"output_head_stride", from.output_head_stride, from.num_q_heads}, dim_v);
}

}  // namespace

pq_status pq_attend(const pq_attention* attention, int32_t num_threads) {
  return Guard([&] {
    const pq_attention from = Taken<pq_attention>(attention, "attention", PQ_ATTENTION_INIT);
    AttentionCall call = RowsOf(from);
    CheckThreads(num_threads);
    CheckRange<int32_t>("num_q_heads", from.num_q_heads, 1, kMaxQueryHeads);
    CheckRange<int32_t>("num_queries", from.num_queries, 0, INT32_MAX);
    CheckStrides(from, call);
    call.num_q_heads = from.num_q_heads;
    call.num_queries = from.num_queries;
    call.queries = from.queries;
    call.query_stride = from.query_stride;
    call.query_head_stride = from.query_head_stride;
    call.mask = from.mask;
    call.mask_stride = from.mask_stride;
    call.causal = FlagOf("causal", from.causal);
    call.sinks = from.sinks;
    call.scale = from.scale;
    call.softcap = from.softcap;
    call.max_bias = from.max_bias;
    call.output = from.output;
    call.output_stride = from.output_stride;
    call.output_head_stride = from.output_head_stride;
    call.lse = from.lse;
    Attend(call, num_threads);
  });
}
