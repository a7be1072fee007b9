// SPDX-License-Identifier: Apache-2.0
// The one place that starts threads: an OpenMP team, so that we share the workers of a host that
// uses OpenMP too (llama.cpp's CPU backend does) instead of competing with them.
#pragma once

#include <omp.h>

#include <cstdint>
#include <exception>

namespace polarquant {

// Runs body(thread, team) on `num_threads` threads. The first exception is rethrown to the caller.
template <typename Body>
void Parallel(int num_threads, const Body& body) {
  if (num_threads <= 1) {
    body(0, 1);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel num_threads(num_threads)
  {
    try {
      body(omp_get_thread_num(), omp_get_num_threads());
    } catch (...) {
#pragma omp critical(polarquant_failure)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

// Waits for the whole team; only inside Parallel, and by all its threads.
inline void TeamBarrier() {
#pragma omp barrier
}

// Splits [0, count) into even contiguous shares.
struct Share {
  int64_t begin, end;
};
inline Share ShareOf(int64_t count, int thread, int team) {
  return {count * thread / team, count * (thread + 1) / team};
}

}  // namespace polarquant
