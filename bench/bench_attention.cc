// SPDX-License-Identifier: Apache-2.0
// bench_attention [--threads N] [--rounds N] [--only WORD] [--cpu-clock] [--json]
//
// Microseconds of one layer's attention, ours and stock ggml's, interleaved in one process: every
// round times each contestant once over all layers, the table shows medians over the rounds, the
// ratio to stock f16, and the bytes read a second as a share of the machine's read bandwidth
// (measured here, with the same threads). --cpu-clock counts the CPU time of the process instead of
// the time on the wall: with one thread, on a machine that others use too, it is the steadier one.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <stdexcept>

#include "bench.h"
#include "polarquant/attention.h"
#include "util/half.h"
#include "util/parallel.h"

namespace polarquant::bench {
namespace {

struct Options {
  int threads = 2;
  int rounds = 9;
  std::string only;  // a word that a workload's name must contain
  bool cpu_clock = false;
  bool json = false;
};

struct Case {
  const char* name;
  int head_dim, q_heads, kv_heads;
  int64_t depth;
  int num_queries;
};
constexpr Case kCases[] = {
    {"decode d128 32/8 1024", 128, 32, 8, 1024, 1},
    {"decode d128 32/8 8192", 128, 32, 8, 8192, 1},
    {"decode d128 32/8 16384", 128, 32, 8, 16384, 1},
    {"decode d64 16/4 1024", 64, 16, 4, 1024, 1},
    {"decode d64 16/4 8192", 64, 16, 4, 8192, 1},
    {"decode d64 16/4 16384", 64, 16, 4, 16384, 1},
    {"decode d64 9/3 1024", 64, 9, 3, 1024, 1},
    {"decode d64 9/3 8192", 64, 9, 3, 8192, 1},
    {"prefill d128 16/4 4608", 128, 16, 4, 4608, 512},
    {"prefill d64 9/3 4608", 64, 9, 3, 4608, 512},
};
constexpr const char* kOwn[] = {
    "f16", "turbo4", "turbo3", "turbo2", "turbo4:center", "turbo4:center/turbo4", "q8_0"};
#ifdef PQ_STOCK
constexpr const char* kStock[] = {"f16", "q8_0", "q4_0"};
#endif

// Enough layers that the f16 cache does not stay in the last-level cache, but no more than models
// of that size have.
constexpr size_t kPoolBytes = size_t{160} << 20;
constexpr int kMaxLayers = 30;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double Median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<int64_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

double ReadBandwidth(int threads) {
  std::vector<uint64_t> memory((size_t{512} << 20) / sizeof(uint64_t), 1);
  std::vector<double> rates;
  uint64_t total = 0;
  for (int round = 0; round < 5; ++round) {
    const double start = Seconds();
    Parallel(threads, [&](int thread, int team) {
      const Share share = ShareOf(static_cast<int64_t>(memory.size()), thread, team);
      uint64_t sum = 0;
      for (int64_t i = share.begin; i < share.end; ++i) sum += memory[static_cast<size_t>(i)];
#pragma omp atomic
      total += sum;
    });
    rates.push_back(static_cast<double>(memory.size()) * sizeof(uint64_t) / (Seconds() - start));
  }
  if (total != 5 * memory.size()) throw std::runtime_error("memory that does not keep its content");
  return Median(rates);
}

Inputs MakeInputs(const Workload& w) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto gaussian = [&](int64_t count) {
    std::vector<float> x(static_cast<size_t>(count));
    for (float& v : x) v = normal(random);
    return x;
  };
  Inputs inputs;
  inputs.keys = gaussian(w.depth * w.kv_heads * w.head_dim);
  inputs.values = gaussian(w.depth * w.kv_heads * w.head_dim);
  inputs.queries = gaussian(static_cast<int64_t>(w.num_queries) * w.q_heads * w.head_dim);
  inputs.mask.assign(static_cast<size_t>(w.num_queries * w.depth), 0);
  for (int n = 0; n < w.num_queries; ++n) {
    for (int64_t c = w.depth - w.num_queries + n + 1; c < w.depth; ++c) {
      inputs.mask[static_cast<size_t>(n * w.depth + c)] = 0xfc00;  // -inf
    }
  }
  return inputs;
}

struct Entry {
  std::string name;
  std::unique_ptr<Contestant> contestant;
  std::vector<double> times = {};
};

double RelativeError(const std::vector<float>& x, const std::vector<float>& exact) {
  double error = 0.0, power = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(exact[i]);
    error += difference * difference;
    power += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
  }
  return std::sqrt(error / power);
}

void RunCase(const Case& c, const Options& options, double bandwidth) {
  Workload w = {c.head_dim, c.q_heads, c.kv_heads, c.depth, c.num_queries, 1, options.threads};
  w.layers = static_cast<int>(std::clamp<size_t>(kPoolBytes / w.f16_layer_bytes() + 1, 2,
                                                 c.num_queries > 1 ? 2 : kMaxLayers));
  const Inputs inputs = MakeInputs(w);
  std::vector<Entry> entries;
#ifdef PQ_STOCK
  for (const char* type : kStock) {
    entries.push_back({std::string("stock ") + type, StockAttention(type, w, inputs)});
  }
#endif
  for (const char* scheme : kOwn) {
    entries.push_back({std::string("own ") + scheme, OwnAttention(scheme, w, inputs)});
  }
  const auto now = options.cpu_clock ? CpuSeconds : Seconds;
  for (int round = -1; round < options.rounds; ++round) {  // the first warms up
    for (Entry& entry : entries) {
      const double start = now();
      entry.contestant->Run();
      const double time = (now() - start) / w.layers;
      if (round >= 0) entry.times.push_back(time);
    }
  }
  const std::vector<float> exact = entries.front().contestant->Output();
  const double base = Median(entries.front().times);
  if (!options.json) {
    std::printf("%s: %d queries, depth %lld, %d layers, %d threads, %s\n", c.name, c.num_queries,
                static_cast<long long>(c.depth), w.layers, w.threads, DefaultTarget().name);
  }
  for (const Entry& entry : entries) {
    const double time = Median(entry.times);
    const double rate = static_cast<double>(entry.contestant->LayerBytes()) / time;
    const double error = RelativeError(entry.contestant->Output(), exact);
    if (options.json) {
      std::printf(
          "{\"case\":\"%s\",\"head_dim\":%d,\"q_heads\":%d,\"kv_heads\":%d,\"depth\":%lld,"
          "\"queries\":%d,\"layers\":%d,\"threads\":%d,\"isa\":\"%s\",\"name\":\"%s\","
          "\"microseconds\":%.2f,\"speedup\":%.3f,\"bytes_per_second\":%.4g,"
          "\"read_bandwidth\":%.4g,\"relative_difference\":%.3g}\n",
          c.name, c.head_dim, c.q_heads, c.kv_heads, static_cast<long long>(c.depth), c.num_queries,
          w.layers, w.threads, DefaultTarget().name, entry.name.c_str(), time * 1e6, base / time,
          rate, bandwidth, error);
    } else {
      std::printf("  %-26s %10.1f us  x%-6.2f %6.2f GB/s (%3.0f %% of read)  difference %.2g\n",
                  entry.name.c_str(), time * 1e6, base / time, rate * 1e-9,
                  100.0 * rate / bandwidth, error);
    }
  }
  std::fflush(stdout);
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--json") {
      options.json = true;
      continue;
    }
    if (word == "--cpu-clock") {
      options.cpu_clock = true;
      continue;
    }
    if (i + 1 == argc) throw std::runtime_error("unknown option, or no value for it: " + word);
    const char* value = argv[++i];
    if (word == "--threads") {
      options.threads = std::max(1, std::atoi(value));
    } else if (word == "--rounds") {
      options.rounds = std::max(1, std::atoi(value));
    } else if (word == "--only") {
      options.only = value;
    } else {
      throw std::runtime_error(
          "unknown option " + word +
          "; there are --threads N, --rounds N, --only WORD, --cpu-clock, --json");
    }
  }
  return options;
}

}  // namespace
}  // namespace polarquant::bench

int main(int argc, char** argv) {
  using namespace polarquant::bench;
  try {
    const Options options = Parse(argc, argv);
    const double bandwidth = ReadBandwidth(options.threads);
    if (!options.json) std::printf("read bandwidth %.1f GB/s\n", bandwidth * 1e-9);
    for (const Case& c : kCases) {
      if (std::strstr(c.name, options.only.c_str()) != nullptr) RunCase(c, options, bandwidth);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_attention: %s\n", error.what());
    return 1;
  }
  return 0;
}
