// SPDX-License-Identifier: Apache-2.0
// Host: C. The last message of each thread.
#include <algorithm>
#include <cstring>

#include "guard.h"

namespace polarquant::c {
namespace {

thread_local char last_message[kMessageBytes] = "";

}  // namespace

void RememberError(std::string_view message) noexcept {
  constexpr std::string_view kCut = " ...";
  const size_t room = kMessageBytes - 1;
  const bool cut = message.size() > room;
  const size_t bytes = cut ? room - kCut.size() : message.size();
  std::memmove(last_message, message.data(), bytes);
  if (cut) std::memcpy(last_message + bytes, kCut.data(), kCut.size());
  last_message[cut ? room : bytes] = '\0';
}

}  // namespace polarquant::c

const char* pq_last_error(void) { return polarquant::c::last_message; }
