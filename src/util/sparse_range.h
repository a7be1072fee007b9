// SPDX-License-Identifier: Apache-2.0
// A virtual range of zero-filled memory of which only what was written is resident,
// and parts of which can be handed back to the operating system.
//
// Huge pages are refused on the range: one written row would make 2 MiB resident, which neither
// memory() nor the user could explain.
#pragma once

#include <cstddef>

namespace polarquant {

class SparseRange {
 public:
  // Maps `bytes` (rounded up to whole OS pages) without reserving them, or adopts `borrowed`, which
  // must be aligned to the OS page. Throws Error(kCapacity) if the system refuses, kParameter if
  // `borrowed` is not aligned.
  SparseRange(size_t bytes, std::byte* borrowed);
  ~SparseRange();
  SparseRange(const SparseRange&) = delete;
  SparseRange& operator=(const SparseRange&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // Hands back the OS pages [first, end): they read as zeros afterwards. Does not throw.
  void Release(size_t first, size_t end);
  void ReleaseAll() { Release(0, bytes_ / OsPageBytes()); }

  static size_t OsPageBytes();
  static size_t RoundUp(size_t bytes);

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  bool own_ = false;
};

}  // namespace polarquant
