// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. `run`: a llama.cpp program as a child, its plug-in's status file
// watched, so that a cache that is not ours never goes unnoticed.
#pragma once

#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report.h"

namespace polarquant::cli {

// What the plug-in has reported so far: one JSON object a line, appended while the program runs.
class StatusLog {
 public:
  explicit StatusLog(std::string path) : path_(std::move(path)) {}
  // Reads what is new. A line not yet ended waits for the next call.
  void Poll();

  bool loaded() const { return loaded_; }
  bool made_cache() const { return made_cache_; }
  bool attended() const { return attended_; }
  // Why the plug-in cannot do its work; empty if it can.
  const std::string& trouble() const { return trouble_; }
  const Json& last_status() const { return last_status_; }  // of the exit event, or null

 private:
  void Take(const std::string& line);

  std::string path_;
  std::streamoff position_ = 0;
  bool loaded_ = false;
  bool made_cache_ = false;
  bool attended_ = false;
  std::string trouble_;
  Json last_status_;
};

struct ChildEnd {
  int status = 0;          // as a shell would give it: 128 + signal if one ended it
  bool by_signal = false;  // ended by a signal, or after one that we were sent
};

// Why a program that ended cannot have used our cache; empty if it did.
std::string JudgeEnd(const StatusLog& log, const ChildEnd& end, const std::string& program);

// Runs argv[0] with these variables added (an empty optional removes one) and watches `log`.
// Signals sent to us are passed on. If the plug-in reports trouble the program is ended: SIGTERM,
// SIGKILL after five seconds. Throws Error(kHost) if it cannot be started.
using Variables = std::vector<std::pair<std::string, std::optional<std::string>>>;
ChildEnd RunChild(const std::vector<std::string>& argv, const Variables& variables, StatusLog& log);

}  // namespace polarquant::cli
