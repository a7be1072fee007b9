// SPDX-License-Identifier: Apache-2.0
// Attention over a batch: ragged sequences, plans, causality and windows as predicates, against the
// double-precision reference and against one call a sequence.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "polarquant/attention.h"
#include "polarquant/error.h"
#include "polarquant/sequence_cache.h"
#include "util/half.h"

namespace polarquant {
namespace {

using Floats = std::vector<float>;
constexpr int kKvHeads = 2, kQueryHeads = 6, kDimK = 64, kDimV = 96;
constexpr uint16_t kHalfHidden = 0xfc00, kHalfNan = 0x7e00;
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Scenario {
  const char* key = "turbo4:center";
  const char* value = "turbo4";
  bool causal = false;
  int64_t window = 0;
  bool sinks = false;
  int page_tokens = 128;
  const Target* target = nullptr;
};

struct Ragged {
  int64_t tokens;
  int queries;
  bool masked = false;
  int64_t evicted = 0;
};

// A batch with all that it points to.
class Batch {
 public:
  Batch(const Scenario& scenario, const std::vector<Ragged>& sequences, unsigned seed)
      : random_(seed) {
    batch.num_q_heads = kQueryHeads;
    batch.causal = scenario.causal;
    batch.window = scenario.window;
    batch.scale = 0.125f;
    if (scenario.sinks) {
      sinks_ = Gaussian(kQueryHeads);
      batch.sinks = sinks_.data();
    }
    caches_.reserve(sequences.size());
    for (const Ragged& ragged : sequences) Add(scenario, ragged);
    batch.sequences = calls_;
  }

  struct Result {
    std::vector<Floats> outputs, lses;
    bool operator==(const Result&) const = default;
  };
  // What `attend` writes.
  template <typename Function>
  Result Run(const Function& attend) {
    Result result;
    for (const SequenceCall& call : calls_) {
      const auto rows = static_cast<size_t>(call.num_queries * kQueryHeads);
      result.outputs.emplace_back(rows * kDimV, 7.0f);
      result.lses.emplace_back(rows, 7.0f);
    }
    for (size_t i = 0; i < calls_.size(); ++i) {
      calls_[i].output = result.outputs[i].data();
      calls_[i].lse = result.lses[i].data();
    }
    attend();
    return result;
  }
  Result Together(int threads) {
    return Run([&] { Attend(batch, Executor{threads}); });
  }
  Result Planned(const AttentionPlan& plan, int threads) {
    return Run([&] { Attend(plan, batch, Executor{threads}); });
  }
  Result OneByOne(int threads) {
    return Run([&] {
      for (const SequenceCall& sequence : calls_) {
        AttentionCall call;
        static_cast<SequenceCall&>(call) = sequence;
        static_cast<AttentionTerms&>(call) = batch;
        Attend(call, threads);
      }
    });
  }
  Result Reference() {
    return Run([&] { AttendReference(batch); });
  }

  SequenceCall& call(size_t i) { return calls_[i]; }
  std::vector<uint16_t>& mask(size_t i) { return masks_[i]; }
  AttentionBatch batch;

 private:
  Floats Gaussian(int64_t count) {
    std::normal_distribution<float> normal;
    Floats floats(static_cast<size_t>(count));
    for (float& value : floats) value = normal(random_);
    return floats;
  }

  void Add(const Scenario& scenario, const Ragged& ragged) {
    SequenceCache::Config config;
    config.key = Scheme::Parse(scenario.key);
    config.value = Scheme::Parse(scenario.value);
    config.key_head_dim = kDimK;
    config.value_head_dim = kDimV;
    config.num_kv_heads = kKvHeads;
    config.window_tokens = 50;
    config.sink_tokens = 7;
    config.page_tokens = scenario.page_tokens;
    config.target = scenario.target;
    SequenceCache& cache = caches_.emplace_back(config);
    const Floats keys = Gaussian(ragged.tokens * kKvHeads * kDimK);
    const Floats values = Gaussian(ragged.tokens * kKvHeads * kDimV);
    cache.Append({keys.data(), NumberType::kF32, kKvHeads * kDimK, kDimK},
                 {values.data(), NumberType::kF32, kKvHeads * kDimV, kDimV}, ragged.tokens, 1);
    cache.Settle(1);
    cache.EvictFront(ragged.evicted);
    SequenceCall call = cache.Call();
    call.num_queries = ragged.queries;
    queries_.push_back(Gaussian(int64_t{ragged.queries} * kQueryHeads * kDimK));
    call.queries = queries_.back().data();
    call.query_stride = kQueryHeads * kDimK;
    call.query_head_stride = kDimK;
    call.output_stride = kQueryHeads * kDimV;
    call.output_head_stride = kDimV;
    const int64_t held = call.num_cells - call.first_cell;
    call.mask_stride = held + 3;
    std::vector<uint16_t>& mask = masks_.emplace_back();
    if (ragged.masked) {
      mask.assign(static_cast<size_t>(ragged.queries * call.mask_stride), kHalfNan);
      for (int64_t n = 0; n < ragged.queries; ++n) {
        const unsigned hidden = random_() % 4;  // of four
        const auto dark = static_cast<int64_t>(random_() % 4);
        for (int64_t c = 0; c < held; ++c) {
          uint16_t& value = mask[static_cast<size_t>(n * call.mask_stride + c)];
          value = random_() % 4 < hidden || c / 128 == dark ? kHalfHidden : uint16_t{0};
          if (random_() % 40 == 0) value = FloatToHalf(-0.5f);
          if (random_() % 40 == 0) value = kHalfNan;
        }
      }
      call.mask = mask.data();
    }
    calls_.push_back(call);
  }

  std::mt19937 random_;
  std::vector<SequenceCache> caches_;
  std::vector<SequenceCall> calls_;
  std::vector<Floats> queries_;
  std::vector<std::vector<uint16_t>> masks_;
  Floats sinks_;
};

void ExpectNear(const Batch::Result& fast, const Batch::Result& expected, double bound) {
  for (size_t s = 0; s < expected.outputs.size(); ++s) {
    for (size_t i = 0; i < expected.outputs[s].size(); ++i) {
      ASSERT_NEAR(fast.outputs[s][i], expected.outputs[s][i], bound) << s << " " << i;
    }
    for (size_t i = 0; i < expected.lses[s].size(); ++i) {
      if (std::isinf(expected.lses[s][i])) {
        ASSERT_EQ(fast.lses[s][i], expected.lses[s][i]) << s << " " << i;
      } else {
        ASSERT_NEAR(fast.lses[s][i], expected.lses[s][i], bound) << s << " " << i;
      }
    }
  }
}

std::vector<Ragged> RandomSequences(std::mt19937& random, bool masks) {
  std::vector<Ragged> sequences(1 + random() % 6);
  for (Ragged& ragged : sequences) {
    const int64_t most = random() % 4 == 0 ? 700 : 200;
    ragged.tokens = static_cast<int64_t>(random() % static_cast<uint64_t>(most));
    if (ragged.tokens > 1 && random() % 3 == 0) {
      ragged.evicted = static_cast<int64_t>(random() % static_cast<uint64_t>(ragged.tokens));
    }
    const int64_t held = ragged.tokens - ragged.evicted;
    ragged.queries = random() % 2 == 0 ? 1 : static_cast<int>(random() % 40);
    if (held > 0) ragged.queries = static_cast<int>(std::min<int64_t>(ragged.queries, held));
    ragged.masked = masks && random() % 3 != 0;
  }
  return sequences;
}

TEST(BatchAttention, RaggedBatchesMatchTheReferenceUnderEveryMask) {
  const char* const schemes[][2] = {{"turbo4:center", "turbo4"}, {"turbo3", "turbo2:center"},
                                    {"turbo2", "q8_0"},          {"q4_0", "turbo3"},
                                    {"f16", "zscore4"},          {"turbo5:sharpen=120", "f16"}};
  unsigned seed = 0;
  for (const bool causal : {false, true}) {
    for (const int64_t window : {0, 1, 33, 130, 1000}) {
      for (const bool masks : {false, true}) {
        for (int round = 0; round < 3; ++round) {
          ++seed;
          std::mt19937 random(seed);
          const auto& pair = schemes[seed % 6];
          const Scenario scenario = {pair[0], pair[1],    causal,
                                     window,  round == 1, seed % 4 == 0 ? 64 : 128};
          SCOPED_TRACE(testing::Message() << "seed " << seed << " causal " << causal << " window "
                                          << window << " masks " << masks);
          Batch batch(scenario, RandomSequences(random, masks), seed);
          const Batch::Result expected = batch.Reference();
          const AttentionPlan plan(batch.batch, Executor{2});
          for (const int threads : {1, 2, 3, 4}) {
            const Batch::Result together = batch.Together(threads);
            ExpectNear(together, expected, 4e-3);
            EXPECT_EQ(batch.Planned(plan, threads), together);
          }
          EXPECT_EQ(batch.Together(1), batch.OneByOne(1));
          ExpectNear(batch.Together(3), batch.OneByOne(2), 1e-4);
          if (testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(BatchAttention, EveryTargetCodesAlikeAndAttendsToWhatAnyCoded) {
  const std::vector<Ragged> sequences = {{520, 3}, {300, 1}};
  for (const char* scheme : {"turbo2", "turbo3", "turbo4", "q8_0", "ropepolar"}) {
    const auto batch_of = [&](const Target& target) {
      return Batch({.key = scheme, .value = "turbo4", .target = &target}, sequences, 9);
    };
    Batch plain = batch_of(TargetNamed("scalar"));
    const Batch::Result expected = plain.Reference();
    for (const Target& target : Targets()) {
      SCOPED_TRACE(testing::Message() << scheme << " on " << target.name);
      const Batch coded = batch_of(target);
      for (size_t s = 0; s < sequences.size(); ++s) {
        const SequenceCall &ours = coded.batch.sequences[s], &theirs = plain.batch.sequences[s];
        for (int head = 0; head < kKvHeads; ++head) {
          EXPECT_EQ(std::memcmp(ours.keys->View(0, head).page, theirs.keys->View(0, head).page,
                                ours.keys->format().page_bytes()),
                    0);
          EXPECT_EQ(std::memcmp(ours.values->View(0, head).page, theirs.values->View(0, head).page,
                                ours.values->format().page_bytes()),
                    0);
        }
      }
      ExpectNear(plain.Run([&] { Attend(plain.batch, {.num_threads = 2, .target = &target}); }),
                 expected, 4e-3);
    }
  }
}

TEST(BatchAttention, CausalityAndWindowsAreAsTheMaskThatSpellsThemOut) {
  for (const bool causal : {false, true}) {
    for (const int64_t window : {0, 1, 64, 100, 300}) {
      Batch batch({.causal = causal, .window = window}, {{520, 300}, {128, 128}}, 3);
      Batch spelled({}, {{520, 300, true}, {128, 128, true}}, 3);
      for (size_t s = 0; s < 2; ++s) {
        const SequenceCall& call = batch.call(s);
        spelled.call(s).queries = call.queries;
        spelled.call(s).keys = call.keys;
        spelled.call(s).values = call.values;
        for (int64_t n = 0; n < call.num_queries; ++n) {
          const int64_t own = call.num_cells - call.num_queries + n;
          for (int64_t c = 0; c < call.num_cells; ++c) {
            const bool hidden = (causal && c > own) || (window > 0 && c <= own - window);
            spelled.mask(s)[static_cast<size_t>(n * spelled.call(s).mask_stride + c)] =
                hidden ? kHalfHidden : 0;
          }
        }
      }
      for (const int threads : {1, 2}) {
        ExpectNear(batch.Together(threads), spelled.Together(threads), 5e-5);
      }
    }
  }
}

TEST(BatchAttention, EmptySequencesGiveZerosAndOthersAreNotDisturbed) {
  for (const bool causal : {false, true}) {
    Batch batch({.causal = causal}, {{0, 1}, {300, 5}, {0, 3}, {200, 0}, {90, 1}}, 5);
    const Batch::Result result = batch.Together(2);
    ExpectNear(result, batch.Reference(), 4e-3);
    for (const size_t empty : {0, 2}) {
      EXPECT_EQ(result.outputs[empty], Floats(result.outputs[empty].size(), 0.0f));
      EXPECT_EQ(result.lses[empty], Floats(result.lses[empty].size(), -kInf));
    }
    Batch sinks({.causal = causal, .sinks = true}, {{0, 1}, {300, 5}}, 5);
    ExpectNear(sinks.Together(2), sinks.Reference(), 4e-3);
  }
  Batch none({}, {}, 1);
  EXPECT_EQ(none.Together(2).outputs.size(), 0u);
}

TEST(BatchAttention, NotANumberInAMaskHidesTheCell) {
  for (const char* scheme : {"turbo4:center", "f16", "turbo6"}) {
    Batch nan({.key = scheme, .value = scheme}, {{300, 2, true}}, 8);
    Batch hidden({.key = scheme, .value = scheme}, {{300, 2, true}}, 8);
    for (const unsigned nan_bits : {0x7e00u, 0xfe00u, 0x7c01u, 0xffffu}) {
      const auto bits = static_cast<uint16_t>(nan_bits);
      for (size_t i = 0; i < nan.mask(0).size(); ++i) {
        nan.mask(0)[i] = i % 3 == 0 ? bits : 0;
        hidden.mask(0)[i] = i % 3 == 0 ? kHalfHidden : 0;
      }
      EXPECT_EQ(nan.Reference(), hidden.Reference());
      EXPECT_EQ(nan.Together(1), hidden.Together(1));
      ExpectNear(nan.Together(2), nan.Reference(), 4e-3);
    }
    std::fill(nan.mask(0).begin(), nan.mask(0).end(), kHalfNan);
    const Batch::Result result = nan.Together(2);
    EXPECT_EQ(result, nan.Reference());
    EXPECT_EQ(result.outputs[0][0], 0.0f);
  }
}

TEST(BatchAttention, APlanIsGoodForOtherRowsOfTheSameLengths) {
  const std::vector<Ragged> lengths = {{520, 3, true}, {77, 1}, {300, 40}};
  Batch first({.causal = true}, lengths, 21), second({.causal = true}, lengths, 22);
  second.call(0).mask = first.call(0).mask;
  AttentionPlan plan(first.batch, Executor{1});
  ExpectNear(second.Planned(plan, 2), second.Reference(), 4e-3);
  Batch f16({.key = "f16", .value = "q8_0", .causal = true}, lengths, 23);
  f16.call(0).mask = first.call(0).mask;
  const AttentionPlan moved = std::move(plan);
  ExpectNear(f16.Planned(moved, 2), f16.Reference(), 4e-3);
}

TEST(BatchAttention, PlansForOtherLengthsAreRefused) {
  const std::vector<Ragged> lengths = {{520, 3, true}, {77, 1}};
  Batch made({}, lengths, 1);
  const AttentionPlan plan(made.batch, Executor{1});
  const auto refused = [&](Batch& batch, const std::string& word) {
    try {
      batch.Planned(plan, 1);
      ADD_FAILURE() << "accepted: " << word;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kParameter);
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  Batch causal({.causal = true}, lengths, 1), window({.window = 9}, lengths, 1);
  refused(causal, "causal");
  refused(window, "window");
  Batch fewer({}, {{520, 3, true}}, 1), longer({}, {{520, 3, true}, {78, 1}}, 1);
  refused(fewer, "number of sequences of 2");
  refused(longer, "sequence 1");
  Batch more({}, {{520, 4, true}, {77, 1}}, 1), bare({}, {{520, 3}, {77, 1}}, 1);
  refused(more, "sequence 0");
  refused(bare, "masked");
  Batch pages({.page_tokens = 64}, lengths, 1);
  refused(pages, "page_tokens");
}

TEST(BatchAttention, BatchesThatDoNotFitAreRefusedWithTheValues) {
  Batch good({}, {{100, 1}, {50, 1}}, 1);
  Batch pages({.page_tokens = 64}, {{100, 1}}, 1);
  const auto refused = [&](const std::string& word) {
    for (const bool reference : {false, true}) {
      try {
        reference ? good.Reference() : good.Together(1);
        ADD_FAILURE() << "accepted: " << word;
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
      }
    }
  };
  good.batch.window = -1;
  refused("window is -1");
  good.batch.window = 0;
  const SequenceCall before = good.call(1);
  good.call(1).keys = pages.call(0).keys;
  good.call(1).values = pages.call(0).values;
  refused("page_tokens is 128 for the first sequence of the batch and 64 for sequence 1");
  good.call(1) = before;
  good.call(1).queries = nullptr;
  refused("queries");
  good.call(1) = before;
  EXPECT_THROW(Attend(good.batch, Executor{0}), Error);
  EXPECT_THROW(AttentionPlan(good.batch, Executor{0}), Error);
}

}  // namespace
}  // namespace polarquant
