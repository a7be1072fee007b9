// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "polarquant/error.h"

namespace polarquant::cli {

std::string Table::Print() const {
  std::vector<size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  const auto print_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i == 0 ? fmt::format("{:<{}}", row[i], widths[i])
                     : fmt::format("  {:>{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  print_row(rows_.front());
  size_t total = 2 * (widths.size() - 1);
  for (const size_t width : widths) total += width;
  text += std::string(total, '-') + "\n";
  for (size_t i = 1; i < rows_.size(); ++i) print_row(rows_[i]);
  return text;
}

std::string PrintBytes(double bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 2, units[unit]);
}

void Report(const Json& json, const std::string& text, const JsonOption& option) {
  if (!option.wanted || option.path != "-") fmt::print("{}", text);
  if (option.wanted) {
    const std::string printed = json.dump(2) + "\n";
    if (option.path == "-") {
      fmt::print("{}", printed);
    } else {
      std::ofstream file(option.path);
      file << printed;
      file.close();
      if (!file) {
        throw Error(ErrorCode::kParameter,
                    fmt::format("cannot write the JSON to {}; name a file in "
                                "a folder that can be written",
                                option.path));
      }
    }
  }
  std::fflush(stdout);
}

Progress::Progress(std::string what, double total)
    : what_(std::move(what)),
      total_(total),
      terminal_(isatty(STDERR_FILENO) != 0),
      start_(std::chrono::steady_clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (terminal_ && drawn_) fmt::print(stderr, "\r\033[K");
}

void Progress::Update(double done, const std::string& detail) {
  const auto now = std::chrono::steady_clock::now();
  const std::chrono::duration<double> pause(terminal_ ? 0.1 : 10.0);
  if (drawn_ && now - last_ < pause) return;
  last_ = now;
  drawn_ = true;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left = done > 0 ? elapsed * (total_ - done) / done : 0;
  const std::string line =
      fmt::format("{}: {:.0f} %, {:.0f} s gone{}{}{}", what_, 100 * done / total_, elapsed,
                  done > 0 ? fmt::format(", about {:.0f} s to go", left) : "",
                  detail.empty() ? "" : ", ", detail);
  fmt::print(stderr, "{}{}{}", terminal_ ? "\r\033[K" : "", line, terminal_ ? "" : "\n");
  std::fflush(stderr);
}

}  // namespace polarquant::cli
