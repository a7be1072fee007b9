// SPDX-License-Identifier: Apache-2.0
// What polarquant throws when a request cannot be honoured.
// The message names the value seen, the values allowed, and what to do next.
#pragma once

#include <stdexcept>
#include <string>

namespace polarquant {

// Families by tens; the command line exits with these numbers.
enum class ErrorCode : int {
  kFormat = 10,       // text or bytes that cannot be parsed
  kCorruption = 20,   // bytes that parse but are damaged
  kUnsupported = 30,  // a combination that is not implemented
  kParameter = 40,    // a value outside its range
  kCapacity = 50,     // memory, cells or threads exhausted
  kHost = 60,         // the program or library we run inside said no
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace polarquant
