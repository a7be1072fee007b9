// SPDX-License-Identifier: Apache-2.0
#include "sample_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <numeric>
#include <random>

#include "capture_file.h"
#include "polarquant/codec.h"
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

SampleRows CapturedSample(const SampleOptions& options, int page_tokens) {
  SampleRows sample;
  for (const CapturedFloats& layer : LoadCapture(options.data, options.role)) {
    if (sample.head_dim == 0) sample.head_dim = layer.head_dim;
    if (layer.head_dim != sample.head_dim) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} has layers with head_dim {} and {}; capture them apart with "
                              "--layers",
                              options.data, sample.head_dim, layer.head_dim));
    }
    const int64_t rows =
        std::min<int64_t>(layer.num_tokens, options.num_rows) / page_tokens * page_tokens;
    if (rows == 0) {
      throw Error(ErrorCode::kParameter,
                  fmt::format("{} has {} tokens, less than a page of {}; capture more",
                              options.data, layer.num_tokens, page_tokens));
    }
    for (int head = 0; head < layer.num_kv_heads; ++head) {
      const auto first = layer.values.begin() + head * layer.num_tokens * layer.head_dim;
      sample.heads.emplace_back(first, first + rows * layer.head_dim);
    }
  }
  if (options.head_dim != 0 && options.head_dim != sample.head_dim) {
    throw Error(ErrorCode::kParameter,
                fmt::format("--head-dim {}: the rows of {} have {} values; leave it out",
                            options.head_dim, options.data, sample.head_dim));
  }
  return sample;
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
    const int head_dim = options.head_dim != 0 ? options.head_dim : kDrawnHeadDim;
    CheckHeadDim(head_dim);
    const int num_pages = (options.num_rows + page_tokens - 1) / page_tokens;
    std::vector<float> rows(static_cast<size_t>(num_pages) * static_cast<size_t>(page_tokens) *
                            static_cast<size_t>(head_dim));
    distribution.draw(random, head_dim, rows);
    return {head_dim, /*drawn=*/true, {std::move(rows)}};
  }
  if (!std::filesystem::exists(options.data)) {
    throw Error(ErrorCode::kParameter,
                fmt::format("--data {} is neither a distribution nor a file; choose gaussian, "
                            "heavy, channels, or rows made by polarquant capture",
                            options.data));
  }
  return CapturedSample(options, page_tokens);
}

}  // namespace polarquant::cli
