// SPDX-License-Identifier: Apache-2.0
#include "sample_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

using Random = std::mt19937_64;
using DrawRows = std::function<void(Random& random, int head_dim, std::vector<float>& rows)>;

void DrawGaussian(Random& random, int /*head_dim*/, std::vector<float>& rows) {
  std::normal_distribution<float> normal;
  for (float& value : rows) value = normal(random);
}

void DrawHeavy(Random& random, int /*head_dim*/, std::vector<float>& rows) {
  std::student_t_distribution<float> student(4);
  for (float& value : rows) value = student(random);
}

void DrawChannels(Random& random, int head_dim, std::vector<float>& rows) {
  const auto d = static_cast<size_t>(head_dim);
  std::normal_distribution<float> normal;
  std::vector<size_t> order(d);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  std::vector<float> spread(d, 1.0f);
  for (size_t i = 0; i < std::max<size_t>(1, d / 32); ++i) spread[order[i]] = 10.0f;
  std::vector<float> mean(d);
  for (float& value : mean) value = 3.0f * normal(random);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = mean[i % d] + spread[i % d] * normal(random);
}

struct Distribution {
  const char* name;
  DrawRows draw;
};

const std::vector<Distribution>& Distributions() {
  static const std::vector<Distribution> all = {
      {"gaussian", DrawGaussian}, {"heavy", DrawHeavy}, {"channels", DrawChannels}};
  return all;
}

}  // namespace

int64_t SampleRows::num_rows() const {
  size_t values = 0;
  for (const std::vector<float>& head : heads) values += head.size();
  return static_cast<int64_t>(values) / head_dim;
}

SampleRows LoadSample(const SampleOptions& options, int page_tokens) {
  for (const Distribution& distribution : Distributions()) {
    if (options.data != distribution.name) continue;
    Random random(options.seed);
    const int num_pages = (options.num_rows + page_tokens - 1) / page_tokens;
    std::vector<float> rows(static_cast<size_t>(num_pages) * static_cast<size_t>(page_tokens) *
                            static_cast<size_t>(options.head_dim));
    distribution.draw(random, options.head_dim, rows);
    return {options.head_dim, {std::move(rows)}};
  }
  throw Error(ErrorCode::kParameter,
              fmt::format("--data {} is no distribution; choose gaussian, heavy or channels",
                          options.data));
}

}  // namespace polarquant::cli
