// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Before `run` starts a program: would these arguments or this
// environment make llama.cpp keep its own cache, silently?
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace polarquant::cli {

// An environment variable, if set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

// The layers of the model in a GGUF file, if that can be told.
using LayerCount = std::function<std::optional<int>(const std::string& path)>;
std::optional<int> CountLayers(const std::string& path);

// Why `program` with these arguments would not use our cache, naming the option or variable and
// what to do; empty if nothing speaks against it. What only shows while it runs (another version,
// a layer left out) is for the plug-in's own report.
std::string FindBypass(const std::string& program, const std::vector<std::string>& arguments,
                       const Environment& environment, const LayerCount& count_layers);

// The model files that the arguments, or else the environment, name: the model and a draft model.
std::vector<std::string> ModelsOf(const std::vector<std::string>& arguments,
                                  const Environment& environment);

// Whether the program is only asked to tell about itself, so that no cache is expected.
bool AsksForInformation(const std::vector<std::string>& arguments);

// Arguments and variables that give the cache to our device, where the user has not said so
// already: llama-bench takes arguments, the other programs variables too.
struct Handover {
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> variables;
};
Handover HandoverFor(const std::string& program, const std::vector<std::string>& arguments);

}  // namespace polarquant::cli
