// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `verify`: whether this build does on this CPU what the documents
// say, on every instruction set.
#include "verify.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <memory>
#include <sstream>

#include "checks.h"
#include "command.h"
#include "interrupt.h"
#include "on_target.h"
#include "polarquant/attention.h"

namespace polarquant::cli {
namespace {

struct VerifyOptions {
  JsonOption json;
};

// In a child process, with its kernels.
std::string MeasureAll() {
  std::vector<Finding> all;
  for (const auto check :
       {CheckRotation, CheckCodebooks, CheckScaleRules, CheckBytes, CheckAttentions, CheckStore}) {
    const std::vector<Finding> findings = check();
    all.insert(all.end(), findings.begin(), findings.end());
    ThrowIfInterrupted();
  }
  Json json;
  json["digests"] = PageDigests();
  for (const Finding& finding : all) {
    json["findings"].push_back(
        {{"name", finding.name},
         {"figure", std::isfinite(finding.figure) ? Json(finding.figure) : Json()},
         {"bound", finding.bound},
         {"what", finding.what}});
  }
  return json.dump();
}

struct Measured {
  std::string target;
  Json json;
};

std::vector<Measured> MeasureTargets() {
  std::vector<Measured> all;
  Progress progress("verify", static_cast<double>(std::size(kTargets)));
  for (const char* target : kTargets) {
    progress.Update(static_cast<double>(all.size()), target);
    const auto answer = OnTarget(target, MeasureAll);
    if (answer) all.push_back({target, Json::parse(*answer)});
  }
  return all;
}

// Judges finding `index` on every target; false at the first above its bound.
bool JudgeFinding(Checks& checks, const std::vector<Measured>& all, size_t index) {
  const auto figure_on = [&](const Measured& measured) {
    const Json& figure = measured.json.at("findings").at(index).at("figure");
    return figure.is_null() ? NAN : figure.get<double>();
  };
  const Measured* worst = &all.front();
  for (const Measured& measured : all) {
    if (!(figure_on(measured) <= figure_on(*worst))) worst = &measured;
  }
  const Json& finding = worst->json.at("findings").at(index);
  const auto bound = finding.at("bound").get<double>();
  const double figure = figure_on(*worst);
  return checks.Judge(finding.at("name").get<std::string>(), figure, bound,
                      finding.at("what").get<std::string>());
}

// How many codecs, roles and head_dims give other bytes or rows than on the first target.
bool JudgeDigests(Checks& checks, const std::vector<Measured>& all) {
  int wrong = 0;
  int count = 0;
  std::string which;
  for (const Measured& measured : all) {
    std::istringstream first(all.front().json.at("digests").get<std::string>());
    std::istringstream other(measured.json.at("digests").get<std::string>());
    count = 0;
    for (std::string line, other_line; std::getline(first, line); ++count) {
      if (std::getline(other, other_line) && line == other_line) continue;
      if (wrong++ == 0) which = fmt::format(", first {} on {}", line, measured.target);
    }
  }
  return checks.Judge("same bytes", wrong, 0,
                      fmt::format("of {} pages (every codec, role, head_dim 64, 80, 128), those "
                                  "with other bytes or rows on another target{}",
                                  count, which));
}

int RunVerify(const VerifyOptions& options) {
  CatchInterrupts();
  Checks checks;
  std::vector<Measured> all;
  const bool kernels = checks.Add("kernels", [&] {
    // The environment's choice is asked for first: a wrong one must not pass unnoticed.
    const auto active = OnTarget(nullptr, [] { return std::string(DefaultTarget().name); });
    all = MeasureTargets();
    std::vector<std::string> names;
    names.reserve(all.size());
    for (const Measured& measured : all) names.push_back(measured.target);
    return fmt::format("{} in use; checked on {}", *active, fmt::join(names, ", "));
  });
  if (kernels) {
    bool good = true;
    for (size_t i = 0; good && i < all.front().json.at("findings").size(); ++i) {
      good = JudgeFinding(checks, all, i);
    }
    if (good) JudgeDigests(checks, all);
  }
  Json report;
  report["ok"] = checks.status() == 0;
  report["checks"] = checks.json();
  std::string tail = "\nThis build does what its documents say.\n";
  if (checks.status() != 0) tail = "\nStopped at the first that failed.\n";
  if (checks.status() == static_cast<int>(ErrorCode::kCorruption)) {
    tail +=
        "Build anew from a clean tree and run make test. If it still fails, POLARQUANT_ISA=scalar\n"
        "runs the plain kernels; report it with this CPU's name.\n";
  }
  Report(report, checks.text() + tail, options.json);
  return checks.status();
}

}  // namespace

void AddVerify(CLI::App& app, const GlobalOptions& /*global*/, Action& action) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command =
      app.add_subcommand("verify", "Check that this build computes what its documents say");
  command->footer(R"(
Runs every check with the kernels of each instruction set this CPU has, prints the worst figure and
its bound, and stops at the first that is above it, with exit status 20: rotation, codebooks, scale
rules, bytes, attention, what a cell store reports, and that all instruction sets agree. It needs no
model. `polarquant doctor` checks the machine, llama.cpp and a model.

Examples:
  polarquant verify
  polarquant verify --json)");
  AddJsonOption(*command, options->json);
  command->callback([&action, options] { action = [options] { return RunVerify(*options); }; });
}

}  // namespace polarquant::cli
