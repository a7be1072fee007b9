// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include <omp.h>

#include <Eigen/Core>
#include <string>
#include <utility>

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

NumberType TypeOf(const AnyArray& array, const std::string& name) {
  if (array.dtype() == nb::dtype<float>()) return NumberType::kF32;
  if (array.dtype() == nb::dlpack::dtype{2, 16, 1}) return NumberType::kF16;
  if (array.dtype() == nb::dlpack::dtype{4, 16, 1}) return NumberType::kBF16;
  throw Error(ErrorCode::kUnsupported, name + " are " + TypeName(array.dtype()) +
                                           ": float32, float16 and bfloat16 are taken");
}

// What cannot be had as an array says why.
[[noreturn]] void Refuse(nb::handle object, const std::string& name, Access access) {
  const std::string type = nb::type_name(object.type()).c_str();
  if (access == Access::kWrite) {
    throw Error(ErrorCode::kParameter,
                name + " are a " + type +
                    " that cannot be written to: pass a writable array or tensor of the CPU");
  }
  throw Error(ErrorCode::kParameter, name + " are a " + type +
                                         " whose memory cannot be read: pass a NumPy array or a "
                                         "tensor with float32, float16 or bfloat16 values");
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

View ViewOf(const AnyArray& array, const char* name) {
  const std::string what(name);
  if (array.device_type() != nb::device::cpu::value) {
    throw Error(ErrorCode::kUnsupported,
                what + " are on " + DeviceName(array.device_type(), array.device_id()) +
                    ", and this polarquant was built without CUDA: it reads memory of the CPU; "
                    "move them there first (for a tensor .cpu())");
  }
  View view;
  view.owner = array;
  view.type = TypeOf(array, what);
  for (size_t i = 0; i < array.ndim(); ++i) {
    view.shape.push_back(static_cast<int64_t>(array.shape(i)));
    view.strides.push_back(array.stride(i));
  }
  if (array.size() > 0 && array.ndim() > 0 && view.shape.back() > 1 && view.strides.back() != 1) {
    throw Error(ErrorCode::kUnsupported, what + " have a last dimension with stride " +
                                             std::to_string(view.strides.back()) +
                                             ": values of a row must be neighbours; make a "
                                             "contiguous copy first");
  }
  view.data = const_cast<void*>(array.data());
  return view;
}

View ViewOf(const AnyBuffer& array, const char* name) {
  View view = ViewOf(AnyArray(array), name);
  for (size_t i = 0; i < view.shape.size(); ++i) {
    if (view.strides[i] != 0 || view.shape[i] <= 1 || array.size() == 0) continue;
    throw Error(ErrorCode::kParameter,
                std::string(name) + " repeat the same memory along dimension " + std::to_string(i) +
                    ": what is written to must be an array of its own");
  }
  return view;
}

View ViewOf(const AnyArray& array, const char* name, std::span<const int64_t> shape) {
  View view = ViewOf(array, name);
  CheckShape(view, name, shape);
  return view;
}

View ViewOf(const AnyBuffer& array, const char* name, std::span<const int64_t> shape) {
  View view = ViewOf(array, name);
  CheckShape(view, name, shape);
  return view;
}

View ViewOf(nb::handle object, const char* name, Access access) {
  if (nb::hasattr(object, "is_neg") && nb::cast<bool>(object.attr("is_neg")())) {
    const std::string what(name);
    throw Error(ErrorCode::kUnsupported, what +
                                             " are negated by a flag that only torch knows; "
                                             "pass " +
                                             what + ".resolve_neg()");
  }
  if (nb::getattr(object, "requires_grad", nb::none()).is(nb::handle(Py_True))) {
    const std::string what(name);
    throw Error(ErrorCode::kParameter, what +
                                           " are a tensor that requires a gradient, and codes "
                                           "have none; pass " +
                                           what + ".detach()");
  }
  AnyArray array;
  AnyBuffer buffer;
  if (access == Access::kRead && nb::try_cast(object, array, false)) return ViewOf(array, name);
  if (access == Access::kWrite && nb::try_cast(object, buffer, false)) return ViewOf(buffer, name);
  Refuse(object, name, access);
}

std::string Spelled(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t length : shape) {
    if (text.size() > 1) text += ", ";
    text += length < 0 ? "any" : std::to_string(length);
  }
  return text + "]";
}

void CheckShape(const View& view, const char* name, std::span<const int64_t> shape) {
  bool fits = view.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) {
    fits = shape[i] < 0 || shape[i] == view.shape[i];
  }
  if (fits) return;
  throw Error(ErrorCode::kParameter, std::string(name) + " have the shape " + Spelled(view.shape) +
                                         ": it must be " + Spelled(shape));
}

void CheckFloats(const View& view, const char* name) {
  if (view.type == NumberType::kF32) return;
  throw Error(ErrorCode::kUnsupported,
              std::string(name) + " are " +
                  (view.type == NumberType::kF16 ? "float16" : "bfloat16") +
                  ": they must be float32");
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

nb::object MatrixOf(std::vector<float> values, int num_rows, int num_columns) {
  auto* kept = new std::vector<float>(std::move(values));
  const nb::capsule owner(kept,
                          [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
  const size_t shape[] = {static_cast<size_t>(num_rows), static_cast<size_t>(num_columns)};
  return nb::cast(nb::ndarray<nb::numpy, float>(kept->data(), 2, shape, owner));
}

int NumThreads(int threads) {
  if (threads < 0) {
    throw Error(ErrorCode::kParameter, "threads is " + std::to_string(threads) +
                                           ": it must be at least 1, or 0 for as many as OpenMP "
                                           "takes");
  }
  if (threads > kMaxThreads) {  // what OpenMP cannot start ends the process
    throw Error(ErrorCode::kParameter, "threads is " + std::to_string(threads) + ": at most " +
                                           std::to_string(kMaxThreads) + " are run");
  }
  return threads > 0 ? threads : omp_get_max_threads();
}

}  // namespace polarquant::python
