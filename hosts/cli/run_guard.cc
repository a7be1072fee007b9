// SPDX-License-Identifier: Apache-2.0
#include "run_guard.h"

#include <fmt/format.h>
#include <gguf.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <memory>
#include <span>

#include "polarquant/llama_control.h"

namespace polarquant::cli {
namespace {

using Words = std::span<const std::string_view>;

// Why a value of an option bypasses us; null if it does not.
using Judge = const char* (*)(std::string_view value);

bool IsFalse(std::string_view value) {
  return value == "off" || value == "disabled" || value == "false" || value == "0";
}

// llama.cpp looks devices up without regard to case.
bool IsOurDevice(std::string_view value) {
  const std::string_view ours = POLARQUANT_DEVICE_NAME;
  return std::equal(value.begin(), value.end(), ours.begin(), ours.end(),
                    [](char a, char b) { return std::toupper(a) == std::toupper(b); });
}

std::optional<int> ParseInt(std::string_view value) {
  int number = 0;
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
  if (error != std::errc() || end == value.data()) return std::nullopt;
  return number;
}

const char* JudgeLayers(std::string_view value) {
  return ParseInt(value) == 0 ? "gives no layer to a device, so the cache stays with llama.cpp; "
                                "leave it out or say all"
                              : nullptr;
}
const char* JudgeDevice(std::string_view value) {
  if (value == "none") {
    return "uses no device, so the cache stays with llama.cpp; leave it out or say POLARQUANT";
  }
  return IsOurDevice(value) ? nullptr
                            : "gives layers to other devices, and with them their cache; leave it "
                              "out or say POLARQUANT";
}
const char* JudgeFlash(std::string_view value) {
  return IsFalse(value) ? "turns flash attention off, the only attention that reads our cache; "
                          "leave it out or say on"
                        : nullptr;
}
const char* JudgeCacheType(std::string_view value) {
  return value == "f16" ? nullptr
                        : "names a type of llama.cpp's own cache; leave it out, --kv says how the "
                          "cache is kept";
}
const char* JudgeSplit(std::string_view value) {
  return value == "row" || value == "tensor"
             ? "spreads layers over devices in pieces we cannot own; leave it out or say layer"
             : nullptr;
}
const char* JudgeMainGpu(std::string_view value) {
  const auto number = ParseInt(value);
  return number && *number < 0 ? "uses no device, so the cache stays with llama.cpp; leave it out"
                               : nullptr;
}
constexpr const char* kNoOffload =
    "keeps the cache out of every device, so it stays with llama.cpp; leave it out";
const char* JudgeNoOffload(std::string_view value) { return IsFalse(value) ? nullptr : kNoOffload; }
const char* JudgeOffload(std::string_view value) { return IsFalse(value) ? kNoOffload : nullptr; }
const char* JudgePresence(std::string_view /*value*/) { return kNoOffload; }

struct Rule {
  std::array<std::string_view, 4> options;  // as llama.cpp's argument parser has them
  std::string_view variable;
  Judge judge;
};

constexpr Rule kRules[] = {
    {{"-ngl", "--gpu-layers", "--n-gpu-layers"}, "LLAMA_ARG_N_GPU_LAYERS", JudgeLayers},
    {{"-dev", "--device"}, "LLAMA_ARG_DEVICE", JudgeDevice},
    {{"-fa", "--flash-attn"}, "LLAMA_ARG_FLASH_ATTN", JudgeFlash},
    {{"-ctk", "--cache-type-k"}, "LLAMA_ARG_CACHE_TYPE_K", JudgeCacheType},
    {{"-ctv", "--cache-type-v"}, "LLAMA_ARG_CACHE_TYPE_V", JudgeCacheType},
    {{"-sm", "--split-mode"}, "LLAMA_ARG_SPLIT_MODE", JudgeSplit},
    {{"-mg", "--main-gpu"}, "LLAMA_ARG_MAIN_GPU", JudgeMainGpu},
    {{}, "LLAMA_ARG_KV_OFFLOAD", JudgeOffload},
    {{}, "LLAMA_ARG_NO_KV_OFFLOAD", JudgePresence},
    // The cache of a draft model is a cache too.
    {{"-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl"},
     "LLAMA_ARG_N_GPU_LAYERS_DRAFT",
     JudgeLayers},
    {{"-devd", "--device-draft", "--spec-draft-device"}, "", JudgeDevice},
    {{"-ctkd", "--cache-type-k-draft", "--spec-draft-type-k"},
     "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K",
     JudgeCacheType},
    {{"-ctvd", "--cache-type-v-draft", "--spec-draft-type-v"},
     "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V",
     JudgeCacheType},
};
constexpr std::string_view kNoOffloadOptions[] = {"-nkvo", "--no-kv-offload"};

bool IsBench(const std::string& program) {
  return std::filesystem::path(program).filename().string().starts_with("llama-bench");
}

// Long options may be spelled with underscores.
std::string Spelling(const std::string& argument) {
  std::string spelling = argument;
  if (spelling.starts_with("--")) std::replace(spelling.begin(), spelling.end(), '_', '-');
  return spelling;
}

bool Contains(Words words, std::string_view word) {
  return !word.empty() && std::find(words.begin(), words.end(), word) != words.end();
}

// The value of an option, its last one if it stands several times.
std::optional<std::string> ValueOf(const std::vector<std::string>& arguments, Words options) {
  std::optional<std::string> value;
  for (size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (Contains(options, Spelling(arguments[i]))) value = arguments[i + 1];
  }
  return value;
}

// llama-bench takes lists: every entry counts.
const char* JudgeAll(Judge judge, const std::string& value, bool list) {
  if (!list) return judge(value);
  for (size_t begin = 0; begin <= value.size();) {
    const size_t end = std::min(value.find(',', begin), value.size());
    if (const char* reason = judge(std::string_view(value).substr(begin, end - begin))) {
      return reason;
    }
    begin = end + 1;
  }
  return nullptr;
}

std::string FindInArguments(const std::vector<std::string>& arguments, bool bench) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string option = Spelling(arguments[i]);
    const bool has_value = i + 1 < arguments.size();
    if (Contains(kNoOffloadOptions, option)) {
      if (!bench) return fmt::format("{} {}", arguments[i], kNoOffload);
      if (has_value && JudgeAll(JudgeNoOffload, arguments[i + 1], true) != nullptr) {
        return fmt::format("{} {} {}", arguments[i], arguments[i + 1], kNoOffload);
      }
    }
    if (!has_value) continue;
    for (const Rule& rule : kRules) {
      if (!Contains(rule.options, option)) continue;
      if (const char* reason = JudgeAll(rule.judge, arguments[i + 1], bench)) {
        return fmt::format("{} {} {}", arguments[i], arguments[i + 1], reason);
      }
    }
  }
  return "";
}

std::string FindPartialLayers(const std::vector<std::string>& arguments,
                              const Environment& environment, const LayerCount& count_layers) {
  const Rule& rule = kRules[0];
  const auto said = ValueOf(arguments, rule.options);
  const auto value = said ? said : environment(std::string(rule.variable));
  const std::optional<int> wanted = value ? ParseInt(*value) : std::nullopt;
  if (!wanted || *wanted < 0) return "";
  constexpr std::string_view kModel[] = {"-m", "--model"};
  const auto argument = ValueOf(arguments, kModel);
  const auto model = argument ? argument : environment("LLAMA_ARG_MODEL");
  const std::optional<int> layers = model ? count_layers(*model) : std::nullopt;
  // llama.cpp counts the output as one more layer and leaves out the first ones.
  if (!layers || *wanted > *layers) return "";
  return fmt::format(
      "{} gives {} of {} layers to our device, so llama.cpp keeps the cache of the others; "
      "leave it out or say all",
      said ? "-ngl " + *value : fmt::format("{}={}", rule.variable, *value), *wanted, *layers + 1);
}

}  // namespace

std::optional<int> CountLayers(const std::string& path) {
  const std::unique_ptr<gguf_context, decltype(&gguf_free)> file(
      gguf_init_from_file(path.c_str(), {/*no_alloc=*/true, /*ctx=*/nullptr}), gguf_free);
  if (!file) return std::nullopt;
  const int64_t name = gguf_find_key(file.get(), "general.architecture");
  if (name < 0 || gguf_get_kv_type(file.get(), name) != GGUF_TYPE_STRING) return std::nullopt;
  const std::string key = fmt::format("{}.block_count", gguf_get_val_str(file.get(), name));
  const int64_t count = gguf_find_key(file.get(), key.c_str());
  if (count < 0 || gguf_get_kv_type(file.get(), count) != GGUF_TYPE_UINT32) return std::nullopt;
  return static_cast<int>(gguf_get_val_u32(file.get(), count));
}

std::string FindBypass(const std::string& program, const std::vector<std::string>& arguments,
                       const Environment& environment, const LayerCount& count_layers) {
  const bool bench = IsBench(program);
  std::string cause = FindInArguments(arguments, bench);
  if (!cause.empty()) return cause;
  for (const Rule& rule : kRules) {
    if (bench || rule.variable.empty()) continue;  // llama-bench reads no variables
    const auto value = environment(std::string(rule.variable));
    if (!value) continue;
    if (const char* reason = rule.judge(*value)) {
      return fmt::format("{}={} in the environment {}", rule.variable, *value, reason);
    }
  }
  return FindPartialLayers(arguments, environment, count_layers);
}

std::vector<std::string> ModelsOf(const std::vector<std::string>& arguments,
                                  const Environment& environment) {
  constexpr std::string_view kModel[] = {"-m", "--model"};
  constexpr std::string_view kDraft[] = {"-md", "--model-draft", "--spec-draft-model"};
  std::vector<std::string> models;
  const auto add = [&](Words options, const char* variable) {
    const auto argument = ValueOf(arguments, options);
    const auto model = argument ? argument : environment(variable);
    if (model) models.push_back(*model);
  };
  add(kModel, "LLAMA_ARG_MODEL");
  add(kDraft, "LLAMA_ARG_SPEC_DRAFT_MODEL");
  return models;
}

bool AsksForInformation(const std::vector<std::string>& arguments) {
  constexpr std::string_view kQuestions[] = {"-h",           "--help",           "--usage",
                                             "--version",    "--list-devices",   "-cl",
                                             "--cache-list", "--completion-bash"};
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return Contains(kQuestions, Spelling(argument));
  });
}

Handover HandoverFor(const std::string& program, const std::vector<std::string>& arguments) {
  struct Wanted {
    size_t rule;
    const char* value;
  };
  // Not left to llama.cpp's guesses: layers by free memory, flash attention by a trial.
  constexpr Wanted kWanted[] = {{1, POLARQUANT_DEVICE_NAME}, {0, "all"}, {2, "on"}};
  Handover setup;
  for (const auto& [index, value] : kWanted) {
    const Rule& rule = kRules[index];
    const bool said = std::any_of(arguments.begin(), arguments.end(), [&](const auto& argument) {
      return Contains(rule.options, Spelling(argument));
    });
    if (said) continue;
    if (!IsBench(program)) {
      setup.variables.emplace_back(rule.variable, value);
    } else {
      setup.arguments.emplace_back(rule.options[0]);
      setup.arguments.emplace_back(std::string_view(value) == "all" ? "-1" : value);
    }
  }
  return setup;
}

}  // namespace polarquant::cli
