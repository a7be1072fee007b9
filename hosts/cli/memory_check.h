// SPDX-License-Identifier: Apache-2.0
// Host: the command `polarquant`. Whether several contexts fit this machine at once.
#pragma once

#include "llama_session.h"

namespace polarquant::cli {

// Throws Error(kCapacity) if `num_contexts` contexts of this shape with 16-bit caches would need
// more memory than is available: refused now rather than killed later.
void CheckMemory(const Model& model, const Context::Options& shape, int num_contexts);

}  // namespace polarquant::cli
