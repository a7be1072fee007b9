// SPDX-License-Identifier: Apache-2.0
// Memory that a host would own, for tests: what is resident in it can be asked of the system, and
// what lies behind it is another's.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <vector>

#include "util/sparse_range.h"

namespace polarquant {

class HostRange {
 public:
  explicit HostRange(size_t bytes) : bytes_(SparseRange::RoundUp(bytes)) {
    void* mapped = mmap(nullptr, bytes_ + GuardBytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    data_ = mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
    std::memset(data_ + bytes_, 0x5c, GuardBytes());
  }
  ~HostRange() { munmap(data_, bytes_ + GuardBytes()); }
  HostRange(const HostRange&) = delete;
  HostRange& operator=(const HostRange&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  size_t resident() const {
    const size_t os = SparseRange::OsPageBytes();
    std::vector<unsigned char> pages(bytes_ / os);
    if (mincore(data_, bytes_, pages.data()) != 0) return ~size_t{0};
    size_t count = 0;
    for (const unsigned char page : pages) count += page & 1u;
    return count * os;
  }
  // Whether nobody touched what lies behind.
  bool intact() const {
    for (size_t i = 0; i < GuardBytes(); ++i) {
      if (data_[bytes_ + i] != std::byte{0x5c}) return false;
    }
    return true;
  }

 private:
  static size_t GuardBytes() { return 8 * SparseRange::OsPageBytes(); }

  size_t bytes_;
  std::byte* data_;
};

}  // namespace polarquant
