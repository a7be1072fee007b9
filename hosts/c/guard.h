// SPDX-License-Identifier: Apache-2.0
// Host: C. The wall between exceptions and callers in C: every function of the library runs inside
// Guard, which turns what is thrown into a status and a message.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "polarquant/error.h"
#include "polarquant/polarquant.h"

namespace polarquant::c {

inline constexpr size_t kMessageBytes = 4096;

// Keeps the message for pq_last_error of this thread, cut at kMessageBytes. Allocates nothing, so
// that running out of memory can be reported.
void RememberError(std::string_view message) noexcept;

template <typename Body>
pq_status Guard(const Body& body) noexcept {
  try {
    body();
    return PQ_OK;
  } catch (const Error& error) {
    RememberError(error.what());
    return static_cast<pq_status>(error.code());
  } catch (const std::bad_alloc&) {
    RememberError("out of memory; free some, or ask for less at a time");
    return PQ_ERROR_CAPACITY;
  } catch (const std::length_error&) {
    RememberError("out of memory: more was asked for than any machine has; ask for less");
    return PQ_ERROR_CAPACITY;
  } catch (const std::exception& error) {
    RememberError(error.what());
    return PQ_ERROR_INTERNAL;
  } catch (...) {
    RememberError("something was thrown that is no error; this is a mistake in polarquant");
    return PQ_ERROR_INTERNAL;
  }
}

[[noreturn]] inline void Refuse(const std::string& message) {
  throw Error(ErrorCode::kParameter, message);
}

// Runs `make`, which returns a new handle, and hands it out; *handle is null if that fails.
template <typename Handle, typename Make>
pq_status Create(Handle** handle, const char* name, const Make& make) noexcept {
  return Guard([&] {
    if (handle == nullptr) Refuse(std::string(name) + " is NULL; give the place of the new handle");
    *handle = nullptr;
    *handle = make().release();
  });
}

template <typename Handle>
pq_status Destroy(Handle* handle) noexcept {
  delete handle;
  return PQ_OK;
}

}  // namespace polarquant::c
