// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `capture`: the keys and values of a model on a text, as a file to
// measure codecs on.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ggml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <set>

#include "capture_file.h"
#include "command.h"
#include "fingerprint.h"
#include "interrupt.h"
#include "llama_session.h"
#include "polarquant/error.h"
#include "reading.h"

namespace polarquant::cli {
namespace {

constexpr int kPieceTokens = 512;

struct CaptureOptions {
  std::string model, output, layers;
  std::vector<std::string> texts;
  int num_tokens = 1024;
  int num_threads = 1;
  JsonOption json;
};

// "0,5,-1": the model's own numbers, negative ones from the end.
std::vector<int> ParseLayers(const std::string& text) {
  std::vector<int> layers;
  for (size_t begin = 0; begin <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    int layer = 0;
    const auto [stop, failure] = std::from_chars(text.data() + begin, text.data() + end, layer);
    if (failure != std::errc() || stop != text.data() + end) {
      throw Error(ErrorCode::kParameter,
                  fmt::format("--layers {} is no list of layers; write for instance 0,5,-1", text));
    }
    layers.push_back(layer);
    begin = end + 1;
  }
  return layers;
}

// Which of the layers `there` are wanted; all of them if none is named.
std::set<int> ChooseLayers(const std::vector<int>& wanted, const std::set<int>& there) {
  if (wanted.empty()) return there;
  std::set<int> chosen;
  for (const int number : wanted) {
    const int layer = number < 0 ? *there.rbegin() + 1 + number : number;
    if (!there.contains(layer)) {
      throw Error(ErrorCode::kParameter, fmt::format("this model keeps no keys in layer {}; choose "
                                                     "of {}",
                                                     number, fmt::join(there, ", ")));
    }
    chosen.insert(layer);
  }
  return chosen;
}

CapturedHalves Take(const Plugin::LayerRows& layer, int64_t num_tokens) {
  CapturedHalves taken;
  taken.layer = layer.layer;
  taken.role = layer.role;
  taken.num_kv_heads = layer.num_kv_heads;
  taken.num_tokens = num_tokens;
  taken.head_dim = layer.head_dim;
  const auto values = num_tokens * layer.num_kv_heads * layer.head_dim;
  taken.values.resize(static_cast<size_t>(values));
  ggml_fp16_t* to = taken.values.data();
  for (int head = 0; head < layer.num_kv_heads; ++head) {
    for (int64_t token = 0; token < num_tokens; ++token, to += layer.head_dim) {
      ggml_fp32_to_fp16_row(layer.rows + (token * layer.num_kv_heads + head) * layer.head_dim, to,
                            layer.head_dim);
    }
  }
  return taken;
}

void ReadText(Context& context, const Model& model, const Reading& reading) {
  std::vector<llama_token> tokens = reading.tokens;
  if (model.adds_first_token()) tokens.front() = model.first_token();
  Progress progress("capture", static_cast<double>(tokens.size()));
  for (size_t piece = 0; piece < tokens.size(); piece += kPieceTokens) {
    const size_t count = std::min<size_t>(kPieceTokens, tokens.size() - piece);
    context.Decode({tokens.data() + piece, count}, static_cast<int>(tokens.size()));
    progress.Update(static_cast<double>(piece + count), reading.source);
  }
}

int RunCapture(const GlobalOptions& global, const CaptureOptions& options) {
  SetUpLlama(global.verbose);
  CatchInterrupts();
  const std::vector<int> wanted = ParseLayers(options.layers);
  const ModelName name = IdentifyModel(options.model);
  const Plugin plugin(FindPlugin(global.plugin));
  const Model model(options.model, &plugin);
  if (options.num_tokens > model.trained_context()) {
    throw Error(ErrorCode::kParameter,
                fmt::format("--tokens {} is more than the {} this model was trained for",
                            options.num_tokens, model.trained_context()));
  }
  const Reading reading = ReadFor(model, options.texts, options.num_tokens);
  const auto num_tokens = static_cast<int64_t>(reading.tokens.size());
  if (num_tokens == 0) {
    throw Error(ErrorCode::kParameter, fmt::format("there is no text in {}", reading.source));
  }
  Context context(model, ParseCache("f16", 0, 0),
                  {static_cast<int>(num_tokens), kPieceTokens, kPieceTokens, options.num_threads});
  ReadText(context, model, reading);
  std::vector<CapturedHalves> tensors;
  plugin.Rows(num_tokens,
              [&](const Plugin::LayerRows& layer) { tensors.push_back(Take(layer, num_tokens)); });
  std::set<int> there;
  for (const CapturedHalves& tensor : tensors) there.insert(tensor.layer);
  const std::set<int> layers = ChooseLayers(wanted, there);
  std::erase_if(tensors, [&](const auto& tensor) { return !layers.contains(tensor.layer); });
  SaveCapture(options.output,
              {{"model", name.name},
               {"architecture", name.architecture},
               {"fingerprint", name.fingerprint},
               {"text", reading.source},
               {"tokens", fmt::format("{}", num_tokens)}},
              tensors);

  const auto bytes = std::filesystem::file_size(options.output);
  Json report;
  report["file"] = options.output;
  report["bytes"] = bytes;
  report["model"] = name.name;
  report["text"] = reading.source;
  report["tokens"] = num_tokens;
  report["layers"] = layers;
  Report(report,
         fmt::format("{}: {}\n{} tokens of {}; layers {}\n{}, {}\n", name.name, model.Describe(),
                     num_tokens, reading.source, fmt::join(layers, ", "), options.output,
                     PrintBytes(static_cast<double>(bytes))),
         options.json);
  return 0;
}

}  // namespace

void AddCapture(CLI::App& app, const GlobalOptions& global, Action& action) {
  auto options = std::make_shared<CaptureOptions>();
  CLI::App* command =
      app.add_subcommand("capture", "Write a model's keys and values on a text to a file");
  command->footer(R"(
Reads the text in one context with an exact cache of ours and writes the rows it then holds: keys
after RoPE, values, in f16, which is what the cache keeps. The file is in the safetensors format
(FORMAT.md); polarquant codecs --data FILE measures codecs on it.

Examples:
  polarquant capture -m model.gguf -f prose.txt -o rows.safetensors
  polarquant capture -m model.gguf --layers 0,5,-1 --tokens 2048 -o rows.safetensors
  polarquant codecs --data rows.safetensors --role key)");
  AddModelOption(*command, options->model)->required();
  command->add_option("-f,--file", options->texts, "Texts to read; default the essay we ship")
      ->type_name("FILE...");
  command->add_option("-o,--output", options->output, "The file to write")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--layers", options->layers,
                   "Layers, by the model's numbers, -1 the last; default all with a cache")
      ->type_name("N,N...");
  command->add_option("--tokens", options->num_tokens, "Read at most that many tokens")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  AddThreadsOption(*command, options->num_threads);
  AddJsonOption(*command, options->json);
  command->callback([&global, &action, options] {
    action = [&global, options] { return RunCapture(global, *options); };
  });
}

}  // namespace polarquant::cli
