// SPDX-License-Identifier: Apache-2.0
// bench_batch [--threads N] [--rounds N]
//
// Microseconds of attention over a batch of sequences, a query each: a call for every sequence, one
// call for all of them, and one with a plan made before; and what a plan costs where a mask must be
// read. Medians over rounds in which the contestants take turns, every layer of a model in turn.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "polarquant/attention.h"
#include "polarquant/sequence_cache.h"

namespace polarquant::bench {
namespace {

struct Options {
  int threads = 2;
  int rounds = 201;
};

struct Case {
  const char* name;
  int sequences;
  int64_t tokens;
  int head_dim, q_heads, kv_heads;
};
constexpr Case kCases[] = {
    {"8 x 512 d64 9/3", 8, 512, 64, 9, 3},   {"8 x 512 d128 32/8", 8, 512, 128, 32, 8},
    {"8 x 128 d64 9/3", 8, 128, 64, 9, 3},   {"32 x 512 d64 9/3", 32, 512, 64, 9, 3},
    {"1 x 8192 d64 9/3", 1, 8192, 64, 9, 3}, {"1 x 8192 d128 32/8", 1, 8192, 128, 32, 8},
};
constexpr int kLayers = 4;

double Microseconds() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<int64_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

class Model {
 public:
  explicit Model(const Case& c) : case_(c), random_(1) {
    queries_ = Gaussian(static_cast<int64_t>(c.sequences) * c.q_heads * c.head_dim);
    outputs_.resize(queries_.size());
    mask_.assign(static_cast<size_t>(c.tokens), 0);
    mask_.front() = 0xfc00;  // -inf
    batch_.num_q_heads = c.q_heads;
    batch_.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    caches_.reserve(size_t{kLayers} * static_cast<size_t>(c.sequences));
    for (int i = 0; i < kLayers * c.sequences; ++i) Add(i % c.sequences);
  }

  // Attention of all layers.
  void OneByOne(bool masked, int threads) {
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const SequenceCall& sequence : Calls(layer, masked)) {
        AttentionCall call;
        static_cast<AttentionTerms&>(call) = static_cast<const AttentionTerms&>(batch_);
        static_cast<SequenceCall&>(call) = sequence;
        Attend(call, threads);
      }
    }
  }
  void Together(bool masked, int threads) {
    for (int layer = 0; layer < kLayers; ++layer) Attend(BatchOf(layer, masked), Executor{threads});
  }
  void Planned(const AttentionPlan& plan, bool masked, int threads) {
    for (int layer = 0; layer < kLayers; ++layer) {
      Attend(plan, BatchOf(layer, masked), Executor{threads});
    }
  }
  const AttentionBatch& BatchOf(int layer, bool masked) {
    batch_.sequences = Calls(layer, masked);
    return batch_;
  }

 private:
  std::vector<float> Gaussian(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(count));
    for (float& v : x) v = normal(random_);
    return x;
  }

  std::vector<SequenceCall>& Calls(int layer, bool masked) {
    const auto first = calls_.begin() + int64_t{layer} * case_.sequences;
    current_.assign(first, first + case_.sequences);
    for (SequenceCall& call : current_) call.mask = masked ? mask_.data() : nullptr;
    return current_;
  }

  void Add(int sequence) {
    SequenceCache::Config config;
    config.key = Scheme::Parse("turbo4:center");
    config.value = Scheme::Parse("turbo4");
    config.key_head_dim = config.value_head_dim = case_.head_dim;
    config.num_kv_heads = case_.kv_heads;
    SequenceCache& cache = caches_.emplace_back(config);
    const int64_t row = static_cast<int64_t>(case_.kv_heads) * case_.head_dim;
    const std::vector<float> rows = Gaussian(case_.tokens * row);
    const HostRows of = {rows.data(), NumberType::kF32, row, case_.head_dim};
    cache.Append(of, of, case_.tokens, 1);
    cache.Settle(1);
    const AttentionCall held = cache.Call();
    auto call = static_cast<const SequenceCall&>(held);
    const int64_t at = static_cast<int64_t>(sequence) * case_.q_heads * case_.head_dim;
    call.num_queries = 1;
    call.queries = queries_.data() + at;
    call.output = outputs_.data() + at;
    call.query_head_stride = call.output_head_stride = case_.head_dim;
    call.mask_stride = case_.tokens;
    calls_.push_back(call);
  }

  Case case_;
  std::mt19937 random_;
  std::vector<SequenceCache> caches_;
  std::vector<SequenceCall> calls_, current_;
  std::vector<float> queries_, outputs_;
  std::vector<uint16_t> mask_;
  AttentionBatch batch_;
};

void RunCase(const Case& c, const Options& options) {
  Model model(c);
  for (const bool masked : {false, true}) {
    const Executor executor{options.threads};
    const AttentionPlan plan(model.BatchOf(0, masked), executor);
    const std::function<void()> contestants[] = {
        [&] { model.OneByOne(masked, options.threads); },
        [&] { model.Together(masked, options.threads); },
        [&] { model.Planned(plan, masked, options.threads); },
        [&] {
          for (int i = 0; i < kLayers; ++i) AttentionPlan(model.BatchOf(0, masked), executor);
        }};
    std::vector<double> times[4];
    for (int round = -3; round < options.rounds; ++round) {  // the first warm up
      for (size_t i = 0; i < 4; ++i) {
        const double start = Microseconds();
        contestants[i]();
        if (round >= 0) times[i].push_back((Microseconds() - start) / kLayers);
      }
    }
    const double single = Median(times[0]), batch = Median(times[1]), planned = Median(times[2]);
    std::printf(
        "%-20s %-8s one by one %8.1f us  batch %8.1f us x%.2f  planned %8.1f us x%.2f  "
        "plan %6.2f us\n",
        c.name, masked ? "masked" : "", single, batch, single / batch, planned, single / planned,
        Median(times[3]));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace polarquant::bench

int main(int argc, char** argv) {
  using namespace polarquant::bench;
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string word = argv[i];
    int* number = word == "--threads"  ? &options.threads
                  : word == "--rounds" ? &options.rounds
                                       : nullptr;
    if (number == nullptr || argc % 2 == 0) {
      std::fprintf(stderr, "bench_batch: there are --threads N and --rounds N\n");
      return 1;
    }
    *number = std::max(1, std::atoi(argv[i + 1]));
  }
  try {
    std::printf("%d threads, %s, a layer\n", options.threads, polarquant::DefaultTarget().name);
    for (const Case& c : kCases) RunCase(c, options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_batch: %s\n", error.what());
    return 1;
  }
  return 0;
}
