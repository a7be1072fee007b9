// SPDX-License-Identifier: Apache-2.0
// The border to C: nothing may throw through ggml. Every callback runs its body in here; what is
// thrown becomes a reported error (status.h) and the callback's failure value.
#pragma once

#include <exception>

#include "status.h"

namespace polarquant::llama {

template <typename Value, typename Body>
Value Guarded(Value failure, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    LogRefused(error.what());
  } catch (...) {
    LogRefused("unknown exception");
  }
  return failure;
}

template <typename Body>
void Guarded(const Body& body) noexcept {
  Guarded(0, [&] {
    body();
    return 0;
  });
}

}  // namespace polarquant::llama
