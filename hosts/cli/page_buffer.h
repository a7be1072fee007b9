// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Memory for encoded pages, aligned as they must be.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "polarquant/page.h"

namespace polarquant::cli {

class PageBuffer {
 public:
  PageBuffer(const PageFormat& format, size_t num_pages)
      : page_lines_(format.page_bytes() / sizeof(Line)), lines_(page_lines_ * num_pages) {}

  std::byte* page(size_t index) { return lines_[page_lines_ * index].bytes; }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span<const Line>(lines_)); }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  size_t page_lines_;
  std::vector<Line> lines_;
};

}  // namespace polarquant::cli
