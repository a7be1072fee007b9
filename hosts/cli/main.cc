// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Chooses the sub-command, and turns errors into one line and an
// exit status.
#include <fmt/format.h>
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "command.h"
#include "interrupt.h"
#include "polarquant/error.h"

namespace polarquant::cli {
namespace {

constexpr const char* kExamples = R"(
Examples:
  polarquant doctor -m model.gguf
  polarquant run -- llama-server -m model.gguf -c 32768
  polarquant run --kv turbo4:center/turbo3 -- llama-completion -m model.gguf -p "Once upon a time"
  polarquant perplexity -m model.gguf -f text.txt --kv turbo4 --kv stock:q4_0
  polarquant bench -m model.gguf --depth 0,8192 --kv turbo4:center/turbo4
  polarquant tune -m model.gguf
  polarquant schemes --head-dim 128
  polarquant codecs --head-dim 128
  polarquant verify

Exit status: 0; the status of the program that `run` ran; or 10 bad text or file, 20 damage or a
wrong result, 30 unsupported, 40 bad parameter, 50 not enough memory, 60 llama.cpp or the system said no.)";

int Main(int argc, char** argv) {
  GlobalOptions global;
  Action action;
  CLI::App app("Compressed KV caches for llama.cpp: run it, measure it, check it.", "polarquant");
  app.footer(kExamples);
  app.require_subcommand(1);
  app.fallthrough();
  app.set_version_flag(
      "-V,--version", fmt::format("polarquant {} for llama.cpp {} (ggml {}, commit {})", PQ_VERSION,
                                  llama_version(), ggml_version(), ggml_commit()));
  app.add_flag("--verbose", global.verbose, "Let llama.cpp's own log through");
  app.add_option("--plugin", global.plugin, "The plug-in to load, libggml-polarquant.so")
      ->type_name("FILE");
  AddRun(app, global, action);
  AddPerplexity(app, global, action);
  AddBench(app, global, action);
  AddSchemes(app, global, action);
  AddCapture(app, global, action);
  AddCodecs(app, global, action);
  AddTune(app, global, action);
  AddProfile(app, global, action);
  AddVerify(app, global, action);
  AddDoctor(app, global, action);

  // What follows `--` belongs to another program: its options are not ours to parse.
  char** const end = argv + argc;
  char** const separator =
      std::find_if(argv, end, [](const char* word) { return std::string_view(word) == "--"; });
  if (separator != end) global.program.assign(separator + 1, end);
  try {
    app.parse(static_cast<int>(separator - argv), argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // help and version
    throw Error(ErrorCode::kParameter, std::string(error.what()) + "; see polarquant --help");
  }
  return action();
}

}  // namespace
}  // namespace polarquant::cli

int main(int argc, char** argv) {
  using polarquant::cli::PendingSignal;
  try {
    return polarquant::cli::Main(argc, argv);
  } catch (const polarquant::cli::Interrupted&) {
    fmt::print(stderr, "polarquant: interrupted\n");
    return 128 + PendingSignal();
  } catch (const polarquant::Error& error) {
    fmt::print(stderr, "polarquant: error: {}\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "polarquant: error: out of memory\n");
    return static_cast<int>(polarquant::ErrorCode::kCapacity);
  } catch (const std::exception& error) {
    fmt::print(stderr, "polarquant: error: {}\n", error.what());
    return static_cast<int>(polarquant::ErrorCode::kHost);
  }
}
