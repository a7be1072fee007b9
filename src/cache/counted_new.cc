// SPDX-License-Identifier: Apache-2.0
// For tests only: operator new that counts. Apart from whoever uses it, so that nobody inlines it.
#include "cache/counted_new.h"

#include <atomic>
#include <cstdlib>
#include <new>

// The thread sanitizer has one of its own.
#if defined(__SANITIZE_THREAD__)
#define PQ_OWN_NEW 0
#elif defined(__has_feature)
#define PQ_OWN_NEW !__has_feature(thread_sanitizer)
#else
#define PQ_OWN_NEW 1
#endif

namespace {
std::atomic<size_t> g_allocated = 0;
}  // namespace

#if PQ_OWN_NEW
void* operator new(size_t bytes) {
  g_allocated += bytes;
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  g_allocated += bytes;
  return std::malloc(bytes > 0 ? bytes : 1);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

namespace polarquant {

size_t BytesEverAllocated() { return g_allocated; }

}  // namespace polarquant
