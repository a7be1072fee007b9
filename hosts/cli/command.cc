// SPDX-License-Identifier: Apache-2.0
#include "command.h"

#include "paths.h"

namespace polarquant::cli {

void AddCacheOptions(CLI::App& command, CacheOptions& options) {
  command
      .add_option(
          "--kv", options.caches,
          "Cache: K/V schemes, one scheme for both, a preset (small, balanced, precise), or "
          "stock:TYPE for llama.cpp's own; repeatable. Default " +
              std::string(kDefaultCache))
      ->type_name("SPEC")
      ->expected(1)
      ->take_all();
  command
      .add_option("--window", options.window_tokens, "Newest tokens kept exact, for caches of --kv")
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--sinks", options.sink_tokens, "First tokens kept exact, for caches of --kv")
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option(
          "--policy", options.policies,
          "Cache described by a policy file (JSON), with window, sinks and layers of its own")
      ->type_name("FILE")
      ->expected(1)
      ->take_all();
  CLI::Option* named =
      command
          .add_option("--profile", options.profile.files,
                      "The model's profile, instead of the one kept in (or made for) the cache "
                      "folder; repeatable, for a draft model")
          ->type_name("FILE")
          ->expected(1)
          ->take_all();
  command
      .add_flag("--no-profile", options.profile.none,
                "Use no profile: what it would say is learnt from the first prompt")
      ->excludes(named);
}

void AddJsonOption(CLI::App& command, JsonOption& option) {
  command
      .add_option_function<std::vector<std::string>>(
          "--json",
          [&option](const std::vector<std::string>& words) {
            option.wanted = true;
            option.path = words.empty() || words.front().empty() ? "-" : words.front();
          },
          "Print JSON on standard output instead of the table, or write it to FILE beside it")
      ->type_name("[FILE]")
      ->expected(0, 1)
      ->trigger_on_parse();
}

void AddThreadsOption(CLI::App& command, int& num_threads) {
  num_threads = DefaultThreads();
  command.add_option("-t,--threads", num_threads, "Threads")
      ->type_name("N")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

CLI::Option* AddModelOption(CLI::App& command, std::string& model) {
  return command.add_option("-m,--model", model, "Model, a GGUF file")->type_name("FILE");
}

}  // namespace polarquant::cli
