// SPDX-License-Identifier: Apache-2.0
// The plug-in's memory: buffers that reserve addresses and commit a page when it is first written.
// Cache tensors allocated in one (llama.cpp names them cache_k_lN, cache_v_lN) become KvTensors;
// everything else in our buffers (compute graphs, recurrent states) is plain host memory.
//
// There are two buffer types. The first says that it is host memory, so that nothing is copied;
// a buffer that receives a cache tensor changes to the second, which does not, so that only we
// touch those rows.
//
// Saved state (get_tensor, set_tensor) has rows of the cache's f16 size, bit-exact both ways: exact
// rows as they are, coded rows as records (cell_store.h). ggml lets neither call fail. A row that
// cannot be saved is therefore filled with ones (which no saved row begins with) after the error
// was reported; loading such a row, or a damaged one, marks the cache, and computing on it fails
// until it is cleared.
#pragma once

#include "ggml-backend-impl.h"
#include "kv_cache.h"

namespace polarquant::llama {

ggml_backend_buffer_type_t HostBufferType();
ggml_backend_buffer_type_t CacheBufferType();
bool IsOwnBufferType(ggml_backend_buffer_type_t type);

// The cache tensor beneath a view; null if there is none, or if it is one of a dry run.
KvTensor* KvTensorOf(const ggml_tensor* tensor);
// Whether the tensor is a cache tensor in a buffer of ours, dry runs included.
bool IsOwnCache(const ggml_tensor* tensor);

}  // namespace polarquant::llama
