// SPDX-License-Identifier: Apache-2.0
// Host: Python. One function for each file of bindings; module.cc calls them.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "polarquant/key_profile.h"

namespace polarquant::python {

// What the keys of a layer are coded with, as Python holds it: rows of a batch share one.
struct HeldProfile {
  std::shared_ptr<const KeyProfile> keys;
  int num_kv_heads = 0;
  int head_dim = 0;
};

void BindCodec(nanobind::module_& module);
void BindProfile(nanobind::module_& module);
void BindSequence(nanobind::module_& module);
void BindBatch(nanobind::module_& module);

}  // namespace polarquant::python
