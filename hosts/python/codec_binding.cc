// SPDX-License-Identifier: Apache-2.0
// Host: Python. The table of codecs.
#include <nanobind/nanobind.h>

#include <string>

#include "bindings.h"
#include "polarquant/codec.h"

namespace nb = nanobind;

namespace polarquant::python {
namespace {

nb::dict Facts(const CodecInfo& info) {
  nb::dict facts;
  facts["name"] = std::string(info.name).c_str();
  facts["summary"] = std::string(info.summary).c_str();
  return facts;
}

nb::list Table() {
  nb::list table;
  for (const CodecInfo& info : Codecs()) table.append(Facts(info));
  return table;
}

}  // namespace

void BindCodec(nb::module_& module) { module.def("codecs", &Table, "Every codec of the table."); }

}  // namespace polarquant::python
