// SPDX-License-Identifier: Apache-2.0
// Memory counted as the system counts it: bytes of the distinct OS pages that
// ranges lie on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "util/sparse_range.h"

namespace polarquant {

class OsPages {
 public:
  void Add(const void* begin, size_t bytes) {
    const size_t os = SparseRange::OsPageBytes();
    const auto first = reinterpret_cast<uintptr_t>(begin);
    if (bytes > 0) ranges_.emplace_back(first / os, (first + bytes + os - 1) / os);
  }
  size_t bytes() {
    std::ranges::sort(ranges_);
    size_t pages = 0;
    uintptr_t counted = 0;
    for (const auto& [first, last] : ranges_) {
      if (last > counted) pages += last - std::max(first, counted);
      counted = std::max(counted, last);
    }
    return pages * SparseRange::OsPageBytes();
  }

 private:
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges_;
};

}  // namespace polarquant
