// SPDX-License-Identifier: Apache-2.0
// The three operations we compute. Each throws Error for what it cannot honour; the graph then
// fails, and llama.cpp reports a failed decode.
#pragma once

#include "ggml.h"
#include "host_compute.h"

namespace polarquant::llama {

// SET_ROWS into a cache tensor.
void WriteRows(HostCompute& host, ggml_tensor* node);
// FLASH_ATTN_EXT over cells.
void ComputeAttention(HostCompute& host, ggml_tensor* node);
// ROPE in place over all cells of a key tensor: the K-shift of a moved context.
void ShiftKeys(HostCompute& host, ggml_tensor* node);

}  // namespace polarquant::llama
