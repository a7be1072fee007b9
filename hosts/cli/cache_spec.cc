// SPDX-License-Identifier: Apache-2.0
#include "cache_spec.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

constexpr std::string_view kStockPrefix = "stock:";
// The types llama.cpp takes for -ctk and -ctv.
constexpr std::array<std::string_view, 9> kStockTypes = {"f32",  "f16",    "bf16", "q8_0", "q4_0",
                                                         "q4_1", "iq4_nl", "q5_0", "q5_1"};

constexpr std::array<Preset, 3> kPresets = {{
    {"small", "turbo3:balanced/turbo3", "a fifth of 16 bit, and nearer to it than q4_0"},
    {"balanced", "turbo4:balanced/turbo4", "the default: a good quarter of 16 bit"},
    {"precise", "q8_0:balanced/q8_0", "a good half of 16 bit, not to be told from it"},
}};

std::string StockType(std::string_view word, std::string_view whole) {
  if (std::find(kStockTypes.begin(), kStockTypes.end(), word) == kStockTypes.end()) {
    throw Error(ErrorCode::kFormat,
                fmt::format("'{}' in --kv {} is no cache type of llama.cpp; it has {}", word, whole,
                            fmt::join(kStockTypes, ", ")));
  }
  return std::string(word);
}

}  // namespace

std::span<const Preset> Presets() { return kPresets; }

CacheSpec ParseCache(std::string_view text, int window_tokens, int sink_tokens) {
  CacheSpec spec;
  spec.label = text;
  if (text.starts_with(kStockPrefix)) {
    spec.stock = true;
    const std::string_view types = text.substr(kStockPrefix.size());
    const size_t slash = types.find('/');
    spec.stock_key = StockType(types.substr(0, slash), text);
    spec.stock_value =
        slash == std::string_view::npos ? spec.stock_key : StockType(types.substr(slash + 1), text);
    return spec;
  }
  const auto preset = std::find_if(kPresets.begin(), kPresets.end(),
                                   [&](const Preset& each) { return each.name == text; });
  std::tie(spec.policy.key, spec.policy.value) =
      Scheme::ParsePair(preset != kPresets.end() ? preset->schemes : text);
  spec.policy.window_tokens = window_tokens;
  spec.policy.sink_tokens = sink_tokens;
  spec.policy.Check();
  return spec;
}

std::vector<CacheSpec> ParseCaches(const CacheOptions& options) {
  std::vector<CacheSpec> specs;
  const auto add = [&specs](CacheSpec spec) {
    for (const CacheSpec& other : specs) {
      if (other.label == spec.label) {
        throw Error(ErrorCode::kParameter,
                    fmt::format("the cache {} is named twice; name it once", spec.label));
      }
    }
    specs.push_back(std::move(spec));
  };
  for (const std::string& text : options.caches) {
    add(ParseCache(text, options.window_tokens, options.sink_tokens));
  }
  for (const std::string& path : options.policies) {
    CacheSpec spec;
    spec.label = std::filesystem::path(path).filename().string();
    spec.policy = Policy::Load(path);
    spec.policy_file = std::filesystem::absolute(path).string();
    add(std::move(spec));
  }
  if (specs.empty()) {
    add(ParseCache(kDefaultCache, options.window_tokens, options.sink_tokens));
  }
  return specs;
}

}  // namespace polarquant::cli
