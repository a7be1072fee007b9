// SPDX-License-Identifier: Apache-2.0
// Host: Python. One function for each file of bindings; module.cc calls them.
#pragma once

#include <nanobind/nanobind.h>

namespace polarquant::python {

void BindCodec(nanobind::module_& module);
void BindProfile(nanobind::module_& module);
void BindSequence(nanobind::module_& module);
void BindBatch(nanobind::module_& module);

}  // namespace polarquant::python
