// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. A new empty file, removed at the end.
#pragma once

#include <string>

namespace polarquant::cli {

class TemporaryFile {
 public:
  TemporaryFile();  // throws Error(kHost)
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace polarquant::cli
