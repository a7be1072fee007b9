// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. A list of checks, as doctor and verify print them.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "polarquant/error.h"
#include "report.h"

namespace polarquant::cli {

class Checks {
 public:
  // Runs a check that returns what it found; an Error is a finding too.
  template <typename Work>
  bool Add(const std::string& name, const Work& work) {
    try {
      return Note(name, work(), 0);
    } catch (const Error& error) {
      return Note(name, error.what(), static_cast<int>(error.code()));
    }
  }
  // A figure that must not be above its bound. NaN is.
  bool Judge(const std::string& name, double figure, double bound, const std::string& what) {
    const bool ok = figure <= bound;
    const std::string judged = fmt::format("{:.3g} {} {:.3g}", figure, ok ? "<=" : ">", bound);
    Note(name, fmt::format("{:<22} {}", judged, what),
         ok ? 0 : static_cast<int>(ErrorCode::kCorruption));
    checks_.back()["figure"] = figure;
    checks_.back()["bound"] = bound;
    return ok;
  }

  int status() const { return status_; }  // of the first that failed, else 0
  const Json& json() const { return checks_; }
  const std::string& text() const { return text_; }

 private:
  bool Note(const std::string& name, const std::string& detail, int status) {
    if (status_ == 0) status_ = status;
    checks_.push_back({{"name", name}, {"ok", status == 0}, {"detail", detail}});
    text_ += fmt::format("{:<5}  {:<15} {}\n", status == 0 ? "ok" : "WRONG", name, detail);
    return status == 0;
  }

  int status_ = 0;
  Json checks_ = Json::array();
  std::string text_;
};

}  // namespace polarquant::cli
