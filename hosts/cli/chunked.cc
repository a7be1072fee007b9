// SPDX-License-Identifier: Apache-2.0
#include "chunked.h"

#include <fmt/format.h>

#include <sstream>

#include "comparison.h"
#include "memory_check.h"
#include "paths.h"
#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

constexpr int kPassageTokens = 2 * kChunkTokens;

// The first two chunks of each passage. A model that begins texts with a token of its own gets it:
// the tokenizer puts it before the passage, and it is the first of the 64.
std::vector<std::vector<llama_token>> ReadPassages(const Model& model, const std::string& file) {
  const std::vector<std::string> passages = SplitPassages(ReadText(file));
  if (passages.empty()) {
    throw Error(ErrorCode::kParameter,
                fmt::format("{} has no passages; write some, separated by blank lines", file));
  }
  std::vector<std::vector<llama_token>> all;
  for (const std::string& passage : passages) {
    std::vector<llama_token> tokens = model.Tokenize(passage);
    if (tokens.size() < kPassageTokens) {
      throw Error(ErrorCode::kParameter,
                  fmt::format("passage {} of {} (\"{}...\") has {} tokens, the chunked protocol "
                              "needs {}; lengthen it or leave it out",
                              all.size() + 1, file, passage.substr(0, passage.find(' ', 20)),
                              tokens.size(), kPassageTokens));
    }
    tokens.resize(kPassageTokens);
    all.push_back(std::move(tokens));
  }
  return all;
}

}  // namespace

std::vector<std::string> SplitPassages(const std::string& text) {
  std::vector<std::string> passages;
  bool inside = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos) {
      inside = false;
      continue;
    }
    line = line.substr(first, line.find_last_not_of(" \t\r") - first + 1);
    if (inside) {
      passages.back() += ' ' + line;
    } else {
      passages.push_back(line);
    }
    inside = true;
  }
  return passages;
}

void CloseShort(CacheSpec& spec) {
  // A passage then fills one page, and no page waits to be filled.
  spec.policy.page_tokens = kPassageTokens;
  spec.policy.max_partial_pages = 0;
}

Json MeasureChunked(const Models& models, const std::vector<CacheSpec>& specs,
                    const std::string& file, int num_threads) {
  const auto passages = ReadPassages(models.stock(), file);
  const CacheSpec f16 = ParseCache("stock:f16", 0, 0);
  const Context::Options shape{kPassageTokens, kChunkTokens, kChunkTokens, num_threads};
  CheckMemory(models.stock(), shape, static_cast<int>(specs.size()) + 1);
  Runners runners;
  runners.push_back(std::make_unique<Runner>(models, f16, shape));
  for (CacheSpec spec : specs) {
    if (spec.label == f16.label) continue;
    CloseShort(spec);
    runners.push_back(std::make_unique<Runner>(models, spec, shape));
  }

  Progress progress("perplexity", static_cast<double>(passages.size() * runners.size()));
  double done = 0;
  for (size_t i = 0; i < passages.size(); ++i) {
    const std::span<const llama_token> tokens = passages[i];
    const auto history = tokens.first(kChunkTokens);
    const auto scored = tokens.last(kChunkTokens);
    for (const auto& runner : runners) {
      runner->context.Turn([&] { runner->context.Rewind(0); });
      runner->Read(history, kPassageTokens);  // no logits
      runner->Read(scored, kChunkTokens);
      runner->filled = runner->context.size();
      progress.Update(++done, fmt::format("passage {}/{}, {}", i + 1, passages.size(),
                                          runner->context.label()));
    }
    // The scored chunk's first token was foretold by the history, before anything was quantised.
    ScorePiece(runners, 0, scored.subspan(1), num_threads);
  }

  Json report;
  report["model"] = models.stock().path();
  report["description"] = models.stock().Describe();
  report["passages"] = passages.size();
  report["chunk_tokens"] = kChunkTokens;
  report["tokens_scored"] = runners.front()->scores.num_tokens();
  report["runs"] = Json::array();
  for (const auto& runner : runners) report["runs"].push_back(ReportRow(*runner));
  return report;
}

std::string PrintChunked(const Json& report) {
  Table table({"cache", "window", "sinks", "resident bits", "PPL", "KL mean", "+-", "top-1 %"});
  for (const Json& row : report.at("runs")) {
    const auto number = [&](const char* key) { return row.at(key).get<double>(); };
    const auto count = [&](const char* key) {
      return row.at(key).is_null() ? "" : fmt::format("{}", row.at(key).get<int>());
    };
    table.Add({row.at("kv").get<std::string>(), count("window"), count("sinks"),
               fmt::format("{:.3f}", number("bits_per_value")),
               fmt::format("{:.4f}", number("ppl")), fmt::format("{:.6f}", number("kl_mean")),
               fmt::format("{:.6f}", number("kl_mean_error")),
               fmt::format("{:.2f}", 100 * number("top1"))});
  }
  return fmt::format("{} ({}), {} passages, {} tokens each scored after {} quantised\n\n{}",
                     report.at("model").get<std::string>(),
                     report.at("description").get<std::string>(), report.at("passages").get<int>(),
                     kChunkTokens - 1, kChunkTokens, table.Print());
}

}  // namespace polarquant::cli
