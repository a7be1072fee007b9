// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. What commands print: a table for people, JSON for programs, and
// progress on the way.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace polarquant::cli {

using Json = nlohmann::ordered_json;

// Aligned columns with a rule under the heading; the first column to the left, others to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings) : rows_{std::move(headings)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string Print() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// "12.3 KiB", "1.50 MiB"
std::string PrintBytes(double bytes);

// --json [FILE]: absent, "-" for standard output, or a file.
struct JsonOption {
  bool wanted = false;
  std::string path;
};

// Prints the table on standard output, or the JSON there if it was asked for without a file.
// Throws Error(kParameter) if the file cannot be written.
void Report(const Json& json, const std::string& text, const JsonOption& option);

// One line on standard error that moves: redrawn on a terminal, repeated every few seconds else.
class Progress {
 public:
  Progress(std::string what, double total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Update(double done, const std::string& detail);

 private:
  std::string what_;
  double total_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace polarquant::cli
