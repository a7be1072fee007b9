// SPDX-License-Identifier: Apache-2.0
#include "temporary_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "polarquant/error.h"

namespace polarquant::cli {

TemporaryFile::TemporaryFile() {
  path_ = (std::filesystem::temp_directory_path() / "polarquant-XXXXXX").string();
  const int file = mkstemp(path_.data());
  if (file < 0) {
    throw Error(ErrorCode::kHost, fmt::format("cannot create {}: {}", path_, std::strerror(errno)));
  }
  close(file);
}

TemporaryFile::~TemporaryFile() {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

}  // namespace polarquant::cli
