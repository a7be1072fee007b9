// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Ctrl-C: the first ends the work cleanly, the second at once.
#pragma once

#include <exception>

namespace polarquant::cli {

// Thrown where work stops because of a signal; main exits with 128 + its number.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

void CatchInterrupts();
int PendingSignal();  // 0 if none
void ThrowIfInterrupted();

}  // namespace polarquant::cli
