// SPDX-License-Identifier: Apache-2.0
// Whole files. `what` names the file's kind in errors: "the policy".
#pragma once

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>

#include "polarquant/error.h"

namespace polarquant {

inline std::string ReadFile(const std::string& path, const std::string& what) {
  std::ifstream file(path, std::ios::binary);
  const bool opened = file.is_open();
  std::string bytes;
  std::array<char, 65536> part;
  while (file.read(part.data(), part.size()) || file.gcount() > 0) {
    bytes.append(part.data(), static_cast<size_t>(file.gcount()));
  }
  if (!opened || file.bad()) {
    throw Error(ErrorCode::kHost, "cannot read " + what + " " + path + ": " + std::strerror(errno));
  }
  return bytes;
}

// Written beside and renamed, so that a crash leaves the old file.
inline void WriteFile(const std::string& path, const std::string& what, std::string_view bytes) {
  const std::string fresh = path + ".new";
  std::ofstream file(fresh, std::ios::binary | std::ios::trunc);
  file << bytes;
  file.close();
  if (!file || std::rename(fresh.c_str(), path.c_str()) != 0) {
    const std::string cause = std::strerror(errno);
    std::remove(fresh.c_str());
    throw Error(ErrorCode::kHost, "cannot write " + what + " " + path + ": " + cause);
  }
}

}  // namespace polarquant
