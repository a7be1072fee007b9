// SPDX-License-Identifier: Apache-2.0
// Host: Python. Arrays of NumPy, torch and whatever else speaks DLPack or the buffer protocol, as
// the core takes them: on the CPU, f32, f16 or bf16, the last dimension without gaps. Nothing is
// copied or converted: what does not fit is refused by name.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <span>
#include <vector>

#include "polarquant/sequence_cache.h"

namespace polarquant::python {

// Memory of an array, which lives as long as the view does. Strides count values. Views are made,
// copied and destroyed with the GIL held, and used without.
struct View {
  nanobind::ndarray<nanobind::ro> owner;
  void* data = nullptr;
  NumberType type = NumberType::kF32;
  std::vector<int64_t> shape, strides;

  int ndim() const { return static_cast<int>(shape.size()); }
};

enum class Access { kRead, kWrite };

// `name` is what messages call the array, in the plural ("keys"). Throws Error(kParameter) for what
// is no array or may not be written to, Error(kUnsupported) for another device, number type, or
// gaps in the last dimension.
View ViewOf(nanobind::handle array, const char* name, Access access = Access::kRead);
// Throws Error(kParameter) unless it has this shape; -1 stands for any length.
void CheckShape(const View& view, const char* name, std::span<const int64_t> shape);
void CheckFloats(const View& view, const char* name);  // f32, or Error(kUnsupported)

// `count` neighbouring values as f32, and back (rounded to nearest even).
void ToFloats(const void* data, NumberType type, int64_t count, float* floats);
void FromFloats(const float* floats, int64_t count, NumberType type, void* data);
int64_t SizeOf(NumberType type);  // bytes

// 0 is as many as OpenMP would take, which OMP_NUM_THREADS sets. Throws Error(kParameter) for
// fewer.
int NumThreads(int threads);

}  // namespace polarquant::python
