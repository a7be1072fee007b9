// SPDX-License-Identifier: Apache-2.0
// Stages 2 and 3: the compiler's vectors, as wide as the instruction set has them. Never passed by
// value: how they travel depends on the instruction set. Internal linkage, as rotation-inl.h says.
#pragma once

#include <cstring>

namespace polarquant {
namespace {

#if defined(__AVX512F__)
inline constexpr int kVectorFloats = 16;
#elif defined(__AVX__)
inline constexpr int kVectorFloats = 8;
#else
inline constexpr int kVectorFloats = 4;
#endif

using FloatVector [[gnu::vector_size(4 * kVectorFloats)]] = float;
using IntVector [[gnu::vector_size(4 * kVectorFloats)]] = int;
using FloatQuad [[gnu::vector_size(16)]] = float;

template <typename Vector>
inline void LoadVector(const float* x, Vector* vector) {
  std::memcpy(vector, x, sizeof *vector);
}
template <typename Vector>
inline void StoreVector(const Vector& vector, float* x) {
  std::memcpy(x, &vector, sizeof vector);
}

}  // namespace
}  // namespace polarquant
