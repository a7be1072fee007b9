// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include <omp.h>

#include <Eigen/Core>
#include <string>

#include "polarquant/error.h"

namespace polarquant::python {
namespace nb = nanobind;
namespace {

std::string DeviceName(int type, int id) {
  const std::string number = ":" + std::to_string(id);
  switch (type) {
    case nb::device::cuda::value:
      return "cuda" + number;
    case nb::device::rocm::value:
      return "rocm" + number;
    case nb::device::metal::value:
      return "metal" + number;
    default:
      return "DLPack device " + std::to_string(type) + number;
  }
}

std::string TypeName(nb::dlpack::dtype type) {
  static constexpr const char* kCodes[] = {"int",    "uint",    "float", "opaque",
                                           "bfloat", "complex", "bool"};
  const std::string bits = std::to_string(type.bits);
  return type.code < std::size(kCodes) ? kCodes[type.code] + bits : "a type of " + bits + " bits";
}

template <typename Array>
View Checked(const Array& array, const char* name) {
  const std::string what(name);
  if (array.device_type() != nb::device::cpu::value) {
    throw Error(ErrorCode::kUnsupported,
                what + " are on " + DeviceName(array.device_type(), array.device_id()) +
                    ", and this polarquant was built without CUDA: it reads memory of the CPU; "
                    "move them there first (for a tensor .cpu())");
  }
  View view;
  if (array.dtype() == nb::dtype<float>()) {
    view.type = NumberType::kF32;
  } else if (array.dtype() == nb::dlpack::dtype{2, 16, 1}) {
    view.type = NumberType::kF16;
  } else if (array.dtype() == nb::dlpack::dtype{4, 16, 1}) {
    view.type = NumberType::kBF16;
  } else {
    throw Error(ErrorCode::kUnsupported, what + " are " + TypeName(array.dtype()) +
                                             ": float32, float16 and bfloat16 are taken");
  }
  for (size_t i = 0; i < array.ndim(); ++i) {
    view.shape.push_back(static_cast<int64_t>(array.shape(i)));
    view.strides.push_back(array.stride(i));
  }
  if (array.ndim() > 0 && view.shape.back() > 1 && view.strides.back() != 1) {
    throw Error(ErrorCode::kUnsupported,
                what + " have a last dimension with stride " + std::to_string(view.strides.back()) +
                    ": values of a row must be neighbours; make a contiguous copy first");
  }
  view.data = const_cast<void*>(static_cast<const void*>(array.data()));
  return view;
}

std::string Spelled(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t length : shape) {
    if (text.size() > 1) text += ", ";
    text += length < 0 ? "any" : std::to_string(length);
  }
  return text + "]";
}

View Shaped(View view, const char* name, std::span<const int64_t> shape) {
  bool fits = view.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] < 0 || shape[i] == view.shape[i];
  }
  if (fits) return view;
  throw Error(ErrorCode::kParameter, std::string(name) + " have the shape " + Spelled(view.shape) +
                                         ": it must be " + Spelled(shape));
}

template <typename Number>
void Widen(const void* data, int64_t count, float* floats) {
  using Numbers = Eigen::Map<const Eigen::Array<Number, Eigen::Dynamic, 1>>;
  Eigen::Map<Eigen::ArrayXf>(floats, count) =
      Numbers(static_cast<const Number*>(data), count).template cast<float>();
}

template <typename Number>
void Narrow(const float* floats, int64_t count, void* data) {
  using Numbers = Eigen::Map<Eigen::Array<Number, Eigen::Dynamic, 1>>;
  Numbers(static_cast<Number*>(data), count) =
      Eigen::Map<const Eigen::ArrayXf>(floats, count).template cast<Number>();
}

}  // namespace

View ViewOf(const AnyArray& array, const char* name) { return Checked(array, name); }
View ViewOf(const AnyBuffer& array, const char* name) { return Checked(array, name); }
View ViewOf(const AnyArray& array, const char* name, std::span<const int64_t> shape) {
  return Shaped(Checked(array, name), name, shape);
}
View ViewOf(const AnyBuffer& array, const char* name, std::span<const int64_t> shape) {
  return Shaped(Checked(array, name), name, shape);
}

void ToFloats(const void* data, NumberType type, int64_t count, float* floats) {
  switch (type) {
    case NumberType::kF32:
      return Widen<float>(data, count, floats);
    case NumberType::kF16:
      return Widen<Eigen::half>(data, count, floats);
    case NumberType::kBF16:
      return Widen<Eigen::bfloat16>(data, count, floats);
  }
}

void FromFloats(const float* floats, int64_t count, NumberType type, void* data) {
  switch (type) {
    case NumberType::kF32:
      return Narrow<float>(floats, count, data);
    case NumberType::kF16:
      return Narrow<Eigen::half>(floats, count, data);
    case NumberType::kBF16:
      return Narrow<Eigen::bfloat16>(floats, count, data);
  }
}

int64_t SizeOf(NumberType type) { return type == NumberType::kF32 ? 4 : 2; }

int NumThreads(int threads) {
  if (threads < 0) {
    throw Error(ErrorCode::kParameter, "threads is " + std::to_string(threads) +
                                           ": it must be at least 1, or 0 for as many as OpenMP "
                                           "takes");
  }
  return threads > 0 ? threads : omp_get_max_threads();
}

}  // namespace polarquant::python
