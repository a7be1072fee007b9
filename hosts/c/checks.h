// SPDX-License-Identifier: Apache-2.0
// Host: C. What a caller in C can get wrong: null pointers, numbers out of range, strides that make
// rows overlap, structs of another size.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "guard.h"
#include "polarquant/scheme.h"

namespace polarquant::c {

inline constexpr int32_t kMaxThreads = 1024;
inline constexpr size_t kMaxStructBytes = 4096;  // more is a struct_size that was never set

template <typename T>
T& Needed(T* pointer, const char* name) {
  if (pointer == nullptr) Refuse(std::string(name) + " is NULL; it is needed");
  return *pointer;
}

template <typename Number>
void CheckRange(const char* name, Number value, Number least, Number most) {
  if (value >= least && value <= most) return;
  Refuse(std::string(name) + " is " + std::to_string(value) + "; it must be between " +
         std::to_string(least) + " and " + std::to_string(most));
}

inline void CheckThreads(int32_t num_threads) {
  CheckRange<int32_t>("num_threads", num_threads, 1, kMaxThreads);
}

inline bool FlagOf(const char* name, int32_t value) {
  CheckRange<int32_t>(name, value, 0, 1);
  return value != 0;
}

inline void CheckReserved(int32_t value) {
  if (value != 0) Refuse("reserved is " + std::to_string(value) + "; it must be 0");
}

inline Role RoleOf(pq_role role) {
  if (role == PQ_KEY) return Role::kKey;
  if (role == PQ_VALUE) return Role::kValue;
  Refuse("role is " + std::to_string(role) + "; it must be PQ_KEY (0) or PQ_VALUE (1)");
}

// A buffer whose size the library knows.
inline void CheckBytes(const char* name, size_t given, size_t needed) {
  if (given == needed) return;
  Refuse(std::string(name) + " is " + std::to_string(given) + "; it must be " +
         std::to_string(needed));
}

// `count` rows of `values` each may not overlap: the stride between them.
inline void CheckStride(const char* name, int64_t stride, int64_t count, int64_t values) {
  if (count <= 1 || stride >= values) return;
  Refuse(std::string(name) + " is " + std::to_string(stride) + "; rows have " +
         std::to_string(values) + " values, so it must be at least that");
}

// A block that is written in two directions: nothing may be written twice.
struct Direction {
  const char* name;
  int64_t stride, count;
};
inline void CheckApart(Direction a, Direction b, int64_t values) {
  CheckStride(a.name, a.stride, a.count, values);
  CheckStride(b.name, b.stride, b.count, values);
  if (a.count <= 1 || b.count <= 1) return;
  if (a.stride > b.stride) std::swap(a, b);
  const int64_t inner = a.stride * (a.count - 1) + values;
  if (b.stride >= inner || (a.stride >= b.stride * (b.count - 1) + values)) return;
  Refuse(std::string(b.name) + " is " + std::to_string(b.stride) + "; with " + a.name + " " +
         std::to_string(a.stride) + " and " + std::to_string(a.count) +
         " of those rows it must be at least " + std::to_string(inner) +
         ", or values would be written twice");
}

// ---- Structs that may grow. `Bytes` of them are known to us; callers may know fewer (older) or
// more (newer), but never fewer than the first version had.
template <typename Struct>
inline constexpr size_t kFirstBytes = 0;
#define PQ_FIRST_VERSION(Struct, last_field)    \
  template <>                                   \
  inline constexpr size_t kFirstBytes<Struct> = \
      offsetof(Struct, last_field) + sizeof(Struct::last_field);
PQ_FIRST_VERSION(pq_library_info, target)
PQ_FIRST_VERSION(pq_codec_info, num_options)
PQ_FIRST_VERSION(pq_codec_option, usual)
PQ_FIRST_VERSION(pq_key_profile, rope_frequencies)
PQ_FIRST_VERSION(pq_observation, rope_dims)
PQ_FIRST_VERSION(pq_page_config, profile)
PQ_FIRST_VERSION(pq_page_sizes, bits_per_value)
PQ_FIRST_VERSION(pq_memory_use, f16_bytes)
PQ_FIRST_VERSION(pq_cell_store_config, profile)
PQ_FIRST_VERSION(pq_sequence_cache_config, profile)
PQ_FIRST_VERSION(pq_rows, head_stride)
PQ_FIRST_VERSION(pq_sequence_state, reserved)
PQ_FIRST_VERSION(pq_attention, lse)
PQ_FIRST_VERSION(pq_attention_sequence, reserved)
PQ_FIRST_VERSION(pq_attention_batch, reserved)
PQ_FIRST_VERSION(pq_executor, stream)

template <typename Struct>
size_t CheckedSize(const Struct* given, const char* name) {
  static_assert(kFirstBytes<Struct> > 0, "PQ_FIRST_VERSION is missing");
  if (given == nullptr) Refuse(std::string(name) + " is NULL; it is needed");
  const size_t bytes = given->struct_size;
  if (bytes < kFirstBytes<Struct> || bytes > kMaxStructBytes) {
    Refuse(std::string(name) + ".struct_size is " + std::to_string(bytes) + "; it must be " +
           std::to_string(sizeof(Struct)) +
           ": set it to sizeof the struct, or start from its INIT");
  }
  return bytes;
}

// The caller's struct as this version of the library knows it: `usual` (the struct's INIT) where
// the caller's is shorter.
template <typename Struct>
Struct Taken(const Struct* given, const char* name, const Struct& usual) {
  const size_t bytes = CheckedSize(given, name);
  const auto* raw = reinterpret_cast<const std::byte*>(given);
  const auto unknown = [](std::byte b) { return b != std::byte{0}; };
  if (bytes > sizeof(Struct) && std::any_of(raw + sizeof(Struct), raw + bytes, unknown)) {
    throw Error(ErrorCode::kUnsupported,
                std::string(name) + " sets fields that this version of the library does not know " +
                    "(struct_size is " + std::to_string(bytes) + ", it knows " +
                    std::to_string(sizeof(Struct)) + "); use a newer library, or leave them 0");
  }
  Struct taken = usual;
  std::memcpy(&taken, raw, std::min(bytes, sizeof(Struct)));
  return taken;
}

// Fills the caller's struct as far as it goes, and its rest with 0.
template <typename Struct>
void Give(Struct value, Struct* out, const char* name) {
  value.struct_size = CheckedSize(out, name);
  auto* raw = reinterpret_cast<std::byte*>(out);
  const size_t known = std::min(value.struct_size, sizeof(Struct));
  if (value.struct_size > known) std::memset(raw + known, 0, value.struct_size - known);
  std::memcpy(raw, &value, known);
}

}  // namespace polarquant::c
