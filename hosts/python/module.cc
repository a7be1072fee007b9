// SPDX-License-Identifier: Apache-2.0
// Host: Python. The module polarquant._core: what the package's Python files stand on. Errors of
// the core become the exceptions of polarquant/errors.py.
#include <nanobind/nanobind.h>

#include <exception>
#include <new>

#include "arrays.h"
#include "bindings.h"
#include "polarquant/attention.h"
#include "polarquant/error.h"

namespace nb = nanobind;

namespace polarquant::python {
namespace {

void Raise(ErrorCode code, const char* message) {
  const nb::object type =
      nb::module_::import_("polarquant.errors").attr("of_code")(static_cast<int>(code));
  PyErr_SetString(type.ptr(), message);
}

void Translate(const std::exception_ptr& thrown, void* /*payload*/) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    Raise(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    Raise(ErrorCode::kCapacity, "out of memory");
  }
}

}  // namespace
}  // namespace polarquant::python

NB_MODULE(_core, module) {
  namespace pq = polarquant::python;
  module.doc() = "The native half of polarquant. The package's own functions are the interface.";
  nb::register_exception_translator(pq::Translate);
  module.attr("__version__") = PQ_VERSION;
  module.attr("MAX_THREADS") = pq::kMaxThreads;
  module.def(
      "active_target", [] { return polarquant::DefaultTarget().name; },
      "The kernels that run here: 'avx512', 'avx2' or 'scalar'. The environment variable\n"
      "POLARQUANT_ISA forces one; ParameterError if this CPU or build lacks it.");
  pq::BindCodec(module);
  pq::BindProfile(module);
  pq::BindSequence(module);
  pq::BindBatch(module);
}
