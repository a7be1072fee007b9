// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `schemes`: every codec and what a row of it costs.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>

#include "command.h"
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
// lacks it. Kernels are chosen once in the life of a process, so a child asks.
std::vector<bool> FastOn(const char* target, const std::vector<Scheme>& schemes, int head_dim) {
  std::vector<bool> fast(schemes.size(), false);
  std::array<int, 2> ends = {};
  if (pipe(ends.data()) != 0) throw Error(ErrorCode::kHost, "the system gives no pipe");
  const pid_t child = fork();
  if (child < 0) throw Error(ErrorCode::kHost, "the system starts no process");
  if (child == 0) {
    setenv("POLARQUANT_ISA", target, 1);
    std::string answer;
    try {
      if (std::string_view(ActiveTarget()) == target) {
        for (const Scheme& scheme : schemes) answer += HasFastPath(scheme, head_dim) ? '1' : '0';
      }
    } catch (const Error&) {
      answer.clear();  // this CPU lacks the target
    }
    const ssize_t written = write(ends[1], answer.data(), answer.size());
    _exit(written == static_cast<ssize_t>(answer.size()) ? 0 : 1);
  }
  close(ends[1]);
  size_t index = 0;
  for (char letter = 0; read(ends[0], &letter, 1) == 1 && index < fast.size();) {
    fast[index++] = letter == '1';
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return fast;
}

Json OptionsOf(const CodecInfo& info) {
  Json options = Json::array();
  for (const CodecOption& option : info.options) {
    options.push_back({{"name", option.name},
                       {"values", ValuesOf(option)},
                       {"usual", SpellingOf(option, option.usual)},
                       {"summary", option.summary}});
  }
  return options;
}

// What comes after the table: the options of each codec.
std::string OptionsText() {
  Table table({"option", "values", "usual", "summary"});
  for (const CodecInfo& info : Codecs()) {
    for (const CodecOption& option : info.options) {
      table.Add({fmt::format("{}:{}=", info.name, option.name), ValuesOf(option),
                 SpellingOf(option, option.usual), std::string(option.summary)});
    }
  }
  return table.Print();
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
  report["active_target"] = ActiveTarget();
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
    row["options"] = OptionsOf(info);
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
      options.head_dim, ActiveTarget());
  report["refused"] = refused;
  std::string tail = "\n";
  for (const Json& row : refused) tail += row.at("cause").get<std::string>() + "\n";
  tail += OptionsText() +
          "\nturbo, e8 and trellis codecs also take :scale=norm or :scale=mse, and what is "
          "rotated :rotate=none.\n";
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
