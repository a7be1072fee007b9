// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `doctor`: what this machine has, and whether it works.
#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "checks.h"
#include "command.h"
#include "interrupt.h"
#include "llama_session.h"
#include "paths.h"
#include "polarquant/attention.h"
#include "polarquant/error.h"
#include "profile_store.h"
#include "self_check.h"

namespace polarquant::cli {
namespace {

struct DoctorOptions {
  std::string model;
  int num_threads = 1;
  CacheOptions caches;
  JsonOption json;
};

// __builtin_cpu_supports takes literals only.
#define PQ_FEATURE(name) (__builtin_cpu_supports(name) != 0 ? std::string(" " name) : std::string())
std::string CpuFeatures() {
  const std::string features = PQ_FEATURE("avx2") + PQ_FEATURE("fma") + PQ_FEATURE("avx512f") +
                               PQ_FEATURE("avx512bw") + PQ_FEATURE("avx512vl") +
                               PQ_FEATURE("avx512vbmi") + PQ_FEATURE("avx512vnni");
  return features.empty() ? "none of avx2, avx512" : features.substr(1);
}
#undef PQ_FEATURE

std::string LlamaFound() {
  Dl_info library = {};
  dladdr(reinterpret_cast<void*>(&llama_version), &library);
  return fmt::format("{} (ggml {}, commit {}) at {}", llama_version(), ggml_version(),
                     ggml_commit(), library.dli_fname != nullptr ? library.dli_fname : "?");
}

std::string ProgramsFound() {
  std::vector<std::string> found;
  for (const char* name :
       {"llama-server", "llama-completion", "llama-cli", "llama-perplexity", "llama-bench"}) {
    try {
      found.push_back(FindProgram(name));
    } catch (const Error&) {
      continue;  // not every installation has every program
    }
  }
  if (found.empty()) {
    throw Error(ErrorCode::kHost,
                fmt::format("no llama.cpp program in PATH or in {}", LlamaFolder().string()));
  }
  return fmt::format("{}", fmt::join(found, " "));
}

std::string SelfCheck(int num_threads) {
  double worst = 0;
  const std::vector<AttentionCheck> all = CheckAttention(kCheckedSchemes, num_threads);
  for (const AttentionCheck& check : all) {
    if (!check.good) {
      throw Error(ErrorCode::kCorruption,
                  fmt::format("attention with {} at head_dim {} on {} is off by {:.2g} of its "
                              "length, {:.2g} is allowed; force another with POLARQUANT_ISA and "
                              "report this CPU",
                              check.scheme, check.head_dim, DefaultTarget().name, check.error,
                              kMaxAttentionError));
    }
    worst = std::max(worst, check.error);
  }
  return fmt::format("{} combinations on {}, largest relative error {:.1g}", all.size(),
                     DefaultTarget().name, worst);
}

std::string CheckModel(const std::string& path, const Plugin& plugin, const CacheSpec& spec,
                       int num_threads) {
  const Model model(path, &plugin);
  Context context(model, spec, {256, 64, 64, num_threads});
  const std::vector<llama_token> tokens(16, model.first_token());
  context.Turn([&] {
    context.Decode(tokens, 0);
    context.Decode({tokens.data(), 1}, 0);
  });
  const auto logits = context.Logits(0);
  if (!std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{} decodes to logits that are not finite "
                                                     "with cache {}",
                                                     path, spec.label));
  }
  const PluginStatus status = plugin.Status();
  if (status.attention_calls == 0) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{} decodes without ever asking for attention on our cache", path));
  }
  return fmt::format("{}: supported, {} layers owned with {}", model.Describe(),
                     context.num_layers(), spec.label);
}

int RunDoctor(const GlobalOptions& global, const DoctorOptions& options) {
  SetUpLlama(global.verbose);
  CatchInterrupts();
  std::vector<CacheSpec> specs = ParseCaches(options.caches);
  for (const CacheSpec& spec : specs) {
    if (!spec.stock) continue;
    throw Error(ErrorCode::kParameter,
                fmt::format("--kv {} is llama.cpp's own cache; name one of ours", spec.label));
  }
  Checks checks;
  checks.Add("CPU", [] { return CpuFeatures(); });
  const bool kernels = checks.Add("kernels", [] { return std::string(DefaultTarget().name); });
  if (kernels) checks.Add("attention", [&] { return SelfCheck(options.num_threads); });
  checks.Add("llama.cpp", LlamaFound);
  checks.Add("programs", ProgramsFound);
  std::unique_ptr<Plugin> plugin;
  const bool loaded = checks.Add("plug-in", [&] {
    plugin = std::make_unique<Plugin>(FindPlugin(global.plugin));
    return plugin->path() + " loads";
  });
  if (!options.model.empty() && loaded) {
    checks.Add("profile", [&] {
      AttachProfiles(
          specs, options.caches.profile, {options.model},
          [&]() -> const Plugin& { return *plugin; }, options.num_threads);
      const auto& profiles = specs.front().policy.profiles;
      return profiles.empty() ? std::string("not needed") : profiles.front();
    });
    for (const CacheSpec& spec : specs) {
      checks.Add("model",
                 [&] { return CheckModel(options.model, *plugin, spec, options.num_threads); });
    }
  }
  Json report;
  report["ok"] = checks.status() == 0;
  report["checks"] = checks.json();
  const std::string tail = checks.status() == 0 ? "\nAll is well.\n" : "\nSomething is wrong.\n";
  Report(report, checks.text() + tail, options.json);
  return checks.status();
}

}  // namespace

void AddDoctor(CLI::App& app, const GlobalOptions& global, Action& action) {
  auto options = std::make_shared<DoctorOptions>();
  CLI::App* command =
      app.add_subcommand("doctor", "Check this machine, llama.cpp, the plug-in and a model");
  command->footer(R"(
Examples:
  polarquant doctor
  polarquant doctor -m model.gguf --kv turbo3 --json)");
  AddModelOption(*command, options->model);
  AddCacheOptions(*command, options->caches);
  AddThreadsOption(*command, options->num_threads);
  AddJsonOption(*command, options->json);
  command->callback([&global, &action, options] {
    action = [&global, options] { return RunDoctor(global, *options); };
  });
}

}  // namespace polarquant::cli
