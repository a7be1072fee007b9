// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "page_buffer.h"
#include "polarquant/codec.h"
#include "verify.h"

namespace polarquant::cli {
namespace {

constexpr int kPageTokens = 128;
constexpr int kMostBits = 8;
// E (x - Q(x))^2 of the best quantisers of N(0, 1) with 1 to 8 bits (Max 1960 gives the first).
constexpr double kLeastDistortion[kMostBits] = {0.363380228, 0.117481848, 0.034547761, 0.009501008,
                                                0.002504668, 0.000644240, 0.000163478, 0.000041185};

double Density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }
double Below(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

// The levels of turboB in standard deviations: a record that FORMAT.md spells, with scale 1 and
// every code once, read as attention reads it.
std::vector<double> LevelsOf(int bits) {
  const int num_levels = 1 << bits;
  const int head_dim = std::max(16, num_levels);
  const PageFormat format(Scheme::Parse(fmt::format("turbo{}", bits)), Role::kKey, head_dim,
                          kPageTokens);
  std::vector<std::byte> record(format.record_bytes());
  constexpr uint16_t kOne = 0x3c00;  // f16
  std::memcpy(record.data(), &kOne, sizeof(kOne));
  for (int i = 0; i < head_dim; ++i) {
    for (int bit = 0; bit < bits; ++bit) {
      if ((i % num_levels >> bit & 1) == 0) continue;
      const int place = i * bits + bit;
      record[sizeof(kOne) + static_cast<size_t>(place / 8)] |= std::byte{1} << (place % 8);
    }
  }
  PageBuffer page(format, 1);
  const std::vector<float> zeros(static_cast<size_t>(head_dim) * kPageTokens, 0.0f);
  format.EncodePage(zeros.data(), kPageTokens, page.page(0));
  format.WriteRecord(page.page(0), 0, record.data());
  std::vector<float> row(static_cast<size_t>(head_dim));
  format.DecodeCodes(page.page(0), 1, row.data());
  return {row.begin(), row.begin() + num_levels};
}

std::vector<float> Normal(unsigned seed, int count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// How far a decoded row is from what its scale rule promises.
double RuleGap(ScaleRule rule, const float* row, const float* decoded, int head_dim) {
  double energy = 0;
  double decoded_energy = 0;
  double product = 0;
  for (int i = 0; i < head_dim; ++i) {
    energy += static_cast<double>(row[i]) * row[i];
    decoded_energy += static_cast<double>(decoded[i]) * decoded[i];
    product += static_cast<double>(row[i]) * decoded[i];
  }
  switch (rule) {
    case ScaleRule::kMse:  // a scale is the least-squares one if the error is orthogonal to it
      return std::abs(product / decoded_energy - 1);
    case ScaleRule::kNorm:
      return std::abs(std::sqrt(decoded_energy / energy) - 1);
    case ScaleRule::kUnbiased:
      return std::abs(product / energy - 1);
  }
  return NAN;
}

}  // namespace

LloydMaxGap GapToLloydMax(std::span<const double> levels) {
  LloydMaxGap gap = {0, 0, 1};
  const size_t count = levels.size();
  for (size_t i = 0; i < count; ++i) {
    const double low = i == 0 ? -INFINITY : (levels[i - 1] + levels[i]) / 2;
    const double high = i + 1 == count ? INFINITY : (levels[i] + levels[i + 1]) / 2;
    const double share = Below(high) - Below(low);
    const double first_moment = Density(low) - Density(high);
    gap.asymmetry = std::max(gap.asymmetry, std::abs(levels[i] + levels[count - 1 - i]));
    gap.off_centre = std::max(gap.off_centre, std::abs(levels[i] - first_moment / share));
    gap.distortion += levels[i] * levels[i] * share - 2 * levels[i] * first_moment;
  }
  return gap;
}

std::vector<Finding> CheckCodebooks() {
  double asymmetry = 0;
  double off_centre = 0;
  double excess = 0;
  for (int bits = 1; bits <= kMostBits; ++bits) {
    const std::vector<double> levels = LevelsOf(bits);
    const LloydMaxGap gap = GapToLloydMax(levels);
    asymmetry = std::max(asymmetry, gap.asymmetry);
    off_centre = std::max(off_centre, gap.off_centre);
    excess = std::max(excess, gap.distortion / kLeastDistortion[bits - 1] - 1);
  }
  return {{"symmetric", asymmetry, 0, "largest |c + mirrored c| of turbo1 to turbo8"},
          {"centroids", off_centre, 0.01,
           "levels from the mean of what they stand for, in standard deviations"},
          {"least error", excess, 1e-3,
           "error of the codebooks on N(0, 1) above the least possible, relative"}};
}

std::vector<Finding> CheckScaleRules() {
  struct Rule {
    ScaleRule rule;
    const char* name;
    const char* what;
  };
  // An f16 scale is rounded to 11 bits.
  constexpr double kRounding = 1.0 / 2048 + 1e-5;
  constexpr int kHeadDim = 128;
  std::vector<Finding> findings;
  const std::vector<float> rows = Normal(7, kPageTokens * kHeadDim);
  std::vector<float> decoded(rows.size());
  for (const Rule& rule : {Rule{ScaleRule::kMse, "scale=mse", "<x - x', x'> / |x'|^2"},
                           Rule{ScaleRule::kNorm, "scale=norm", "|x'| / |x| - 1"},
                           Rule{ScaleRule::kUnbiased, "scale=unbiased", "<x, x'> / |x|^2 - 1"}}) {
    double worst = 0;
    int codecs = 0;
    for (const CodecInfo& info : Codecs()) {
      if (!info.scale_rules) continue;
      Scheme scheme = Scheme::Parse(info.name);
      scheme.scale_rule = rule.rule;
      const PageFormat format(scheme, info.keys ? Role::kKey : Role::kValue, kHeadDim, kPageTokens);
      // With statistics of the page a row's scale is not all there is.
      if (format.header_bytes() > 0) continue;
      ++codecs;
      PageBuffer page(format, 1);
      format.EncodePage(rows.data(), kPageTokens, page.page(0));
      format.DecodePage(page.page(0), kPageTokens, decoded.data());
      for (size_t at = 0; at < rows.size(); at += kHeadDim) {
        worst = std::max(worst, RuleGap(rule.rule, &rows[at], &decoded[at], kHeadDim));
      }
    }
    findings.push_back({rule.name, worst, kRounding,
                        fmt::format("largest |{}| of {} codecs, 128 rows", rule.what, codecs)});
  }
  return findings;
}

}  // namespace polarquant::cli
