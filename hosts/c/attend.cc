// SPDX-License-Identifier: Apache-2.0
// Host: C. Attention.
#include <vector>

#include "checks.h"
#include "handles.h"
#include "polarquant/attention.h"

using namespace polarquant;
using namespace polarquant::c;

namespace {

constexpr int32_t kMaxQueryHeads = 65536;
constexpr int64_t kMaxSequences = 1 << 20;

// pq_attention and pq_attention_sequence name their fields alike.
template <typename From>
SequenceCall RowsOf(const From& from) {
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
    const AttentionCall call = from.sequence->cache.Call();
    return static_cast<const SequenceCall&>(call);
  }
  SequenceCall call;
  call.keys = &Needed(from.keys, "keys").store;
  call.values = &Needed(from.values, "values").store;
  call.first_cell = from.first_cell;
  call.num_cells = from.num_cells;
  return call;
}

template <typename From>
SequenceCall SequenceOf(const From& from, int32_t num_q_heads) {
  SequenceCall call = RowsOf(from);
  const int64_t dim_k = call.keys->shape().head_dim, dim_v = call.values->shape().head_dim;
  CheckRange<int32_t>("num_queries", from.num_queries, 0, INT32_MAX);
  CheckStride("query_stride", from.query_stride, from.num_queries, dim_k);
  CheckStride("query_head_stride", from.query_head_stride, num_q_heads, dim_k);
  CheckApart({"output_stride", from.output_stride, from.num_queries},
             {"output_head_stride", from.output_head_stride, num_q_heads}, dim_v);
  call.num_queries = from.num_queries;
  call.queries = from.queries;
  call.query_stride = from.query_stride;
  call.query_head_stride = from.query_head_stride;
  call.mask = from.mask;
  call.mask_stride = from.mask_stride;
  call.output = from.output;
  call.output_stride = from.output_stride;
  call.output_head_stride = from.output_head_stride;
  call.lse = from.lse;
  return call;
}

template <typename From>
AttentionTerms TermsOf(const From& from) {
  CheckRange<int32_t>("num_q_heads", from.num_q_heads, 1, kMaxQueryHeads);
  AttentionTerms terms;
  terms.num_q_heads = from.num_q_heads;
  terms.causal = FlagOf("causal", from.causal);
  terms.sinks = from.sinks;
  terms.scale = from.scale;
  terms.softcap = from.softcap;
  terms.max_bias = from.max_bias;
  return terms;
}

std::vector<SequenceCall> SequencesOf(const pq_attention_batch& from) {
  CheckRange<int64_t>("num_sequences", from.num_sequences, 0, kMaxSequences);
  std::vector<SequenceCall> calls;
  if (from.num_sequences == 0) return calls;
  // The caller's structs may be shorter or longer than ours; they lie one after another.
  const auto* next = reinterpret_cast<const std::byte*>(&Needed(from.sequences, "sequences"));
  const size_t bytes = from.sequences->struct_size;
  for (int64_t i = 0; i < from.num_sequences; ++i, next += bytes) {
    const std::string name = "sequences[" + std::to_string(i) + "]";
    const auto* given = reinterpret_cast<const pq_attention_sequence*>(next);
    CheckBytes((name + ".struct_size").c_str(), given->struct_size, bytes);
    const auto sequence =
        Taken<pq_attention_sequence>(given, name.c_str(), PQ_ATTENTION_SEQUENCE_INIT);
    CheckReserved(sequence.reserved);
    calls.push_back(SequenceOf(sequence, from.num_q_heads));
  }
  return calls;
}

Executor ExecutorOf(const pq_executor* given) {
  const auto from = Taken<pq_executor>(given, "executor", PQ_EXECUTOR_INIT);
  CheckThreads(from.num_threads);
  if (from.device != 0 || from.stream != nullptr) {
    throw Error(ErrorCode::kUnsupported,
                "executor names device " + std::to_string(from.device) +
                    (from.stream != nullptr ? " and a stream" : "") +
                    "; there is only the processor: device 0, stream NULL");
  }
  return Executor{from.num_threads};
}

}  // namespace

pq_status pq_attend(const pq_attention* attention, int32_t num_threads) {
  return Guard([&] {
    const pq_attention from = Taken<pq_attention>(attention, "attention", PQ_ATTENTION_INIT);
    CheckThreads(num_threads);
    AttentionCall call;
    static_cast<AttentionTerms&>(call) = TermsOf(from);
    static_cast<SequenceCall&>(call) = SequenceOf(from, from.num_q_heads);
    Attend(call, num_threads);
  });
}

pq_status pq_attend_batch(const pq_attention_batch* batch, const pq_executor* executor) {
  return Guard([&] {
    const auto from = Taken<pq_attention_batch>(batch, "batch", PQ_ATTENTION_BATCH_INIT);
    const Executor by = ExecutorOf(executor);
    CheckReserved(from.reserved);
    AttentionBatch call;
    static_cast<AttentionTerms&>(call) = TermsOf(from);
    call.window = from.window;
    const std::vector<SequenceCall> sequences = SequencesOf(from);
    call.sequences = sequences;
    Attend(call, by);
  });
}
