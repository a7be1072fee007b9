// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `tune` makes a model's profile, `profile` shows one.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "command.h"
#include "fingerprint.h"
#include "interrupt.h"
#include "polarquant/error.h"
#include "profile_plot.h"
#include "profile_store.h"

namespace polarquant::cli {
namespace {

double MeanGain(const ModelProfile& profile, const Normalisation& normalisation) {
  double sum = 0;
  int heads = 0;
  for (const LayerProfile& layer : profile.layers) {
    for (int head = 0; head < layer.num_kv_heads; ++head, ++heads) {
      sum += layer.GainDb(head, normalisation);
    }
  }
  return heads == 0 ? 0 : sum / heads;
}

std::string RopeText(const Rope& rope) {
  switch (rope.pairing) {
    case Rope::Pairing::kNone:
      return "none";
    case Rope::Pairing::kAdjacent:
      return fmt::format("{} adjacent", rope.dims);
    case Rope::Pairing::kHalves:
      return fmt::format("{} halves", rope.dims);
  }
  return "";
}

bool KnowsFrequencies(const ModelProfile& profile) {
  return std::ranges::all_of(profile.layers, [](const LayerProfile& layer) {
    return layer.rope.frequencies.size() == static_cast<size_t>(layer.rope.dims) / 2;
  });
}

std::string Advice(const ModelProfile& profile) {
  return KnowsFrequencies(profile)
             ? "turbo4:balanced serves this model."
             : "The frequencies of this model's RoPE are not known, as with several positions a "
               "row: take turbo4:balance:center.";
}

Json Describe(const ModelProfile& profile) {
  Json json = {{"model", profile.model},
               {"architecture", profile.architecture},
               {"fingerprint", profile.fingerprint},
               {"text", profile.text},
               {"tokens", profile.tokens},
               {"page_tokens", profile.page_tokens}};
  for (const GainStep& step : kGainSteps) {
    json["mean_gain_db"][step.name] = MeanGain(profile, step.normalisation);
  }
  for (const LayerProfile& layer : profile.layers) {
    Json row = {{"layer", layer.layer},
                {"num_kv_heads", layer.num_kv_heads},
                {"head_dim", layer.head_dim},
                {"rope", RopeText(layer.rope)}};
    for (const GainStep& step : kGainSteps) {
      for (int head = 0; head < layer.num_kv_heads; ++head) {
        row["gain_db"][step.name].push_back(layer.GainDb(head, step.normalisation));
      }
    }
    json["layers"].push_back(std::move(row));
  }
  return json;
}

std::string PrintProfile(const ModelProfile& profile) {
  std::vector<std::string> heading = {"layer", "kv_head", "RoPE"};
  for (const GainStep& step : kGainSteps) heading.emplace_back(step.name);
  heading.insert(heading.end(), {"page scales from", "to"});
  Table table(std::move(heading));
  for (const LayerProfile& layer : profile.layers) {
    for (int head = 0; head < layer.num_kv_heads; ++head) {
      const auto first = layer.balance.begin() + static_cast<ptrdiff_t>(head) * layer.head_dim;
      const auto [low, high] = std::minmax_element(first, first + layer.head_dim);
      std::vector<std::string> row = {fmt::format("{}", layer.layer), fmt::format("{}", head),
                                      RopeText(layer.rope)};
      for (const GainStep& step : kGainSteps) {
        row.push_back(fmt::format("{:.2f}", layer.GainDb(head, step.normalisation)));
      }
      row.push_back(fmt::format("{:.3f}", *low));
      row.push_back(fmt::format("{:.3f}", *high));
      table.Add(std::move(row));
    }
  }
  std::vector<std::string> mean = {"mean", "", ""};
  for (const GainStep& step : kGainSteps) {
    mean.push_back(fmt::format("{:.2f}", MeanGain(profile, step.normalisation)));
  }
  mean.insert(mean.end(), {"", ""});
  table.Add(std::move(mean));
  return fmt::format(
      "{} ({}), fingerprint {}\n{} tokens of {}, pages of {}\nBy how many dB the error of logits "
      "falls, for the same codec (6.02 dB are one bit):\n\n{}\n{}\n",
      profile.model, profile.architecture, profile.fingerprint, profile.tokens, profile.text,
      profile.page_tokens, table.Print(), Advice(profile));
}

struct TuneCommand {
  std::string model, output;
  bool if_missing = false;
  TuneOptions tune;
  JsonOption json;
};

int RunTune(const GlobalOptions& global, const TuneCommand& options) {
  SetUpLlama(global.verbose);
  CatchInterrupts();
  const ModelName name = IdentifyModel(options.model);
  const std::string path =
      options.output.empty() ? ProfilePath(name.fingerprint).string() : options.output;
  ModelProfile profile;
  if (options.if_missing) profile = LoadKept(path).value_or(ModelProfile{});
  if (profile.layers.empty() || (options.tune.dense && !profile.has_dense())) {
    const Plugin plugin(FindPlugin(global.plugin));
    profile = MakeProfile(options.model, name, plugin, options.tune);
    profile.Save(path);
  }
  Json json = Describe(profile);
  json["file"] = path;
  std::string text = fmt::format("{}\n", path);
  for (const GainStep& step : kGainSteps) {
    text += fmt::format("  {:<15} {:5.2f} dB less error of logits\n", step.name,
                        MeanGain(profile, step.normalisation));
  }
  Report(json, text + Advice(profile) + "\n", options.json);
  return 0;
}

struct ProfileCommand {
  std::string file, plot;
  JsonOption json;
};

int RunProfile(const ProfileCommand& options) {
  const ModelProfile profile = ModelProfile::Load(options.file);
  if (!options.plot.empty()) PlotGains(profile, options.plot);
  Report(Describe(profile), PrintProfile(profile), options.json);
  return 0;
}

}  // namespace

void AddTune(CLI::App& app, const GlobalOptions& global, Action& action) {
  auto options = std::make_shared<TuneCommand>();
  CLI::App* command =
      app.add_subcommand("tune", "Make a model's profile, which balanced caches need");
  command->footer(R"(
Reads a few thousand tokens with an exact cache and observes the model's queries and keys. The
profile is a property of the model, not of the text, and the same for all quantisations of its
weights. Commands that need one make it by themselves; this one makes it anew, or from your text.

Examples:
  polarquant tune -m model.gguf
  polarquant tune -m model.gguf -f prose.txt code.py --tokens 8192 -o model.profile)");
  AddModelOption(*command, options->model)->required();
  command->add_option("-f,--file", options->tune.texts, "Texts to read; default the essay we ship")
      ->type_name("FILE...");
  command
      ->add_option("-o,--output", options->output,
                   "The profile; default the cache folder, where other commands look")
      ->type_name("FILE");
  command->add_option("--tokens", options->tune.num_tokens, "Read at most that many tokens")
      ->type_name("N")
      ->check(CLI::Range(512, 1 << 24))
      ->capture_default_str();
  command->add_flag("--dense", options->tune.dense,
                    "Add dense maps, for schemes like turbo4:dense; takes longer");
  command->add_flag("--if-missing", options->if_missing, "Leave a profile that is there as it is");
  AddThreadsOption(*command, options->tune.num_threads);
  AddJsonOption(*command, options->json);
  command->callback([&global, &action, options] {
    action = [&global, options] { return RunTune(global, *options); };
  });
}

void AddProfile(CLI::App& app, const GlobalOptions& /*global*/, Action& action) {
  auto options = std::make_shared<ProfileCommand>();
  CLI::App* command = app.add_subcommand("profile", "Show a model's profile");
  command->footer(R"(
Examples:
  polarquant profile model.profile
  polarquant profile model.profile --plot gains.svg --json)");
  command->add_option("file", options->file, "A profile made by polarquant tune")
      ->type_name("FILE")
      ->required();
  command->add_option("--plot", options->plot, "Draw the gains by layer and head (SVG)")
      ->type_name("FILE");
  AddJsonOption(*command, options->json);
  command->callback([&action, options] { action = [options] { return RunProfile(*options); }; });
}

}  // namespace polarquant::cli
