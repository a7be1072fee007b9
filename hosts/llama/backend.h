// SPDX-License-Identifier: Apache-2.0
// The stream of one llama_context: runs the nodes the scheduler gives us.
#pragma once

#include "ggml-backend-impl.h"

namespace polarquant::llama {

// Throws Error(kHost) if the host has no CPU backend.
ggml_backend_t StartBackend();
// ggml_backend_set_n_threads_t.
void SetThreads(ggml_backend_t backend, int num_threads);

}  // namespace polarquant::llama
