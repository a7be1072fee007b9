// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `run`: any llama.cpp program with our cache, or a failure that
// says why not.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <memory>

#include "command.h"
#include "paths.h"
#include "plugin.h"
#include "polarquant/error.h"
#include "profile_store.h"
#include "run_child.h"
#include "run_guard.h"
#include "temporary_file.h"

namespace polarquant::cli {
namespace {

struct RunOptions {
  CacheOptions caches;
  bool quiet = false;
};

void CheckCaches(const std::vector<CacheSpec>& specs) {
  if (specs.size() != 1) {
    throw Error(ErrorCode::kParameter,
                fmt::format("run takes one cache, {} are named", specs.size()));
  }
  if (specs.front().stock) {
    throw Error(ErrorCode::kParameter,
                fmt::format("--kv {} is llama.cpp's own cache; run the program without us",
                            specs.front().label));
  }
}

// `profiles` are those that the policy does not name itself.
Variables CacheVariables(const CacheSpec& spec, const std::vector<std::string>& profiles) {
  std::optional<std::string> profile;
  if (!profiles.empty()) profile = fmt::format("{}", fmt::join(profiles, ":"));
  if (!spec.policy_file.empty()) {
    return {{"POLARQUANT_POLICY", spec.policy_file},
            {"POLARQUANT_KV", std::nullopt},
            {"POLARQUANT_WINDOW", std::nullopt},
            {"POLARQUANT_SINKS", std::nullopt},
            {"POLARQUANT_PROFILE", profile}};
  }
  const Policy& policy = spec.policy;
  return {{"POLARQUANT_KV", policy.key.ToString() + "/" + policy.value.ToString()},
          {"POLARQUANT_WINDOW", std::to_string(policy.window_tokens)},
          {"POLARQUANT_SINKS", std::to_string(policy.sink_tokens)},
          {"POLARQUANT_POLICY", std::nullopt},
          {"POLARQUANT_PROFILE", profile}};
}

void PrintEnd(const Json& status) {
  if (!status.is_object()) return;  // ended before the plug-in could say
  const double resident = status.value("kv_resident_bytes", 0.0);
  const double f16 = status.value("f16_bytes", 0.0);
  if (resident <= 0 || f16 <= 0) return;
  fmt::print(stderr, "polarquant: cache {}: {} resident at the end, where 16 bit takes {}\n",
             status.value("kv", "?"), PrintBytes(resident), PrintBytes(f16));
}

int RunRun(const GlobalOptions& global, const RunOptions& options) {
  if (global.program.empty()) {
    throw Error(ErrorCode::kParameter,
                "run needs a program after --, for instance: polarquant run -- llama-server -m "
                "model.gguf");
  }
  std::vector<CacheSpec> specs = ParseCaches(options.caches);
  CheckCaches(specs);
  const std::string program = FindProgram(global.program.front());
  const std::vector<std::string> arguments(global.program.begin() + 1, global.program.end());
  const bool information = AsksForInformation(arguments);
  const std::string plugin = FindPlugin(global.plugin);
  SetUpLlama(global.verbose);  // its log, which CountLayers could write to
  const Environment environment = [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
  };
  const std::string bypass =
      information ? "" : FindBypass(program, arguments, environment, CountLayers);
  if (!bypass.empty()) throw Error(ErrorCode::kHost, bypass);

  if (information) {
    // Nothing will be cached: no profile is made for a question.
    specs.front() = ParseCache("turbo4", 0, 0);
  }
  std::unique_ptr<Plugin> loaded;
  const std::vector<std::string> profiles = AttachProfiles(
      specs, options.caches.profile, ModelsOf(arguments, environment),
      [&]() -> const Plugin& {
        loaded = std::make_unique<Plugin>(plugin);
        return *loaded;
      },
      DefaultThreads());
  Variables variables = CacheVariables(specs.front(), profiles);
  const TemporaryFile status_file;
  const Handover handover = HandoverFor(program, arguments);
  variables.emplace_back("GGML_BACKEND_PATH", plugin);
  variables.emplace_back("POLARQUANT_STATUS", status_file.path());
  for (const auto& [name, value] : handover.variables) variables.emplace_back(name, value);
  std::vector<std::string> argv = {program};
  argv.insert(argv.end(), handover.arguments.begin(), handover.arguments.end());
  argv.insert(argv.end(), arguments.begin(), arguments.end());

  StatusLog log(status_file.path());
  const ChildEnd end = RunChild(argv, variables, log);
  const std::string cause = information ? log.trouble() : JudgeEnd(log, end, program);
  if (!cause.empty()) throw Error(ErrorCode::kHost, cause);
  if (!options.quiet) PrintEnd(log.last_status());
  return end.status;
}

}  // namespace

void AddRun(CLI::App& app, const GlobalOptions& global, Action& action) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app.add_subcommand(
      "run", "Run a llama.cpp program with a compressed cache, or fail saying why it would not be");
  command->footer(R"(
The program follows --, found in PATH or beside the llama.cpp polarquant was built for. Whatever
would make llama.cpp keep its own cache (-nkvo, -ngl 0, -dev none, -fa off, -ctk, another version,
a statically linked build) ends in an error that names it. Else its exit status is ours.

Examples:
  polarquant run -- llama-server -m model.gguf -c 32768
  polarquant run --kv turbo4/turbo3 --window 256 -- llama-completion -m model.gguf -p "Hello"
  polarquant run --policy policy.json -- llama-bench -m model.gguf -d 8192)");
  AddCacheOptions(*command, options->caches);
  command->add_flag("-q,--quiet", options->quiet, "Do not print the cache's size at the end");
  command->callback([&global, &action, options] {
    action = [&global, options] { return RunRun(global, *options); };
  });
}

}  // namespace polarquant::cli
