// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Caches that read the same tokens side by side, and how far the
// answers of each are from those of the first.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "llama_session.h"
#include "report.h"
#include "statistics.h"

namespace polarquant::cli {

// One cache under test.
struct Runner {
  Runner(const Models& models, const CacheSpec& spec, const Context::Options& options)
      : context(models.For(spec), spec, options) {}
  // Reads tokens, timed; logits are kept for positions from `first_scored` on.
  void Read(std::span<const llama_token> tokens, int first_scored);

  Context context;
  Scores scores;
  double seconds = 0;
  int64_t tokens = 0;
  CacheSize filled;  // at the end of a context
};

using Runners = std::vector<std::unique_ptr<Runner>>;

// Holds every cache's logits of the last piece, from token `begin` on, against the first cache's.
// `next` are the tokens that really followed, one for each token of the piece that has one.
void ScorePiece(const Runners& runners, int begin, std::span<const llama_token> next,
                int num_threads);

// A cache's line of the report.
Json ReportRow(const Runner& runner);

}  // namespace polarquant::cli
