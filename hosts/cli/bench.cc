// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `bench`: tokens a second at depth. All caches live in one
// process and take turns, piece by piece and round by round, so that a machine that slows down
// slows them all down.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "command.h"
#include "interrupt.h"
#include "llama_session.h"
#include "memory_check.h"
#include "polarquant/error.h"
#include "profile_store.h"
#include "statistics.h"

namespace polarquant::cli {
namespace {

constexpr int kPieceTokens = 512;
// What a prefill is timed over at depth 0.
constexpr int kShallowPrefill = 512;

struct BenchOptions {
  std::string model;
  std::vector<int> depths = {0, 2048, 8192};
  int generated_tokens = 32;
  int rounds = 3;
  int prefill_rounds = 1;
  int num_threads = 1;
  CacheOptions caches;
  JsonOption json;
};

struct Measured {
  std::vector<double> decode_seconds;   // a round: `generated_tokens` tokens
  std::vector<double> prefill_seconds;  // a round: all tokens up to the depth
  CacheSize size;
};

struct Runner {
  Runner(const Models& models, const CacheSpec& spec, const Context::Options& options)
      : context(models.For(spec), spec, options) {}
  Context context;
  double filling_seconds = 0;  // since position 0
  std::map<int, Measured> at;  // by depth
};

class Bench {
 public:
  Bench(const BenchOptions& options, const Models& models, const std::vector<CacheSpec>& specs)
      : options_(options),
        vocab_size_(models.stock().vocab_size()),
        progress_("bench", Work(specs.size())) {
    const int deepest = std::max(options.depths.back(), kShallowPrefill);
    const Context::Options shape{deepest + options.generated_tokens, kPieceTokens, kPieceTokens,
                                 options.num_threads};
    CheckMemory(models.stock(), shape, static_cast<int>(specs.size()));
    for (const CacheSpec& spec : specs) {
      runners_.push_back(std::make_unique<Runner>(models, spec, shape));
    }
  }

  void Run() {
    for (int round = 0; round < options_.prefill_rounds; ++round) {
      Empty();
      for (const int depth : options_.depths) {
        if (depth == 0) {
          Fill(kShallowPrefill);
          for (const auto& runner : runners_) {
            runner->at[depth].prefill_seconds.push_back(runner->filling_seconds);
          }
          Empty();
        } else {
          Fill(depth);
          for (const auto& runner : runners_) {
            runner->at[depth].prefill_seconds.push_back(runner->filling_seconds);
          }
        }
        if (round == 0) DecodeAt(depth);
      }
    }
  }

  Json Rows() const {
    Json rows = Json::array();
    for (const int depth : options_.depths) {
      const int prefilled = depth == 0 ? kShallowPrefill : depth;
      for (const auto& runner : runners_) {
        const Measured& measured = runner->at.at(depth);
        Json row;
        row["kv"] = runner->context.label();
        row["depth"] = depth;
        row["decode_tokens_per_second"] =
            options_.generated_tokens / Median(measured.decode_seconds);
        row["prefill_tokens_per_second"] = prefilled / Median(measured.prefill_seconds);
        row["kv_resident_bytes"] = static_cast<int64_t>(measured.size.resident_bytes);
        row["bits_per_value"] = measured.size.bits_per_value();
        row["filled_cells"] = depth + options_.generated_tokens;
        row["decode_rounds"] = measured.decode_seconds.size();
        rows.push_back(std::move(row));
      }
    }
    return rows;
  }

 private:
  // Tokens of the whole run, for the progress line: a token decoded costs like many prefilled.
  static constexpr double kDecodeWeight = 8;
  double Work(size_t num_caches) const {
    double tokens = options_.prefill_rounds * static_cast<double>(options_.depths.back());
    if (options_.depths.front() == 0) tokens += options_.prefill_rounds * kShallowPrefill;
    tokens += kDecodeWeight * static_cast<double>(options_.depths.size()) * options_.rounds *
              options_.generated_tokens;
    return tokens * static_cast<double>(num_caches);
  }

  void Note(const Runner& runner, double work, const std::string& what) {
    done_ += work;
    progress_.Update(done_, fmt::format("{}, {}", what, runner.context.label()));
  }

  // Any tokens do; different ones at every position, the same for every cache.
  std::vector<llama_token> TokensAt(int position, int count) const {
    std::vector<llama_token> tokens(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) {
      const uint32_t mixed = (static_cast<uint32_t>(position + i) + 1) * 2654435761u;
      tokens[static_cast<size_t>(i)] =
          static_cast<llama_token>((mixed >> 8) % static_cast<uint32_t>(vocab_size_));
    }
    return tokens;
  }

  void Empty() {
    for (const auto& runner : runners_) {
      runner->context.Turn([&] { runner->context.Rewind(0); });
      runner->filling_seconds = 0;
    }
  }

  void Fill(int depth) {
    while (runners_.front()->context.filled_tokens() < depth) {
      for (const auto& runner : runners_) {
        const int start = runner->context.filled_tokens();
        const auto tokens = TokensAt(start, std::min(kPieceTokens, depth - start));
        runner->context.Turn([&] {
          runner->filling_seconds +=
              runner->context.Decode(tokens, start + static_cast<int>(tokens.size()) - 1);
        });
        Note(*runner, static_cast<double>(tokens.size()), fmt::format("filling to {}", depth));
      }
    }
  }

  void DecodeAt(int depth) {
    for (int round = 0; round < options_.rounds; ++round) {
      for (const auto& runner : runners_) {
        double seconds = 0;
        Measured& measured = runner->at[depth];
        runner->context.Turn([&] {
          for (const llama_token token : TokensAt(depth, options_.generated_tokens)) {
            seconds += runner->context.Decode({&token, 1}, 0);
          }
        });
        measured.decode_seconds.push_back(seconds);
        measured.size = runner->context.size();
        runner->context.Turn([&] { runner->context.Rewind(depth); });
        Note(*runner, kDecodeWeight * options_.generated_tokens,
             fmt::format("decoding at {}, round {}", depth, round + 1));
      }
    }
  }

  const BenchOptions& options_;
  int vocab_size_;
  Progress progress_;
  double done_ = 0;
  std::vector<std::unique_ptr<Runner>> runners_;
};

std::string PrintTable(const Json& rows) {
  Table table({"cache", "depth", "decode t/s", "vs f16", "prefill t/s", "vs f16", "resident KV",
               "bits/value"});
  for (const Json& row : rows) {
    const auto number = [](const Json& from, const char* key) {
      return from.at(key).get<double>();
    };
    const Json& base = *std::find_if(rows.begin(), rows.end(), [&](const Json& other) {
      return other.at("depth") == row.at("depth");  // stock:f16 is the first of its depth
    });
    const auto ratio = [&](const char* key) {
      return fmt::format("{:.2f}x", number(row, key) / number(base, key));
    };
    table.Add({row.at("kv").get<std::string>(), fmt::format("{}", row.at("depth").get<int>()),
               fmt::format("{:.2f}", number(row, "decode_tokens_per_second")),
               ratio("decode_tokens_per_second"),
               fmt::format("{:.1f}", number(row, "prefill_tokens_per_second")),
               ratio("prefill_tokens_per_second"), PrintBytes(number(row, "kv_resident_bytes")),
               fmt::format("{:.3f}", number(row, "bits_per_value"))});
  }
  return table.Print();
}

int RunBench(const GlobalOptions& global, BenchOptions& options) {
  std::sort(options.depths.begin(), options.depths.end());
  options.depths.erase(std::unique(options.depths.begin(), options.depths.end()),
                       options.depths.end());
  std::vector<CacheSpec> specs;
  for (const char* stock : {"stock:f16", "stock:q8_0", "stock:q4_0"}) {
    specs.push_back(ParseCache(stock, 0, 0));
  }
  for (CacheSpec& spec : ParseCaches(options.caches)) {
    const auto same = [&](const CacheSpec& other) { return other.label == spec.label; };
    if (std::none_of(specs.begin(), specs.end(), same)) specs.push_back(std::move(spec));
  }
  SetUpLlama(global.verbose);
  CatchInterrupts();
  std::unique_ptr<Plugin> plugin;
  if (std::any_of(specs.begin(), specs.end(), [](const auto& spec) { return !spec.stock; })) {
    plugin = std::make_unique<Plugin>(FindPlugin(global.plugin));
  }
  AttachProfiles(
      specs, options.caches.profile, {options.model}, [&]() -> const Plugin& { return *plugin; },
      options.num_threads);
  const Models models(options.model, plugin.get());
  Json report;
  {
    Bench bench(options, models, specs);
    bench.Run();
    report["model"] = options.model;
    report["threads"] = options.num_threads;
    report["generated_tokens"] = options.generated_tokens;
    report["runs"] = bench.Rows();
  }
  const std::string heading = fmt::format(
      "{} ({}), {} threads, decode of {} tokens, median of {}\n\n", options.model,
      models.stock().Describe(), options.num_threads, options.generated_tokens, options.rounds);
  Report(report, heading + PrintTable(report.at("runs")), options.json);
  return 0;
}

}  // namespace

void AddBench(CLI::App& app, const GlobalOptions& global, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench", "Speed at depth: stock f16, q8_0, q4_0 and the named caches, interleaved");
  command->footer(R"(
Each cache is filled once, in pieces of 512 tokens, all caches in turn; at every depth --gen tokens
are decoded one by one, rewound and decoded again, all caches in turn; medians are printed. The
prefill figure is the speed of all tokens from 0 to the depth (the first 512 at depth 0).

Examples:
  polarquant bench -m model.gguf --kv turbo4:center/turbo4 --kv turbo3
  polarquant bench -m model.gguf --depth 0,4096 --gen 64 --reps 5 --json bench.json)");
  AddModelOption(*command, options->model)->required();
  command->add_option("--depth", options->depths, "Tokens in the cache before decoding")
      ->type_name("N,N,...")
      ->delimiter(',')
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--gen", options->generated_tokens, "Tokens to decode in a round")
      ->type_name("N")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--reps", options->rounds, "Rounds of decoding")
      ->type_name("N")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--prefill-reps", options->prefill_rounds, "Rounds of filling")
      ->type_name("N")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  AddCacheOptions(*command, options->caches);
  AddThreadsOption(*command, options->num_threads);
  AddJsonOption(*command, options->json);
  command->callback([&global, &action, options] {
    action = [&global, options] { return RunBench(global, *options); };
  });
}

}  // namespace polarquant::cli
