// SPDX-License-Identifier: Apache-2.0
#include "comparison.h"

namespace polarquant::cli {

void Runner::Read(std::span<const llama_token> piece, int first_scored) {
  context.Turn([&] { seconds += context.Decode(piece, first_scored); });
  tokens += static_cast<int64_t>(piece.size());
}

void ScorePiece(const Runners& runners, int begin, std::span<const llama_token> next,
                int num_threads) {
  const int count = static_cast<int>(next.size()) - begin;
  if (count <= 0) return;
  std::vector<std::vector<std::span<const float>>> rows(runners.size());
  std::vector<std::vector<TokenScore>> scores(runners.size());
  for (size_t r = 0; r < runners.size(); ++r) {
    for (int i = 0; i < count; ++i) rows[r].push_back(runners[r]->context.Logits(begin + i));
    scores[r].resize(rows[r].size());
  }
#pragma omp parallel for num_threads(num_threads) schedule(dynamic, 8)
  for (int i = 0; i < count; ++i) {
    const auto index = static_cast<size_t>(i);
    const BaseDistribution base(rows.front()[index]);
    for (size_t r = 0; r < rows.size(); ++r) {
      scores[r][index] = base.Compare(rows[r][index], next[static_cast<size_t>(begin) + index]);
    }
  }
  for (size_t r = 0; r < runners.size(); ++r) {
    for (const TokenScore& score : scores[r]) runners[r]->scores.Add(score);
  }
}

Json ReportRow(const Runner& runner) {
  const CacheSpec& spec = runner.context.spec();
  const Scores& scores = runner.scores;
  Json row;
  row["kv"] = spec.label;
  row["window"] = spec.stock ? Json() : Json(spec.policy.window_tokens);
  row["sinks"] = spec.stock ? Json() : Json(spec.policy.sink_tokens);
  row["bits_per_value"] = runner.filled.bits_per_value();
  row["kv_resident_bytes"] = static_cast<int64_t>(runner.filled.resident_bytes);
  row["ppl"] = scores.perplexity();
  row["kl_mean"] = scores.mean_divergence();
  row["kl_mean_error"] = scores.divergence_error();
  row["kl_p99"] = scores.divergence_quantile(0.99);
  row["kl_p999"] = scores.divergence_quantile(0.999);
  row["kl_max"] = scores.max_divergence();
  row["top1"] = scores.same_top_share();
  row["tokens_per_second"] = static_cast<double>(runner.tokens) / runner.seconds;
  return row;
}

}  // namespace polarquant::cli
