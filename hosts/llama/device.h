// SPDX-License-Identifier: Apache-2.0
// The device llama.cpp sees: it owns caches and computes attention over them, and nothing else.
// Every weight and every other operation stays on the CPU backend, with its own fast buffers.
#pragma once

#include "ggml-backend-impl.h"

namespace polarquant::llama {

ggml_backend_reg_t TheRegistry();
ggml_backend_dev_t TheDevice();

// Which nodes we compute. On the way it learns the shapes of heads, and notices caches that
// llama.cpp keeps from us.
bool SupportsOp(const ggml_tensor* node);

}  // namespace polarquant::llama
