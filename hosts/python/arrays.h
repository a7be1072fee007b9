// SPDX-License-Identifier: Apache-2.0
// Host: Python. Arrays of NumPy, torch and whatever else speaks DLPack or the buffer protocol, as
// the core takes them: on the CPU, f32, f16 or bf16, the last dimension without gaps. Nothing is
// copied or converted: what does not fit is refused by name.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "polarquant/sequence_cache.h"

namespace polarquant::python {

using AnyArray = nanobind::ndarray<nanobind::ro>;  // to read from
using AnyBuffer = nanobind::ndarray<>;             // to write to

// Memory of an array, which lives as long as the view does. Strides count values. Views are made,
// copied and destroyed with the GIL held, and used without.
struct View {
  AnyArray owner;
  void* data = nullptr;
  NumberType type = NumberType::kF32;
  std::vector<int64_t> shape, strides;

  int ndim() const { return static_cast<int>(shape.size()); }
};

// `name` is what messages call the array, in the plural ("keys"). Throws Error(kUnsupported) for
// another device, number type, or gaps in the last dimension.
View ViewOf(const AnyArray& array, const char* name);
View ViewOf(const AnyBuffer& array, const char* name);
// The same, and Error(kParameter) unless it has this shape; -1 stands for any length.
View ViewOf(const AnyArray& array, const char* name, std::span<const int64_t> shape);
View ViewOf(const AnyBuffer& array, const char* name, std::span<const int64_t> shape);

// Of an object that people passed: Error(kParameter) if it is no array or may not be written to.
enum class Access { kRead, kWrite };
View ViewOf(nanobind::handle object, const char* name, Access access);

std::string Spelled(std::span<const int64_t> shape);  // "[2, any, 64]"
void CheckShape(const View& view, const char* name, std::span<const int64_t> shape);
void CheckFloats(const View& view, const char* name);  // f32, or Error(kUnsupported)

// `count` neighbouring values as f32, and back (rounded to nearest even).
void ToFloats(const void* data, NumberType type, int64_t count, float* floats);
void FromFloats(const float* floats, int64_t count, NumberType type, void* data);
int64_t SizeOf(NumberType type);  // bytes

// float32 [num_rows, num_columns] of NumPy's, with memory of its own.
nanobind::object MatrixOf(std::vector<float> values, int num_rows, int num_columns);

inline constexpr int kMaxThreads = 1024;
// 0 is as many as OpenMP would take, which OMP_NUM_THREADS sets. Throws Error(kParameter) for
// fewer, and for more than kMaxThreads.
int NumThreads(int threads);

}  // namespace polarquant::python
