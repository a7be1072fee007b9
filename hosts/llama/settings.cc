// SPDX-License-Identifier: Apache-2.0
#include "settings.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <tuple>

#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"

namespace polarquant::llama {
namespace {

constexpr std::string_view kPrefix = "POLARQUANT_";
constexpr const char* kKv = "POLARQUANT_KV";
constexpr const char* kWindow = "POLARQUANT_WINDOW";
constexpr const char* kSinks = "POLARQUANT_SINKS";
constexpr const char* kPolicy = "POLARQUANT_POLICY";
constexpr const char* kProfile = "POLARQUANT_PROFILE";
constexpr const char* kIsa = "POLARQUANT_ISA";
constexpr const char* kAttention = "POLARQUANT_ATTENTION";
constexpr const char* kStatus = "POLARQUANT_STATUS";
constexpr std::array kKnown = {kKv, kWindow, kSinks, kPolicy, kProfile, kIsa, kAttention, kStatus};

void RefuseUnknownVariables() {
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!text.starts_with(kPrefix)) continue;
    const std::string_view name = text.substr(0, text.find('='));
    bool known = false;
    for (const char* candidate : kKnown) known |= name == candidate;
    if (known) continue;
    std::string message = "unknown variable " + std::string(name) + "; known are";
    for (const char* candidate : kKnown) message += std::string(" ") + candidate;
    throw Error(ErrorCode::kParameter, message);
  }
}

int ParseCount(const char* name, std::string_view text) {
  int value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || value < 0) {
    throw Error(ErrorCode::kParameter, std::string(name) + "=" + std::string(text) +
                                           " is not a count; give a whole number of rows");
  }
  return value;
}

void AddProfiles(std::string_view paths, Policy& policy) {
  while (!paths.empty()) {
    const size_t end = std::min(paths.find(':'), paths.size());
    if (end > 0) policy.profiles.emplace_back(paths.substr(0, end));
    paths.remove_prefix(std::min(end + 1, paths.size()));
  }
}

// Runs `parse`, naming the variable if it throws.
template <typename Parse>
auto Named(const char* name, const char* value, const Parse& parse) {
  try {
    return parse();
  } catch (const Error& error) {
    throw Error(error.code(), std::string(name) + "=" + value + ": " + error.what());
  }
}

void CheckRole(const Scheme& scheme, Role role) {
  for (const CodecInfo& codec : Codecs()) {
    if (codec.name != scheme.codec) continue;
    if (role == Role::kKey ? codec.keys : codec.values) return;
    throw Error(ErrorCode::kUnsupported, "scheme " + scheme.ToString() + " cannot store " +
                                             (role == Role::kKey ? "keys" : "values") +
                                             "; see `polarquant schemes`");
  }
}

}  // namespace

Policy Settings::DefaultPolicy() {
  Policy policy;
  std::tie(policy.key, policy.value) = Scheme::ParsePair("turbo4:balanced/turbo4");
  return policy;
}

std::string Settings::StatusPath() {
  const char* path = std::getenv(kStatus);
  return path == nullptr ? "" : path;
}

Settings Settings::FromEnvironment() {
  RefuseUnknownVariables();
  Settings settings;
  settings.status_path = StatusPath();
  settings.policy = DefaultPolicy();
  const char* kv = std::getenv(kKv);
  const char* window = std::getenv(kWindow);
  const char* sinks = std::getenv(kSinks);
  if (const char* path = std::getenv(kPolicy)) {
    const char* other = kv != nullptr       ? kKv
                        : window != nullptr ? kWindow
                        : sinks != nullptr  ? kSinks
                                            : nullptr;
    if (other != nullptr) {
      throw Error(ErrorCode::kParameter, std::string(other) + " and " + kPolicy +
                                             " exclude each other; put the value into the policy");
    }
    settings.policy = Named(kPolicy, path, [&] { return Policy::Load(path); });
  }
  if (kv != nullptr) {
    std::tie(settings.policy.key, settings.policy.value) =
        Named(kKv, kv, [&] { return Scheme::ParsePair(kv); });
  }
  if (window != nullptr) settings.policy.window_tokens = ParseCount(kWindow, window);
  if (sinks != nullptr) settings.policy.sink_tokens = ParseCount(kSinks, sinks);
  if (const char* paths = std::getenv(kProfile)) AddProfiles(paths, settings.policy);
  settings.policy.Check();
  CheckRoles(settings.policy);
  if (const char* word = std::getenv(kAttention)) {
    const std::string_view text = word;
    if (text != "host" && text != "own") {
      throw Error(ErrorCode::kParameter,
                  std::string(kAttention) + "=" + word + " is unknown; allowed are host and own");
    }
    settings.host_attention = text == "host";
  }
  (void)DefaultTarget();  // refuses a POLARQUANT_ISA that does not exist or that the CPU lacks
  return settings;
}

void CheckRoles(const Policy& policy) {
  CheckRole(policy.key, Role::kKey);
  CheckRole(policy.value, Role::kValue);
  for (const LayerRule& rule : policy.layers) {
    CheckRole(rule.key, Role::kKey);
    CheckRole(rule.value, Role::kValue);
  }
}

}  // namespace polarquant::llama
