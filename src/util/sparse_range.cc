// SPDX-License-Identifier: Apache-2.0
// Memory that is resident only where it was written.
#include "util/sparse_range.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "polarquant/error.h"

namespace polarquant {

size_t SparseRange::OsPageBytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

size_t SparseRange::RoundUp(size_t bytes) {
  const size_t os = OsPageBytes();
  return (bytes + os - 1) / os * os;
}

SparseRange::SparseRange(size_t bytes, std::byte* borrowed) : bytes_(RoundUp(bytes)) {
  if (borrowed != nullptr) {
    if (reinterpret_cast<uintptr_t>(borrowed) % OsPageBytes() != 0) {
      throw Error(ErrorCode::kParameter, "the range for exact rows must start at a multiple of " +
                                             std::to_string(OsPageBytes()) + " bytes");
    }
    data_ = borrowed;
  } else {
    void* mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
      throw Error(ErrorCode::kCapacity, "cannot reserve " + std::to_string(bytes_) +
                                            " bytes of address space: " + std::strerror(errno) +
                                            "; use fewer cells or raise the limit (ulimit -v)");
    }
    data_ = static_cast<std::byte*>(mapped);
    own_ = true;
  }
  // A kernel built without huge pages answers EINVAL: then there is nothing to refuse.
  (void)madvise(data_, bytes_, MADV_NOHUGEPAGE);
}

SparseRange::~SparseRange() {
  if (own_) {
    munmap(data_, bytes_);
  } else {
    (void)madvise(data_, bytes_, MADV_DONTNEED);  // the owner unmaps it; nothing can be done here
  }
}

void SparseRange::Release(size_t first, size_t end) {
  if (first >= end) return;
  const size_t os = OsPageBytes();
  std::byte* begin = data_ + first * os;
  const size_t bytes = (end - first) * os;
  // The system refuses for locked memory only, which stays resident whatever we do.
  if (madvise(begin, bytes, MADV_DONTNEED) != 0) std::memset(begin, 0, bytes);
}

}  // namespace polarquant
