// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `perplexity`: caches against the 16-bit cache on the same tokens
// in one process. All contexts live at once and take every piece of text in turn, so that only one
// piece of logits per context is ever kept.
#include <fmt/format.h>

#include <memory>

#include "chunked.h"
#include "command.h"
#include "comparison.h"
#include "expand_weights.h"
#include "interrupt.h"
#include "llama_session.h"
#include "memory_check.h"
#include "paths.h"
#include "polarquant/error.h"
#include "profile_store.h"

namespace polarquant::cli {
namespace {

// Pieces of the floor: too small for the tiled attention (64 queries and more) that whole pieces
// get, so that it rounds differently all the way.
constexpr int kFloorTokens = 63;

struct PerplexityOptions {
  std::string model;
  std::string text;
  bool chunked = false;
  int context_tokens = 2048;
  int num_chunks = 4;
  // As decoding does, a piece reads the rows before it from the cache and its own exact ones.
  int batch_tokens = 128;
  int num_threads = 1;
  bool expand_weights = false;
  CacheOptions caches;
  JsonOption json;
};

std::string PrintTable(const Json& report) {
  Table table({"cache", "bits/value", "resident KV", "PPL", "KL mean", "KL 99 %", "KL 99.9 %",
               "KL max", "top-1 %", "tokens/s"});
  const auto add = [&](const Json& row, const std::string& name, bool with_size) {
    const auto number = [&](const char* key) { return row.at(key).get<double>(); };
    table.Add({name, with_size ? fmt::format("{:.3f}", number("bits_per_value")) : "",
               with_size ? PrintBytes(number("kv_resident_bytes")) : "",
               fmt::format("{:.4f}", number("ppl")), fmt::format("{:.6f}", number("kl_mean")),
               fmt::format("{:.5f}", number("kl_p99")), fmt::format("{:.5f}", number("kl_p999")),
               fmt::format("{:.4f}", number("kl_max")), fmt::format("{:.2f}", 100 * number("top1")),
               fmt::format("{:.1f}", number("tokens_per_second"))});
  };
  for (const Json& row : report.at("runs")) add(row, row.at("kv").get<std::string>(), true);
  add(report.at("floor"),
      fmt::format("(floor: stock:f16, pieces of {})", report.at("floor").at("ubatch").get<int>()),
      false);
  return table.Print();
}

int RunPerplexity(const GlobalOptions& global, PerplexityOptions& options) {
  if (options.text.empty() && !options.chunked) {
    throw Error(ErrorCode::kParameter,
                "there is no text to read; name one with -f FILE, or use --chunked");
  }
  std::vector<CacheSpec> specs = ParseCaches(options.caches);
  SetUpLlama(global.verbose);
  CatchInterrupts();
  const bool ours = std::any_of(specs.begin(), specs.end(), [](const auto& s) { return !s.stock; });
  std::unique_ptr<Plugin> plugin;
  if (ours) plugin = std::make_unique<Plugin>(FindPlugin(global.plugin));

  AttachProfiles(
      specs, options.caches.profile, {options.model}, [&]() -> const Plugin& { return *plugin; },
      options.num_threads);
  const std::string source =
      options.expand_weights ? ExpandWeights(options.model, options.num_threads) : options.model;
  const Models models(source, plugin.get());
  if (options.chunked) {
    const std::string file = options.text.empty() ? DefaultPassages().string() : options.text;
    const Json report = MeasureChunked(models, specs, file, options.num_threads);
    Report(report, PrintChunked(report), options.json);
    return 0;
  }
  const Model& model = models.stock();
  const std::vector<llama_token> text = model.Tokenize(ReadText(options.text));
  const int context_tokens = options.context_tokens;
  int num_chunks = static_cast<int>(text.size()) / context_tokens;
  if (num_chunks == 0) {
    throw Error(ErrorCode::kParameter,
                fmt::format("{} has {} tokens, less than one context of {}; give more text or a "
                            "smaller -c",
                            options.text, text.size(), context_tokens));
  }
  if (options.num_chunks > 0) num_chunks = std::min(num_chunks, options.num_chunks);

  // The base is the first runner, the floor the second; a stock:f16 of the user's is the base.
  const CacheSpec f16 = ParseCache("stock:f16", 0, 0);
  std::erase_if(specs, [&](const CacheSpec& spec) { return spec.label == f16.label; });
  Context::Options shape{context_tokens, options.batch_tokens, options.batch_tokens,
                         options.num_threads};
  CheckMemory(model, shape, static_cast<int>(specs.size()) + 2);
  Context::Options floor_shape = shape;
  floor_shape.micro_batch_tokens = std::min(kFloorTokens, std::max(1, options.batch_tokens / 2));
  Runners runners;
  runners.push_back(std::make_unique<Runner>(models, f16, shape));
  runners.push_back(std::make_unique<Runner>(models, f16, floor_shape));
  for (const CacheSpec& spec : specs) {
    runners.push_back(std::make_unique<Runner>(models, spec, shape));
  }

  // The last three quarters are scored: token i by the logits of token i - 1.
  const int first_scored = std::max(context_tokens / 4, 1) - 1;
  Progress progress("perplexity", static_cast<double>(num_chunks) * context_tokens *
                                      static_cast<double>(runners.size()));
  double done = 0;
  for (int chunk = 0; chunk < num_chunks; ++chunk) {
    const auto begin = text.begin() + static_cast<ptrdiff_t>(chunk) * context_tokens;
    std::vector<llama_token> tokens(begin, begin + context_tokens);
    if (model.adds_first_token()) tokens.front() = model.first_token();
    for (const auto& runner : runners) {
      runner->context.Turn([&] { runner->context.Rewind(0); });
    }
    for (int start = 0; start < context_tokens; start += options.batch_tokens) {
      const int end = std::min(start + options.batch_tokens, context_tokens);
      const std::span<const llama_token> all = tokens;
      const auto piece = all.subspan(start, end - start);
      const auto next = all.subspan(start + 1, std::min(end, context_tokens - 1) - start);
      for (const auto& runner : runners) {
        runner->Read(piece, first_scored);
        done += static_cast<double>(piece.size());
        progress.Update(
            done, fmt::format("context {}/{}, {}", chunk + 1, num_chunks, runner->context.label()));
      }
      ScorePiece(runners, std::max(0, first_scored - start), next, options.num_threads);
    }
    for (const auto& runner : runners) runner->filled = runner->context.size();
  }

  Json report;
  report["model"] = source;
  report["context"] = context_tokens;
  report["chunks"] = num_chunks;
  report["tokens_scored"] = runners.front()->scores.num_tokens();
  report["floor"] = ReportRow(*runners[1]);
  report["floor"]["ubatch"] = floor_shape.micro_batch_tokens;
  report["runs"] = Json::array();
  for (const auto& runner : runners) {
    if (runner != runners[1]) report["runs"].push_back(ReportRow(*runner));
  }
  const std::string heading = fmt::format("{} ({}), {} contexts of {} tokens, last 3/4 scored\n\n",
                                          source, model.Describe(), num_chunks, context_tokens);
  Report(report, heading + PrintTable(report), options.json);
  return 0;
}

}  // namespace

void AddPerplexity(CLI::App& app, const GlobalOptions& global, Action& action) {
  auto options = std::make_shared<PerplexityOptions>();
  CLI::App* command = app.add_subcommand(
      "perplexity", "Compare caches with the 16-bit cache on a text: PPL, KL divergence, memory");
  command->footer(R"(
Every cache reads the same tokens in the same process, in pieces of at most --ubatch tokens, so
that the cache is really read; the last 3/4 of each context are scored. KL is the divergence of a
cache's next-token distribution from the 16-bit cache's, in nats. The floor is the 16-bit cache
against itself at another micro-batch size: nothing below it means anything.

--chunked asks for the worst case instead: 20 passages that come with us (-f: yours, separated by
blank lines), of each 32 tokens quantised to the last, and the next 32 scored by what those left.
There --window and --sinks are 0 unless given.

Examples:
  polarquant perplexity -m model.gguf -f text.txt --kv turbo4:center/turbo4 --kv stock:q4_0
  polarquant perplexity -m model.gguf -f text.txt --expand-weights --chunks 0 --json out.json
  polarquant perplexity -m model.gguf -f text.txt --kv turbo3 --window 0 --sinks 4
  polarquant perplexity -m model.gguf --chunked --kv turbo3 --kv kivi2 --kv stock:q4_0)");
  AddModelOption(*command, options->model)->required();
  command->add_option("-f,--file", options->text, "Text to read")->type_name("FILE");
  CLI::Option* chunked = command->add_flag(
      "--chunked", options->chunked, "Score 32 tokens after 32 quantised ones, in short passages");
  command->add_option("-c,--ctx-size", options->context_tokens, "Tokens in a context")
      ->type_name("N")
      ->check(CLI::Range(8, 1 << 24))
      ->excludes(chunked)
      ->capture_default_str();
  command->add_option("--chunks", options->num_chunks, "Contexts to read; 0 reads the whole text")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber)
      ->excludes(chunked)
      ->capture_default_str();
  command->add_option("--ubatch", options->batch_tokens, "Tokens in a piece of prefill")
      ->type_name("N")
      ->check(CLI::Range(1, 512))
      ->excludes(chunked)
      ->capture_default_str();
  AddCacheOptions(*command, options->caches);
  command->add_flag("--expand-weights", options->expand_weights,
                    "Measure on weights expanded to F16 (kept in the cache folder): a lower floor");
  AddThreadsOption(*command, options->num_threads);
  AddJsonOption(*command, options->json);
  command->callback([&global, &action, options, command] {
    if (options->chunked) {
      if (command->count("--window") == 0) options->caches.window_tokens = 0;
      if (command->count("--sinks") == 0) options->caches.sink_tokens = 0;
    }
    action = [&global, options] { return RunPerplexity(global, *options); };
  });
}

}  // namespace polarquant::cli
