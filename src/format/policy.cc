// SPDX-License-Identifier: Apache-2.0
// The policy, spelled as JSON and parsed strictly. A misspelt key or a value out of range is an
// error with a name, never a default.
#include "polarquant/policy.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>

#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "util/file.h"

namespace polarquant {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kDefaultKey = "turbo4:balanced";
constexpr const char* kDefaultValue = "turbo4";
constexpr int kMaxLayer = 9999;

[[noreturn]] void ThrowFormat(const std::string& message) {
  throw Error(ErrorCode::kFormat, "policy: " + message);
}

// The library keeps the last of two equal keys; we refuse them.
Json ParseText(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      ThrowFormat("key \"" + parsed.get<std::string>() + "\" appears twice; keep one");
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    ThrowFormat(std::string("not JSON: ") + error.what());
  }
}

void AddName(std::string& names, std::string_view name) {
  if (!names.empty()) names += ", ";
  names += name;
}

void CheckObject(const Json& object, const std::string& where,
                 std::initializer_list<const char*> allowed) {
  if (!object.is_object()) {
    ThrowFormat(where + " must be a JSON object, not " + object.type_name());
  }
  for (const auto& [key, unused] : object.items()) {
    if (std::find(allowed.begin(), allowed.end(), key) != allowed.end()) continue;
    std::string names;
    for (const char* name : allowed) AddName(names, name);
    std::string message = "unknown key \"";
    message.append(key).append("\" in ").append(where).append("; allowed: ").append(names);
    ThrowFormat(message);
  }
}

void ReadScheme(const Json& object, const char* key, Scheme& scheme) {
  if (!object.contains(key)) return;
  const Json& value = object.at(key);
  if (!value.is_string()) {
    ThrowFormat(std::string("\"") + key + "\" is " + value.dump() +
                "; it must be a scheme as text, for instance \"turbo4\"");
  }
  scheme = Scheme::Parse(value.get<std::string>());
}

void ReadInteger(const Json& object, const char* key, int& number) {
  if (!object.contains(key)) return;
  const Json& value = object.at(key);
  // Anything beyond int is out of every range here; said before it could wrap.
  const bool fits = value.is_number_integer() && value.get<double>() >= -2147483648.0 &&
                    value.get<double>() <= 2147483647.0;
  if (!fits) {
    ThrowFormat(std::string("\"") + key + "\" is " + value.dump() +
                "; it must be a whole number of at most 31 bits");
  }
  number = value.get<int>();
}

LayerRule ReadRule(const Json& object, size_t index, const Policy& policy) {
  const std::string where = "layers[" + std::to_string(index) + "]";
  CheckObject(object, where, {"first", "last", "key", "value"});
  if (!object.contains("first") && !object.contains("last")) {
    ThrowFormat(where + " names no layer; give \"first\", \"last\" or both");
  }
  if (!object.contains("key") && !object.contains("value")) {
    ThrowFormat(where + " changes nothing; give \"key\", \"value\" or both");
  }
  LayerRule rule;
  rule.key = policy.key;
  rule.value = policy.value;
  ReadInteger(object, "first", rule.first);
  rule.last = rule.first;
  ReadInteger(object, "last", rule.last);
  ReadScheme(object, "key", rule.key);
  ReadScheme(object, "value", rule.value);
  return rule;
}

void CheckBetween(const std::string& name, int value, int low, int high) {
  if (value >= low && value <= high) return;
  throw Error(ErrorCode::kParameter, "policy: " + name + " is " + std::to_string(value) +
                                         "; it must be between " + std::to_string(low) + " and " +
                                         std::to_string(high));
}

void CheckRole(const std::string& name, const Scheme& scheme, Role role) {
  const auto stores = [&](const CodecInfo& info) {
    return role == Role::kKey ? info.keys : info.values;
  };
  std::string names;
  for (const CodecInfo& info : Codecs()) {
    if (!stores(info)) continue;
    if (info.name == scheme.codec) return;
    AddName(names, info.name);
  }
  throw Error(ErrorCode::kParameter,
              "policy: " + name + " is \"" + scheme.codec + "\", which stores no " +
                  (role == Role::kKey ? "keys" : "values") + "; choose one of " + names);
}

void CheckScheme(const std::string& name, const Scheme& scheme, Role role) {
  CheckRole(name, scheme, role);
  if (role == Role::kValue && scheme.sharpen != 100) {
    throw Error(ErrorCode::kParameter, "policy: " + name + " is \"" + scheme.ToString() +
                                           "\", but values have no logits to sharpen; write "
                                           "sharpen= for the keys only");
  }
  if (role == Role::kKey || !scheme.normalisation.needs_profile()) return;
  throw Error(ErrorCode::kParameter,
              "policy: " + name + " is \"" + scheme.ToString() +
                  "\", which weighs keys against queries and cannot hold values; write "
                  "KEYS/VALUES, for instance " +
                  scheme.ToString() + "/" + scheme.codec);
}

}  // namespace

const Scheme& Policy::SchemeFor(Role role, int layer, int num_layers) const {
  if (layer < 0 || layer >= num_layers) {
    throw Error(ErrorCode::kParameter, "policy: layer " + std::to_string(layer) +
                                           " asked for, but there are " +
                                           std::to_string(num_layers) + " layers with a cache");
  }
  const auto from_start = [&](int number) { return number < 0 ? num_layers + number : number; };
  const auto rule = std::find_if(layers.rbegin(), layers.rend(), [&](const LayerRule& each) {
    return layer >= from_start(each.first) && layer <= from_start(each.last);
  });
  if (rule != layers.rend()) return role == Role::kKey ? rule->key : rule->value;
  return role == Role::kKey ? key : value;
}

Policy Policy::Parse(std::string_view json) {
  const Json object = ParseText(json);
  CheckObject(object, "the policy",
              {"key", "value", "window", "sinks", "page_tokens", "max_partial_pages", "layers",
               "profiles"});
  Policy policy;
  policy.key = Scheme::Parse(kDefaultKey);
  policy.value = Scheme::Parse(kDefaultValue);
  ReadScheme(object, "key", policy.key);
  ReadScheme(object, "value", policy.value);
  ReadInteger(object, "window", policy.window_tokens);
  ReadInteger(object, "sinks", policy.sink_tokens);
  ReadInteger(object, "page_tokens", policy.page_tokens);
  ReadInteger(object, "max_partial_pages", policy.max_partial_pages);
  if (object.contains("layers")) {
    const Json& rules = object.at("layers");
    if (!rules.is_array()) ThrowFormat("\"layers\" is " + rules.dump() + "; it must be a list");
    for (const Json& rule : rules) {
      policy.layers.push_back(ReadRule(rule, policy.layers.size(), policy));
    }
  }
  if (object.contains("profiles")) {
    const Json& paths = object.at("profiles");
    const bool fits =
        paths.is_array() && std::all_of(paths.begin(), paths.end(), [](const Json& p) {
          return p.is_string() && !p.get<std::string>().empty();
        });
    if (!fits) ThrowFormat("\"profiles\" is " + paths.dump() + "; it must be a list of files");
    policy.profiles = paths.get<std::vector<std::string>>();
  }
  policy.Check();
  return policy;
}

bool Policy::needs_dense() const {
  return key.normalisation.dense ||
         std::any_of(layers.begin(), layers.end(),
                     [](const LayerRule& rule) { return rule.key.normalisation.dense; });
}

bool Policy::needs_profile() const {
  return key.normalisation.needs_profile() ||
         std::any_of(layers.begin(), layers.end(),
                     [](const LayerRule& rule) { return rule.key.normalisation.needs_profile(); });
}

std::string Policy::ToJson() const {
  Json object = {{"key", key.ToString()},      {"value", value.ToString()},
                 {"window", window_tokens},    {"sinks", sink_tokens},
                 {"page_tokens", page_tokens}, {"max_partial_pages", max_partial_pages},
                 {"layers", Json::array()}};
  for (const LayerRule& rule : layers) {
    object["layers"].push_back({{"first", rule.first},
                                {"last", rule.last},
                                {"key", rule.key.ToString()},
                                {"value", rule.value.ToString()}});
  }
  if (!profiles.empty()) object["profiles"] = profiles;
  return object.dump();
}

Policy Policy::Load(const std::string& path) {
  const std::string text = ReadFile(path, "the policy");
  try {
    return Parse(text);
  } catch (const Error& error) {
    throw Error(error.code(), path + ": " + error.what());
  }
}

void Policy::Save(const std::string& path) const { WriteFile(path, "the policy", ToJson() + '\n'); }

void Policy::Check() const {
  CheckScheme("key", key, Role::kKey);
  CheckScheme("value", value, Role::kValue);
  CheckBetween("window", window_tokens, 0, 65536);
  CheckBetween("sinks", sink_tokens, 0, 1024);
  if (page_tokens != 64 && page_tokens != 128 && page_tokens != 256) {
    throw Error(ErrorCode::kParameter, "policy: page_tokens is " + std::to_string(page_tokens) +
                                           "; it must be 64, 128 or 256");
  }
  CheckBetween("max_partial_pages", max_partial_pages, 0, 1 << 20);
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerRule& rule = layers[i];
    const std::string where = "layers[" + std::to_string(i) + "].";
    CheckBetween(where + "first", rule.first, -kMaxLayer, kMaxLayer);
    CheckBetween(where + "last", rule.last, -kMaxLayer, kMaxLayer);
    // With unlike signs the order depends on the number of layers.
    if ((rule.first < 0) == (rule.last < 0) && rule.first > rule.last) {
      throw Error(ErrorCode::kParameter, "policy: " + where + "first is " +
                                             std::to_string(rule.first) + ", after last (" +
                                             std::to_string(rule.last) + "); swap them");
    }
    CheckScheme(where + "key", rule.key, Role::kKey);
    CheckScheme(where + "value", rule.value, Role::kValue);
  }
}

}  // namespace polarquant
