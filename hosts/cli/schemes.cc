// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `schemes`: every codec and what a row of it costs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <memory>
#include <optional>

#include "cache_spec.h"
#include "command.h"
#include "on_target.h"
#include "polarquant/attention.h"
#include "polarquant/codec.h"
#include "polarquant/error.h"
#include "polarquant/page.h"

namespace polarquant::cli {
namespace {

struct SchemesOptions {
  int head_dim = 128;
  JsonOption json;
};

// Every codec, and centred those whose scale adapts to the row.
std::vector<Scheme> AllSchemes() {
  std::vector<Scheme> schemes;
  for (const CodecInfo& info : Codecs()) {
    const std::string name(info.name);
    schemes.push_back(Scheme::Parse(name));
    if (!info.scale_rules) continue;
    schemes.push_back(Scheme::Parse(name + ":center"));
    if (info.keys) schemes.push_back(Scheme::Parse(name + ":balanced"));
  }
  return schemes;
}

// What a page of the scheme is made of; empty, with the cause noted, if it does not take this
// head_dim.
std::optional<PageFormat> FormatOf(const Scheme& scheme, Role role, int head_dim, Json& refused) {
  try {
    return PageFormat(scheme, role, head_dim);
  } catch (const Error& error) {
    refused.push_back({{"name", scheme.ToString()}, {"cause", error.what()}});
    return std::nullopt;
  }
}

// For each scheme whether it has a fast path when `target` is forced; all false where this CPU
// lacks it.
std::vector<bool> FastOn(const char* target, const std::vector<Scheme>& schemes, int head_dim) {
  const auto letters = OnTarget(target, [&] {
    std::string answer;
    for (const Scheme& scheme : schemes) answer += HasFastPath(scheme, head_dim) ? '1' : '0';
    return answer;
  });
  std::vector<bool> fast(schemes.size(), false);
  for (size_t i = 0; letters && i < fast.size(); ++i) fast[i] = (*letters)[i] == '1';
  return fast;
}

int RunSchemes(const SchemesOptions& options) {
  CheckHeadDim(options.head_dim);
  std::map<std::string_view, CodecInfo> infos;
  for (const CodecInfo& info : Codecs()) infos.emplace(info.name, info);
  const std::vector<Scheme> schemes = AllSchemes();
  std::map<std::string, std::vector<bool>> fast;
  for (const char* target : {"avx2", "avx512"}) {
    fast[target] = FastOn(target, schemes, options.head_dim);
  }

  Json report;
  report["head_dim"] = options.head_dim;
  report["active_target"] = DefaultTarget().name;
  report["schemes"] = Json::array();
  Json refused = Json::array();
  Table table({"scheme", "roles", "bits/value", "record", "header", "page", "fast on", "summary"});
  for (size_t i = 0; i < schemes.size(); ++i) {
    const CodecInfo& info = infos.at(schemes[i].codec);
    std::vector<std::string> roles;
    if (info.keys) roles.emplace_back("keys");
    const bool weighs_queries = schemes[i].normalisation.needs_profile();
    if (info.values && !weighs_queries) roles.emplace_back("values");
    const auto format =
        FormatOf(schemes[i], info.keys ? Role::kKey : Role::kValue, options.head_dim, refused);
    if (!format) continue;
    std::vector<std::string> targets;
    for (const auto& [target, answers] : fast) {
      if (answers[i]) targets.push_back(target);
    }
    Json row;
    row["name"] = schemes[i].ToString();
    row["roles"] = roles;
    row["record_bytes"] = format->record_bytes();
    row["header_bytes"] = format->headers_bytes();
    row["page_tokens"] = format->page_tokens();
    row["bits_per_value"] = format->bits_per_value();
    row["fast_targets"] = targets;
    row["summary"] = info.summary;
    row["source"] = info.source;
    report["schemes"].push_back(row);
    table.Add({schemes[i].ToString(), fmt::format("{}", fmt::join(roles, "+")),
               fmt::format("{:.4f}", format->bits_per_value()),
               fmt::format("{}", format->record_bytes()),
               fmt::format("{}", format->headers_bytes()), fmt::format("{}", format->page_tokens()),
               targets.empty() ? "-" : fmt::format("{}", fmt::join(targets, ",")),
               std::string(info.summary)});
  }
  const std::string heading = fmt::format(
      "head_dim {}; record: bytes of one row, header: bytes of one page; kernels here: {}\n\n",
      options.head_dim, DefaultTarget().name);
  report["refused"] = refused;
  report["options"] = Json::array();
  std::string words = "\n";
  for (const CodecInfo& info : Codecs()) {
    for (const CodecOption& option : info.options) {
      const std::string values = option.words.empty()
                                     ? fmt::format("{}..{}", option.least, option.most)
                                     : fmt::format("{}", fmt::join(option.words, "|"));
      report["options"].push_back({{"codec", info.name},
                                   {"name", option.name},
                                   {"values", values},
                                   {"summary", option.summary}});
      words += fmt::format("{}:{}={}  {}\n", info.name, option.name, values, option.summary);
    }
  }
  std::string tail = words + "\n";
  for (const Json& row : refused) tail += row.at("cause").get<std::string>() + "\n";
  tail +=
      "What adapts to the row (turbo, e8, trellis, mixed, dual) also takes :scale=norm or "
      ":scale=mse, "
      "keys :sharpen=PERCENT, and what is rotated :rotate=none.\n\nPresets:\n";
  report["presets"] = Json::array();
  for (const Preset& each : Presets()) {
    tail += fmt::format("{:<9} {:<23} {}\n", each.name, each.schemes, each.summary);
    report["presets"].push_back(
        {{"name", each.name}, {"kv", each.schemes}, {"summary", each.summary}});
  }
  Report(report, heading + table.Print() + tail, options.json);
  return 0;
}

}  // namespace

void AddSchemes(CLI::App& app, const GlobalOptions& /*global*/, Action& action) {
  auto options = std::make_shared<SchemesOptions>();
  CLI::App* command =
      app.add_subcommand("schemes", "Every scheme: bits a value, bytes, targets with a fast path");
  command->footer(R"(
Fast targets are those of this CPU that read the codes with kernels of their own; elsewhere codes
are decoded first.

Examples:
  polarquant schemes
  polarquant schemes --head-dim 64 --json)");
  command->add_option("--head-dim", options->head_dim, "Values in a row")
      ->type_name("N")
      ->capture_default_str();
  AddJsonOption(*command, options->json);
  command->callback([&action, options] { action = [options] { return RunSchemes(*options); }; });
}

}  // namespace polarquant::cli
