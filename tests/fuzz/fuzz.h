// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets share. A target parses, and what parses must print and parse again alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "polarquant/error.h"

namespace polarquant::fuzz {

inline void Expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: broken promise: %s\n", what);
  std::abort();
}

inline std::string_view Text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// A good file with edits, three bytes each: where (low, high), and the byte that goes there. So the
// fuzzer starts from a file that parses, without a corpus.
inline std::string Edited(std::string file, const uint8_t* data, size_t size) {
  for (size_t i = 0; i + 2 < size; i += 3) {
    const size_t at = (data[i] | static_cast<size_t>(data[i + 1]) << 8) % file.size();
    file[at] = static_cast<char>(data[i + 2]);
  }
  return file;
}

}  // namespace polarquant::fuzz
