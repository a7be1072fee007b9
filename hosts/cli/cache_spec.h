// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. A cache as people name it on the command line.
//
//   turbo4:center/turbo4   our schemes for keys and values      turbo4   one scheme for both
//   small, balanced, precise   presets (`polarquant schemes` says what they stand for)
//   stock:f16              llama.cpp's own cache, without us    stock:q8_0/q4_0  keys and values
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "polarquant/policy.h"

namespace polarquant::cli {

// The cache when none is named, and when none is named that may need a profile.
inline constexpr std::string_view kDefaultCache = "turbo4:balanced/turbo4";

// Named caches, chosen by measurement (ARCHITECTURE.md).
struct Preset {
  std::string_view name, schemes, summary;  // `polarquant schemes` prints them
};
std::span<const Preset> Presets();

struct CacheSpec {
  std::string label;      // as it was typed; reports repeat it
  bool stock = false;     // llama.cpp's own cache
  std::string stock_key;  // ggml type names, only for stock caches
  std::string stock_value;
  Policy policy;            // only for ours
  std::string policy_file;  // where it was read, if --policy named it
};

// Throws Error(kFormat) naming the word that is wrong and the words allowed, Error(kParameter) for
// a window or a number of sinks outside its range.
CacheSpec ParseCache(std::string_view text, int window_tokens, int sink_tokens);

// --profile and --no-profile.
struct ProfileOptions {
  std::vector<std::string> files;  // instead of the kept one
  bool none = false;
};

// What the options of one command line name together.
struct CacheOptions {
  std::vector<std::string> caches;    // --kv, in order
  std::vector<std::string> policies;  // --policy, in order
  int window_tokens = 128;
  int sink_tokens = 16;
  ProfileOptions profile;
};

// The caches of --kv, then those of --policy; the default cache when there are none. Naming one
// cache twice is an error (kParameter).
std::vector<CacheSpec> ParseCaches(const CacheOptions& options);

}  // namespace polarquant::cli
