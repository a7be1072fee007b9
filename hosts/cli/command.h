// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. What its sub-commands share: how they are declared, and options
// that mean the same everywhere.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "cache_spec.h"
#include "report.h"

namespace polarquant::cli {

// Of the whole command line.
struct GlobalOptions {
  bool verbose = false;              // let llama.cpp's log through
  std::string plugin;                // --plugin, else searched for
  std::vector<std::string> program;  // what stands after `--`
};

// Runs the chosen sub-command; its result is the exit status.
using Action = std::function<int()>;

// Each declares one sub-command; choosing it sets `action`.
void AddRun(CLI::App& app, const GlobalOptions& global, Action& action);
void AddPerplexity(CLI::App& app, const GlobalOptions& global, Action& action);
void AddBench(CLI::App& app, const GlobalOptions& global, Action& action);
void AddSchemes(CLI::App& app, const GlobalOptions& global, Action& action);
void AddCapture(CLI::App& app, const GlobalOptions& global, Action& action);
void AddCodecs(CLI::App& app, const GlobalOptions& global, Action& action);
void AddTune(CLI::App& app, const GlobalOptions& global, Action& action);
void AddProfile(CLI::App& app, const GlobalOptions& global, Action& action);
void AddVerify(CLI::App& app, const GlobalOptions& global, Action& action);
void AddDoctor(CLI::App& app, const GlobalOptions& global, Action& action);

void AddCacheOptions(CLI::App& command, CacheOptions& options);
void AddJsonOption(CLI::App& command, JsonOption& option);
void AddThreadsOption(CLI::App& command, int& num_threads);
CLI::Option* AddModelOption(CLI::App& command, std::string& model);

}  // namespace polarquant::cli
