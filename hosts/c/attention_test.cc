// SPDX-License-Identifier: Apache-2.0
// Attention through C: bit for bit what it is through C++, and what it refuses.
#include "polarquant/attention.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "polarquant/cell_store.h"
#include "sequence_testing.h"

namespace polarquant {
namespace {

using namespace c_testing;

constexpr int kQueryHeads = 4, kQueries = 3, kDimK = 64, kDimV = 32;
constexpr uint16_t kHidden = 0xfc00;
constexpr size_t kOutput = kQueries * kQueryHeads * kDimV;

// Queries and outputs [query][head][channel].
struct Call {
  Floats queries = Random(kQueries * kQueryHeads * kDimK, 11);
  Floats output = Floats(kOutput), lse = Floats(kQueries * kQueryHeads);
  pq_attention c = PQ_ATTENTION_INIT;

  Call() {
    c.num_q_heads = kQueryHeads;
    c.num_queries = kQueries;
    c.queries = queries.data();
    c.query_stride = kQueryHeads * kDimK;
    c.query_head_stride = kDimK;
    c.scale = 0.125f;
    c.output = output.data();
    c.output_stride = kQueryHeads * kDimV;
    c.output_head_stride = kDimV;
    c.lse = lse.data();
  }

  // That C gives what C++ gives for these rows.
  void Compare(AttentionCall rows) {
    ASSERT_TRUE(Ok(pq_attend(&c, 1)));
    Floats expected(output.size()), expected_lse(lse.size());
    rows.num_q_heads = c.num_q_heads;
    rows.num_queries = c.num_queries;
    rows.queries = c.queries;
    rows.query_stride = c.query_stride;
    rows.query_head_stride = c.query_head_stride;
    rows.mask = c.mask;
    rows.mask_stride = c.mask_stride;
    rows.causal = c.causal != 0;
    rows.sinks = c.sinks;
    rows.scale = c.scale;
    rows.softcap = c.softcap;
    rows.max_bias = c.max_bias;
    rows.output = expected.data();
    rows.output_stride = c.output_stride;
    rows.output_head_stride = c.output_head_stride;
    rows.lse = c.lse == nullptr ? nullptr : expected_lse.data();
    Attend(rows, 1);
    EXPECT_EQ(output, expected);
    if (c.lse == nullptr) return;
    EXPECT_EQ(lse, expected_lse);
  }
};

struct Sequence : Twins {
  Sequence() {
    Append(300);
    Settle();
    Append(40);
  }
};

TEST(CAttention, IsThatOfCxxOverASequence) {
  const Sequence sequence;
  Call call;
  call.c.sequence = sequence.c.get();
  call.Compare(sequence.cpp->Call());
  EXPECT_NE(call.output, Floats(kOutput));
  call.c.causal = 1;
  call.Compare(sequence.cpp->Call());
  call.c.softcap = 5.0f;
  call.Compare(sequence.cpp->Call());
  const Floats sinks = {1.0f, -2.0f, 0.5f, 3.0f};
  call.c.sinks = sinks.data();
  call.Compare(sequence.cpp->Call());
  call.c.lse = nullptr;
  call.Compare(sequence.cpp->Call());
}

TEST(CAttention, HonoursEveryOption) {
  const Sequence sequence;
  Call plain;
  plain.c.sequence = sequence.c.get();
  ASSERT_TRUE(Ok(pq_attend(&plain.c, 1)));
  const auto changes = [&](auto change) {
    Call call;
    call.c.sequence = sequence.c.get();
    change(call.c);
    ASSERT_TRUE(Ok(pq_attend(&call.c, 1)));
    EXPECT_NE(call.output, plain.output);
    EXPECT_NE(call.lse, plain.lse);
  };
  const Floats sinks(kQueryHeads, 2.0f);
  std::vector<uint16_t> mask(kQueries * 340, 0xbc00);  // -1
  mask[0] = kHidden;
  changes([](pq_attention& c) { c.causal = 1; });
  changes([](pq_attention& c) { c.softcap = 1.0f; });
  changes([](pq_attention& c) { c.scale = 0.5f; });
  changes([&](pq_attention& c) { c.sinks = sinks.data(); });
  changes([&](pq_attention& c) { c.mask = mask.data(), c.mask_stride = 340; });
  changes([&](pq_attention& c) { c.mask = mask.data(), c.mask_stride = 340, c.max_bias = 8.0f; });
}

TEST(CAttention, ReadsAMaskFromTheFirstTokenHeldOn) {
  const Sequence sequence;
  ASSERT_TRUE(Ok(pq_sequence_cache_evict_front(sequence.c.get(), 70)));
  sequence.cpp->EvictFront(70);
  constexpr int64_t kHeld = 270, kStride = kHeld + 6;
  std::vector<uint16_t> mask(kQueries * kStride, kHidden);
  for (int n = 0; n < kQueries; ++n) mask[static_cast<size_t>(n * kStride + 10 + n)] = 0;
  Call call;
  call.c.sequence = sequence.c.get();
  call.c.mask = mask.data();
  call.c.mask_stride = kStride;
  call.Compare(sequence.cpp->Call());
  // A query that sees one token gets its value, whatever the keys are.
  Floats value(2 * kDimV);
  ASSERT_TRUE(
      Ok(pq_sequence_cache_read(sequence.c.get(), PQ_VALUE, 81, 1, value.data(), 64, kDimV, 1)));
  for (int h = 0; h < kQueryHeads; ++h) {
    for (int i = 0; i < kDimV; ++i) {
      EXPECT_NEAR(call.output[static_cast<size_t>((kQueryHeads + h) * kDimV + i)],
                  value[static_cast<size_t>(h / 2 * kDimV + i)], 1e-2f);
    }
  }
  std::fill(mask.begin(), mask.end(), kHidden);  // one that sees none gets zeros
  call.Compare(sequence.cpp->Call());
  EXPECT_EQ(call.output, Floats(kOutput));
  EXPECT_EQ(call.lse[0], -std::numeric_limits<float>::infinity());
}

TEST(CAttention, TakesQueriesAndGivesOutputsInAnyStrides) {
  const Sequence sequence;
  Call call;
  call.c.sequence = sequence.c.get();
  ASSERT_TRUE(Ok(pq_attend(&call.c, 1)));
  constexpr int64_t kQueryStride = kDimK + 1, kQueryHeadStride = kQueries * kQueryStride + 2;
  constexpr int64_t kOutStride = kDimV + 3, kOutHeadStride = kQueries * kOutStride + 5;
  Floats queries(kQueryHeads * kQueryHeadStride), output(kQueryHeads * kOutHeadStride, 9.0f);
  for (int64_t n = 0; n < kQueries; ++n) {
    for (int64_t h = 0; h < kQueryHeads; ++h) {
      std::copy_n(call.queries.data() + (n * kQueryHeads + h) * kDimK, kDimK,
                  queries.data() + h * kQueryHeadStride + n * kQueryStride);
    }
  }
  pq_attention c = call.c;
  c.queries = queries.data();
  c.query_stride = kQueryStride;
  c.query_head_stride = kQueryHeadStride;
  c.output = output.data();
  c.output_stride = kOutStride;
  c.output_head_stride = kOutHeadStride;
  ASSERT_TRUE(Ok(pq_attend(&c, 1)));
  for (size_t i = 0; i < output.size(); ++i) {
    const auto h = static_cast<int64_t>(i) / kOutHeadStride;
    const auto at = static_cast<int64_t>(i) % kOutHeadStride;
    const int64_t n = at / kOutStride, channel = at % kOutStride;
    const bool gap = n >= kQueries || channel >= kDimV;
    const auto dense = static_cast<size_t>((n * kQueryHeads + h) * kDimV + channel);
    ASSERT_EQ(output[i], gap ? 9.0f : call.output[dense]) << i;
  }
}

// Keys and values in cell stores, half of them coded.
struct Stores {
  CellStorePtr keys, values;
  std::unique_ptr<CellStore> cpp_keys, cpp_values;

  Stores() {
    for (const bool value : {false, true}) {
      const int dim = value ? kDimV : kDimK;
      pq_cell_store_config config = PQ_CELL_STORE_CONFIG_INIT;
      config.scheme = value ? "turbo3" : "turbo4:center";
      config.role = value ? PQ_VALUE : PQ_KEY;
      config.head_dim = dim;
      config.num_kv_heads = 2;
      config.num_cells = 400;
      config.window_tokens = 16;
      CellStore::Config cpp;
      cpp.scheme = Scheme::Parse(config.scheme);
      cpp.role = value ? Role::kValue : Role::kKey;
      cpp.head_dim = dim;
      cpp.num_kv_heads = 2;
      cpp.num_cells = 400;
      cpp.window_tokens = 16;
      pq_cell_store* c = nullptr;
      EXPECT_TRUE(Ok(pq_cell_store_create(&config, &c)));
      auto store = std::make_unique<CellStore>(cpp);
      const auto cells = Cells(0, 300);
      const Floats rows = Random(static_cast<size_t>(300 * 2 * dim), value ? 3 : 4);
      EXPECT_TRUE(Ok(pq_cell_store_write(c, cells.data(), 300, rows.data(), 2 * dim, nullptr, 1)));
      EXPECT_TRUE(Ok(pq_cell_store_settle(c, 1)));
      store->Write(cells, rows.data(), 2 * dim, 1);
      store->Settle(1);
      (value ? values : keys).reset(c);
      (value ? cpp_values : cpp_keys) = std::move(store);
    }
  }
};

TEST(CAttention, IsThatOfCxxOverCellStores) {
  const Stores stores;
  std::vector<uint16_t> mask(kQueries * 400);
  for (size_t i = 0; i < mask.size(); i += 3) mask[i] = kHidden;
  for (const int64_t first : {0, 64, 100}) {
    for (const bool masked : {false, true}) {
      Call call;
      call.c.keys = stores.keys.get();
      call.c.values = stores.values.get();
      call.c.first_cell = first;
      call.c.num_cells = 300;
      if (masked) call.c.mask = mask.data(), call.c.mask_stride = 400;
      AttentionCall rows;
      rows.keys = stores.cpp_keys.get();
      rows.values = stores.cpp_values.get();
      rows.first_cell = first;
      rows.num_cells = 300;
      call.Compare(rows);
    }
  }
}

TEST(CAttention, GivesTheSameWithMoreThreadsUpToRounding) {
  const Sequence sequence;
  Call one, many;
  one.c.sequence = many.c.sequence = sequence.c.get();
  ASSERT_TRUE(Ok(pq_attend(&one.c, 1)));
  ASSERT_TRUE(Ok(pq_attend(&many.c, 4)));
  for (size_t i = 0; i < kOutput; ++i) EXPECT_NEAR(many.output[i], one.output[i], 1e-5f);
}

TEST(CAttention, MayReadOneSequenceFromSeveralThreads) {
  const Sequence sequence;
  Call expected;
  expected.c.sequence = sequence.c.get();
  ASSERT_TRUE(Ok(pq_attend(&expected.c, 1)));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      Call call;
      call.c.sequence = sequence.c.get();
      EXPECT_TRUE(Ok(pq_attend(&call.c, 1)));
      EXPECT_EQ(call.output, expected.output);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(CAttention, HasNothingToDoForNoQueries) {
  const Sequence sequence;
  Call call;
  call.c.sequence = sequence.c.get();
  call.c.num_queries = 0;
  call.c.queries = nullptr;
  call.c.output = nullptr;
  EXPECT_TRUE(Ok(pq_attend(&call.c, 1)));
}

// Three sequences of other lengths, the last one empty.
struct CBatch {
  Sequence first;
  Twins second, empty;
  std::vector<Call> calls = std::vector<Call>(3);
  std::vector<pq_attention_sequence> sequences =
      std::vector<pq_attention_sequence>(3, PQ_ATTENTION_SEQUENCE_INIT);
  std::vector<uint16_t> mask = std::vector<uint16_t>(kQueries * 90);
  pq_attention_batch c = PQ_ATTENTION_BATCH_INIT;
  pq_executor executor = PQ_EXECUTOR_INIT;

  CBatch() {
    second.Append(90);
    for (size_t i = 0; i < mask.size(); i += 3) mask[i] = i % 2 == 0 ? kHidden : uint16_t{0x7e00};
    const pq_sequence_cache* caches[] = {first.c.get(), second.c.get(), empty.c.get()};
    for (size_t i = 0; i < 3; ++i) {
      pq_attention& one = calls[i].c;
      one.sequence = caches[i];
      if (i == 1) one.num_queries = 1, one.mask = mask.data(), one.mask_stride = 90;
      pq_attention_sequence& of = sequences[i];
      of.sequence = one.sequence;
      of.queries = one.queries;
      of.query_stride = one.query_stride;
      of.query_head_stride = one.query_head_stride;
      of.mask = one.mask;
      of.mask_stride = one.mask_stride;
      of.output = one.output;
      of.output_stride = one.output_stride;
      of.output_head_stride = one.output_head_stride;
      of.lse = one.lse;
      of.num_queries = one.num_queries;
    }
    c.sequences = sequences.data();
    c.num_sequences = 3;
    c.num_q_heads = kQueryHeads;
    c.scale = 0.125f;
  }
};

TEST(CAttention, OfABatchIsThatOfItsSequencesOneByOne) {
  CBatch batch;
  for (const int32_t causal : {0, 1}) {
    ASSERT_TRUE(Ok([&] {
      batch.c.causal = causal;
      return pq_attend_batch(&batch.c, &batch.executor);
    }()));
    std::vector<Floats> together, lses;
    for (const Call& call : batch.calls) {
      together.push_back(call.output);
      lses.push_back(call.lse);
    }
    for (size_t i = 0; i < 3; ++i) {
      batch.calls[i].c.causal = causal;
      ASSERT_TRUE(Ok(pq_attend(&batch.calls[i].c, 1)));
      EXPECT_EQ(batch.calls[i].output, together[i]);
      EXPECT_EQ(batch.calls[i].lse, lses[i]);
    }
    EXPECT_EQ(together[2], Floats(kOutput));
    EXPECT_NE(together[0], Floats(kOutput));
  }
  const Floats all = batch.calls[0].output;
  batch.c.window = 20;
  batch.executor.num_threads = 2;
  ASSERT_TRUE(Ok(pq_attend_batch(&batch.c, &batch.executor)));
  EXPECT_NE(batch.calls[0].output, all);
  batch.c.num_sequences = 0;
  batch.c.sequences = nullptr;
  EXPECT_TRUE(Ok(pq_attend_batch(&batch.c, &batch.executor)));
}

TEST(CAttention, RefusesBatchesThatDoNotFitAndDevicesThereAreNot) {
  const auto refused = [](auto change, std::initializer_list<const char*> words,
                          pq_status status = PQ_ERROR_PARAMETER) {
    CBatch batch;
    change(batch);
    EXPECT_TRUE(Refused(status, pq_attend_batch(&batch.c, &batch.executor), words));
  };
  CBatch good;
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_attend_batch(nullptr, &good.executor), {"batch"}));
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_attend_batch(&good.c, nullptr), {"executor"}));
  refused([](CBatch& b) { b.executor.device = 1; }, {"device 1"}, PQ_ERROR_UNSUPPORTED);
  refused([](CBatch& b) { b.executor.stream = &b; }, {"stream"}, PQ_ERROR_UNSUPPORTED);
  refused([](CBatch& b) { b.executor.num_threads = 0; }, {"num_threads is 0"});
  refused([](CBatch& b) { b.executor.struct_size = 3; }, {"executor.struct_size is 3"});
  refused([](CBatch& b) { b.c.reserved = 1; }, {"reserved is 1"});
  refused([](CBatch& b) { b.c.window = -5; }, {"window is -5"});
  refused([](CBatch& b) { b.c.causal = 7; }, {"causal is 7"});
  refused([](CBatch& b) { b.c.num_sequences = -1; }, {"num_sequences is -1"});
  refused([](CBatch& b) { b.c.sequences = nullptr; }, {"sequences is NULL"});
  refused([](CBatch& b) { b.sequences[1].struct_size = 9; }, {"sequences[1].struct_size is 9"});
  refused([](CBatch& b) { b.sequences[1].struct_size += 8; }, {"sequences[1].struct_size is"});
  refused([](CBatch& b) { b.sequences[2].reserved = 2; }, {"reserved is 2"});
  refused([](CBatch& b) { b.sequences[2].sequence = nullptr; }, {"no rows"});
  refused([](CBatch& b) { b.sequences[0].output_stride = 64; }, {"output_stride is 64", "twice"});
}

TEST(CAttention, RefusesCallsThatDoNotFitAndSaysWhy) {
  const Sequence sequence;
  const Stores stores;
  const auto refused = [](const auto& base, auto change, std::initializer_list<const char*> words,
                          int32_t threads = 1) {
    Call call;
    base(call.c);
    change(call.c);
    EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_attend(&call.c, threads), words));
    EXPECT_EQ(call.output, Floats(kOutput));
  };
  using C = pq_attention;
  const auto of_sequence = [&](C& c) { c.sequence = sequence.c.get(); };
  const auto of_stores = [&](C& c) {
    c.keys = stores.keys.get(), c.values = stores.values.get(), c.num_cells = 300;
  };
  const auto nothing = [](C&) {};
  EXPECT_TRUE(Refused(PQ_ERROR_PARAMETER, pq_attend(nullptr, 1), {"attention is NULL"}));
  refused(nothing, nothing, {"no rows"});
  refused(of_sequence, of_stores, {"cell stores and a sequence"});
  refused(of_sequence, nothing, {"num_threads is 0"}, 0);
  refused(of_sequence, nothing, {"num_threads is 2000", "1024"}, 2000);
  refused(of_stores, [](C& c) { c.values = nullptr; }, {"values is NULL"});
  refused(of_stores, [](C& c) { c.keys = nullptr; }, {"keys is NULL"});
  refused(of_stores, [](C& c) { c.num_cells = 401; }, {"num_cells is 401", "400"});
  refused(of_stores, [](C& c) { c.first_cell = 301; }, {"first_cell is 301"});
  refused(of_stores, [](C& c) { c.first_cell = -1; }, {"first_cell is -1"});
  refused(of_sequence, [](C& c) { c.num_cells = 5; }, {"num_cells 5", "must be 0"});
  refused(of_sequence, [](C& c) { c.struct_size = 16; }, {"attention.struct_size is 16"});
  refused(of_sequence, [](C& c) { c.num_q_heads = 3; }, {"num_q_heads is 3", "multiple of the 2"});
  refused(of_sequence, [](C& c) { c.num_q_heads = 0; }, {"num_q_heads is 0"});
  refused(of_sequence, [](C& c) { c.num_queries = -1; }, {"num_queries is -1"});
  refused(of_sequence, [](C& c) { c.queries = nullptr; }, {"queries"});
  refused(of_sequence, [](C& c) { c.output = nullptr; }, {"output"});
  refused(of_sequence, [](C& c) { c.query_stride = 63; }, {"query_stride is 63", "64"});
  refused(of_sequence, [](C& c) { c.query_head_stride = 0; }, {"query_head_stride is 0"});
  refused(of_sequence, [](C& c) { c.output_stride = 31; }, {"output_stride is 31", "32"});
  refused(of_sequence, [](C& c) { c.output_head_stride = 1; }, {"output_head_stride is 1"});
  refused(of_sequence, [](C& c) { c.output_stride = 64; }, {"output_stride is 64", "twice"});
  refused(of_sequence, [](C& c) { c.causal = 2; }, {"causal is 2", "between 0 and 1"});
  refused(of_sequence, [](C& c) { c.scale = NAN; }, {"scale", "nan"});
  refused(of_sequence, [](C& c) { c.softcap = -1.0f; }, {"softcap", "-1"});
  refused(of_sequence, [](C& c) { c.max_bias = -2.0f; }, {"max_bias", "-2"});
  const std::vector<uint16_t> mask(kQueries * 340);
  refused(of_sequence, [&](C& c) { c.mask = mask.data(), c.mask_stride = 339; },
          {"mask_stride is 339", "340"});
}

}  // namespace
}  // namespace polarquant
